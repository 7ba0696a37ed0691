"""Pairs in two folders, as the networks of other repositories read them and `tafm-loss blur` writes them."""

import re
from pathlib import Path

from examples.deblurring.data.files import ALL, matched, named, split_folder, sub_folders
from examples.deblurring.data.pairs import Pair

__all__ = ["flat_pairs", "scene_of"]

FORMS = (("input", "target"), ("blur", "sharp"))
# What `precrop` adds to the name of an image.
CROP_NUMBER = re.compile(r"_s\d{3,}$")
IMAGE_NUMBER = re.compile(r"[-_][^-_]*$")


def flat_pairs(root: Path, split: str, *, one_scene: bool = False) -> list[Pair]:
    """Return the pairs of `root/split/{input,target}/NAME.png` or `root/split/{blur,sharp}/NAME.png`.

    `root/split_{input,target}` and `root/split_{blur,sharp}` are read as well. NAME may hold sub-folders, and the two
    suffixes may differ. A scene is the part of a name before its last - or _: GOPR0384_11_00 for
    GOPR0384_11_00-000001, GOPR0384_11_00_000001 and the crop GOPR0384_11_00-000001_s003. No count is asserted.

    Args:
        root: a folder.
        split: a part of it, or "all" for two folders in the root itself.
        one_scene: whether all images are of one scene, which is called as the root is: frames of a video whose names
            are numbers alone would otherwise be a scene each.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it does not hold two such folders, or an image has no counterpart.
    """
    blurred, sharp = _two_folders(root, split)
    pairs = [
        Pair(first, second, scene_of(name.replace("/", "-")), name.replace("/", "-"))
        for name, first, second in matched(blurred, sharp)
    ]
    return [pair._replace(scene=root.resolve().name) for pair in pairs] if one_scene else pairs


def scene_of(name: str) -> str:
    """Return the scene of an image by its name."""
    return IMAGE_NUMBER.sub("", CROP_NUMBER.sub("", name))


def _two_folders(root: Path, split: str) -> tuple[Path, Path]:
    if split != ALL and not (root / split).is_dir():
        if len(beside := _forms(root, f"{split}_")) == 1:
            return beside[0]
        if inside := _forms(root):
            raise ValueError(f'{root} itself holds {" and ".join(path.name for path in inside[0])}: pass split="{ALL}"')
    folder = split_folder(root, split)
    forms = _forms(folder)
    if len(forms) == 1:
        return forms[0]
    expected = " or ".join(" and ".join(form) for form in FORMS)
    held = named(path.name for path in sub_folders(folder)) or "no folder"
    raise ValueError(f"{folder} must hold the folders {expected}, and holds {held}")


def _forms(folder: Path, prefix: str = "") -> list[tuple[Path, Path]]:
    pairs = [(folder / f"{prefix}{blurred}", folder / f"{prefix}{sharp}") for blurred, sharp in FORMS]
    return [pair for pair in pairs if all(path.is_dir() for path in pair)]
