"""HIDE: 8,422 pairs of people in motion, Shen et al., "Human-Aware Motion Deblurring" (ICCV 2019)."""

import re
from pathlib import Path

from examples.deblurring.data.files import existing_folder, images_below, named, natural_key
from examples.deblurring.data.pairs import INCOMPLETE, Pair

__all__ = ["hide_pairs"]

FOLDERS = {"train": ("train",), "test": ("test/test-close-ups", "test/test-long-shot")}
COUNTS = {"train": 6397, "test": 2025}
# 12fromGOPR1096.MP4.png is frame 12 of the recording GOPR1096.
RECORDING = re.compile(r"from([^.]+)")


def hide_pairs(root: Path, split: str, *, complete: bool = True) -> list[Pair]:
    """Return the pairs of `root/{train,test/test-close-ups,test/test-long-shot}/NAME.png` and `root/GT/NAME.png`.

    A scene is a recording, GOPR1096 for 12fromGOPR1096.MP4.png: images of one recording are much alike, whether they
    are among the close-ups or the long shots. Sharp images may lack the .MP4 of their blurred one.

    Args:
        root: the folder HIDE_dataset.
        split: "train" (6,397 pairs) or "test" (2,025, close-ups and long shots).
        complete: whether their number must be the published one.

    Raises:
        NotADirectoryError: if a folder is missing.
        ValueError: if sharp images or pairs are missing, two blurred ones are called the same, or a name does not say
            its recording; for another split.
    """
    if split not in FOLDERS:
        raise ValueError(f"split must be one of {', '.join(FOLDERS)}, got {split!r}")
    sharp = images_below(existing_folder(root, "GT"))
    blurred: dict[str, Path] = {}
    for folder in FOLDERS[split]:
        for name, path in images_below(existing_folder(root, folder)).items():
            if name in blurred:
                raise ValueError(f"{blurred[name]} and {path} have one name, for which there is one sharp image only")
            blurred[name] = path
    targets = {name: sharp.get(name, sharp.get(name.removesuffix(".MP4"))) for name in blurred}
    if single := [blurred[name] for name, target in targets.items() if target is None]:
        raise ValueError(
            f"{len(single)} of {len(blurred)} images have no counterpart in {root / 'GT'}: {named(single)}; "
            "restore the missing files, or remove these"
        )
    if complete and len(blurred) != COUNTS[split]:
        raise ValueError(
            f"HIDE {split} in {root}: {len(blurred)} pairs, expected {COUNTS[split]}; restore them, or take what is "
            f"there {INCOMPLETE}"
        )
    pairs = [Pair(blurred[name], target, _recording(blurred[name]), name) for name, target in targets.items() if target]
    return sorted(pairs, key=lambda pair: (natural_key(pair.scene), natural_key(pair.name)))


def _recording(path: Path) -> str:
    recording = RECORDING.search(path.name)
    if recording is None:
        raise ValueError(f"the name of {path} does not say its recording; expected 12fromGOPR1096.png or the like")
    return recording[1]
