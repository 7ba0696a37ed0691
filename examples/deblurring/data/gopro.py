"""GOPRO_Large: 3,214 pairs of 33 videos, Nah et al., CVPR 2017 (CC BY 4.0)."""

from pathlib import Path

from examples.deblurring.data.files import existing_folder, matched, sub_folders
from examples.deblurring.data.pairs import Pair, check_counts, count_scenes

__all__ = ["SCENES", "check_split", "gopro_pairs", "gopro_scenes"]

# How many pairs each scene has.
SCENES: dict[str, dict[str, int]] = {
    "train": {
        "GOPR0372_07_00": 100,
        "GOPR0372_07_01": 75,
        "GOPR0374_11_00": 150,
        "GOPR0374_11_01": 80,
        "GOPR0374_11_02": 100,
        "GOPR0374_11_03": 48,
        "GOPR0378_13_00": 110,
        "GOPR0379_11_00": 100,
        "GOPR0380_11_00": 60,
        "GOPR0384_11_01": 100,
        "GOPR0384_11_02": 100,
        "GOPR0384_11_03": 100,
        "GOPR0384_11_04": 100,
        "GOPR0385_11_00": 100,
        "GOPR0386_11_00": 100,
        "GOPR0477_11_00": 80,
        "GOPR0857_11_00": 100,
        "GOPR0868_11_01": 100,
        "GOPR0868_11_02": 100,
        "GOPR0871_11_01": 100,
        "GOPR0881_11_00": 100,
        "GOPR0884_11_00": 100,
    },
    "test": {
        "GOPR0384_11_00": 100,
        "GOPR0384_11_05": 100,
        "GOPR0385_11_01": 100,
        "GOPR0396_11_00": 100,
        "GOPR0410_11_00": 134,
        "GOPR0854_11_00": 100,
        "GOPR0862_11_00": 77,
        "GOPR0868_11_00": 100,
        "GOPR0869_11_00": 100,
        "GOPR0871_11_00": 100,
        "GOPR0881_11_01": 100,
    },
}
BLURS = ("blur", "blur_gamma")
FLAT_FOLDERS = ({"input", "target"}, {"blur", "sharp"})


def gopro_pairs(root: Path, split: str, *, blur: str = "blur", complete: bool = True) -> list[Pair]:
    """Return the pairs in `root/{train,test}/SCENE/{blur,blur_gamma,sharp}/NNNNNN.png`, named SCENE-NNNNNN.

    Args:
        root: the folder GOPRO_Large.
        split: "train" (2,103 pairs of 22 scenes) or "test" (1,111 of 11).
        blur: "blur", the average of the frames as they are stored, on which all later papers report; or "blur_gamma",
            the average in linear light, which the authors of the set use.
        complete: whether the scenes and their counts must be the published ones.

    Raises:
        NotADirectoryError: if a folder is missing.
        ValueError: if a pair, or something of the published set, is missing; for another split or blur.
    """
    if blur not in BLURS:
        raise ValueError(f"blur must be one of {', '.join(BLURS)}, got {blur!r}")
    pairs = [
        Pair(blurred, sharp, scene.name, f"{scene.name}-{name}")
        for scene in gopro_scenes(root, split)
        for name, blurred, sharp in matched(existing_folder(scene, blur), existing_folder(scene, "sharp"))
    ]
    if complete:
        check_counts(f"GOPRO_Large {split} in {root}", count_scenes(pairs), SCENES[split])
    return pairs


def gopro_scenes(root: Path, split: str) -> list[Path]:
    """Return the folders of the scenes of a part of GOPRO_Large or GOPRO_Large_all.

    Raises:
        NotADirectoryError: if there is no folder of that part.
        ValueError: for another part, if it is empty, or if it is laid out as the data set "flat".
    """
    check_split(split, SCENES)
    folder = existing_folder(root, split)
    scenes = sub_folders(folder)
    names = {scene.name for scene in scenes}
    if any(names >= flat for flat in FLAT_FOLDERS):
        raise ValueError(f'{folder} holds {" and ".join(sorted(names))}, not scenes: open it as the data set "flat"')
    if not scenes:
        raise ValueError(f"there is no scene in {folder}")
    return scenes


def check_split(split: str, splits: dict[str, dict[str, int]]) -> None:
    """Raise ValueError if there is no such part of a data set."""
    if split not in splits:
        raise ValueError(f"split must be one of {', '.join(splits)}, got {split!r}")
