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


def flat_pairs(root: Path, split: str) -> list[Pair]:
    """Return the pairs of `root/split/{input,target}/NAME.png` or `root/split/{blur,sharp}/NAME.png`.

    NAME may hold sub-folders, and the two suffixes may differ. A scene is the part of a name before its last - or _:
    GOPR0384_11_00 for GOPR0384_11_00-000001, GOPR0384_11_00_000001 and the crop GOPR0384_11_00-000001_s003. No count is
    asserted.

    Args:
        root: a folder.
        split: a folder in it, or "all" for two folders in the root itself.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it does not hold two such folders, or an image has no counterpart.
    """
    blurred, sharp = _two_folders(root, split)
    return [
        Pair(first, second, scene_of(name.replace("/", "-")), name.replace("/", "-"))
        for name, first, second in matched(blurred, sharp)
    ]


def scene_of(name: str) -> str:
    """Return the scene of an image by its name."""
    return IMAGE_NUMBER.sub("", CROP_NUMBER.sub("", name))


def _two_folders(root: Path, split: str) -> tuple[Path, Path]:
    if split != ALL and not (root / split).is_dir() and _forms(root):
        raise ValueError(f'{root} itself holds {" and ".join(_forms(root)[0])}: pass split="{ALL}"')
    folder = split_folder(root, split)
    forms = _forms(folder)
    if len(forms) == 1:
        return folder / forms[0][0], folder / forms[0][1]
    expected = " or ".join(" and ".join(form) for form in FORMS)
    held = named(path.name for path in sub_folders(folder)) or "no folder"
    raise ValueError(f"{folder} must hold the folders {expected}, and holds {held}")


def _forms(folder: Path) -> list[tuple[str, str]]:
    return [form for form in FORMS if all((folder / name).is_dir() for name in form)]
