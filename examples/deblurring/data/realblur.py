"""RealBlur: 4,738 pairs of 232 scenes by two cameras behind one lens, Rim et al., ECCV 2020 (CC BY 4.0)."""

import re
from pathlib import Path

from examples.deblurring.data.files import existing_folder, named, natural_key
from examples.deblurring.data.pairs import INCOMPLETE, Pair

__all__ = ["FOLDERS", "LIST_FILE", "realblur_pairs"]

FOLDERS = {
    "J": "RealBlur-J_ECC_IMCORR_centroid_itensity_ref",
    "R": "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref",
}
LIST_FILE = "RealBlur_{camera}_{split}_list.txt"
# Pairs and scenes.
COUNTS = {"train": (3758, 182), "test": (980, 50)}
# The two files of a pair, from the folder of their scene on.
HALVES = re.compile(r"gt/gt_(\w+)\.\w+ blur/blur_\1\.\w+")


def realblur_pairs(camera: str, root: Path, split: str, *, complete: bool = True) -> list[Pair]:
    """Return the pairs that the authors' list file names, as sceneNNN_blur_M.

    Their lists are `RealBlur_{J,R}_{train,test}_list.txt`: on each line the sharp file, the blurred file and a space,
    relative to the folder that holds the images' folder; no line feed ends the last line. They lie in that folder or
    above it.

    The lists are followed as they are: a scene is called as the folder in them. The authors' script of evaluation takes
    the images of its scene244 from a folder scene244_reflect; nothing is renamed here.

    Args:
        camera: "J", JPEGs of the camera, or "R", made of its raw images.
        root: the folder that holds `RealBlur-J_ECC_IMCORR_centroid_itensity_ref`, or that folder.
        split: "train" (3,758 pairs of 182 scenes) or "test" (980 of 50).
        complete: whether all of the published pairs must be there; else those of the list are taken that are.

    Raises:
        NotADirectoryError: if there is no folder of images.
        FileNotFoundError: if there is no list file.
        ValueError: if files are missing, a line is not sceneNNN/gt/gt_M.png and sceneNNN/blur/blur_M.png, or counts are
            not the published ones; if a scene is in both parts; for another split.
    """
    if split not in COUNTS:
        raise ValueError(f"split must be one of {', '.join(COUNTS)}, got {split!r}")
    folder = FOLDERS[camera]
    home = root.parent if root.name == folder else existing_folder(root, folder).parent
    list_file = _find_list(home, camera, split)
    pairs = _read_list(list_file, home)
    if complete:
        _check_published(list_file, pairs, split)
    _check_disjoint(home, camera, pairs, split)
    present = _present(pairs, list_file, complete)
    return sorted(present, key=lambda pair: natural_key(pair.name))


def _find_list(home: Path, camera: str, split: str) -> Path:
    name = LIST_FILE.format(camera=camera, split=split)
    for folder in (home, home.absolute().parent):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"there is no {name} in {home} or above it; it comes with the data set, and lies in `datalist` of "
        "rimchang/SRN-Deblur on GitHub"
    )


def _read_list(list_file: Path, home: Path) -> list[Pair]:
    pairs = []
    # Editors on Windows put a byte order mark at the beginning.
    for number, line in enumerate(list_file.read_text(encoding="utf-8-sig").splitlines(), 1):
        paths = line.split()
        if not paths:
            continue
        if len(paths) != 2:
            raise ValueError(f"{list_file}, line {number}: expected the sharp and the blurred file, got {line!r}")
        sharp, blurred = (home / path for path in paths)
        folder = blurred.parent.parent
        if sharp.parent.parent != folder or not HALVES.fullmatch(f"{_half(sharp)} {_half(blurred)}"):
            raise ValueError(
                f"{list_file}, line {number}: expected SCENE/gt/gt_M.png and SCENE/blur/blur_M.png of one scene, "
                f"got {line.strip()!r}"
            )
        scene = folder.name
        pairs.append(Pair(blurred, sharp, scene, f"{scene}_{blurred.stem}"))
    return pairs


def _half(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _check_published(list_file: Path, pairs: list[Pair], split: str) -> None:
    found = len(pairs), len({pair.scene for pair in pairs})
    if found != COUNTS[split]:
        raise ValueError(
            "{} lists {} pairs of {} scenes, expected {} of {}: get the official list, or take it as it is {}".format(
                list_file, *found, *COUNTS[split], INCOMPLETE
            )
        )


def _check_disjoint(home: Path, camera: str, pairs: list[Pair], split: str) -> None:
    """Raise ValueError if the other part, where its list is there, has scenes of this one."""
    (other,) = set(COUNTS) - {split}
    try:
        others = _read_list(_find_list(home, camera, other), home)
    except FileNotFoundError:
        return
    if shared := sorted({pair.scene for pair in pairs} & {pair.scene for pair in others}, key=natural_key):
        raise ValueError(f"{len(shared)} scenes are in both the train and the test list in {home}: {named(shared)}")


def _present(pairs: list[Pair], list_file: Path, complete: bool) -> list[Pair]:
    there = [(pair.blurred.is_file(), pair.sharp.is_file()) for pair in pairs]
    needed = [complete or any(halves) for halves in there]
    missing = [
        path
        for pair, halves, need in zip(pairs, there, needed, strict=True)
        for path, exists in zip((pair.blurred, pair.sharp), halves, strict=True)
        if need and not exists
    ]
    if missing:
        raise ValueError(
            f"{len(missing)} files that {list_file} names are missing: {named(missing)}; restore them"
            + (f", or take what is there {INCOMPLETE}" if complete else ", or remove their counterparts")
        )
    present = [pair for pair, need in zip(pairs, needed, strict=True) if need]
    if not present:
        raise ValueError(f"none of the {len(pairs)} pairs that {list_file} names is there")
    return present
