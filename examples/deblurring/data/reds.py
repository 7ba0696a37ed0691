"""REDS: 270 sequences of 100 frames with public sharp images, Nah et al., CVPR workshops 2019 (CC BY 4.0)."""

from pathlib import Path

from examples.deblurring.data.files import existing_folder, matched
from examples.deblurring.data.gopro import check_split
from examples.deblurring.data.pairs import Pair, check_counts, count_scenes

__all__ = ["reds_pairs"]

SEQUENCES = {"train": 240, "val": 30, "val300": 30}
# How many frames each sequence has.
SCENES = {
    split: {f"{sequence:03}": 10 if split == "val300" else 100 for sequence in range(count)}
    for split, count in SEQUENCES.items()
}


def reds_pairs(root: Path, split: str, *, blur: str = "blur", complete: bool = True) -> list[Pair]:
    """Return the pairs in `root/{train,val}/{train,val}_{sharp,blur,...}/SSS/NNNNNNNN.png`, named SSS-NNNNNNNN.

    Args:
        root: the folder REDS.
        split: "train" (24,000 pairs of 240 sequences), "val" (3,000 of 30), or "val300": every tenth frame of "val",
            those whose number ends in 9, as the preparation script of HINet (Chen et al., CVPRW 2021) takes them.
        blur: "blur", "blur_jpeg", as HINet and NAFNet use, or what else follows `train_` in the name of a folder.
        complete: whether the sequences and their lengths must be the published ones.

    Raises:
        NotADirectoryError: if a folder is missing.
        ValueError: if a pair, or something of the published set, is missing; for another split.
    """
    check_split(split, SCENES)
    part = split.removesuffix("300")
    folder = existing_folder(root, part)
    pairs = [
        Pair(blurred, sharp, name.split("/")[0], name.replace("/", "-"))
        for name, blurred, sharp in matched(
            existing_folder(folder, f"{part}_{blur}"), existing_folder(folder, f"{part}_sharp")
        )
        if split != "val300" or name.endswith("9")
    ]
    if complete:
        check_counts(f"REDS {split} in {root}", count_scenes(pairs), SCENES[split])
    return pairs
