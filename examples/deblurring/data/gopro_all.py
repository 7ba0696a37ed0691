"""GOPRO_Large_all: the 240 frames per second that GOPRO_Large was averaged from, Nah et al., CVPR 2017 (CC BY 4.0)."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from examples.deblurring.data.files import images_below
from examples.deblurring.data.gopro import SCENES, gopro_scenes
from examples.deblurring.data.pairs import PairDataset, PairSample, check_counts, count_scenes
from tafm_loss.blur import from_linear, to_linear
from tafm_loss.images import read_pixels

__all__ = ["AveragedFrames", "Exposure", "official_length"]

# How many frames a blurred image of GOPRO_Large averages, by the camera's number in the name of the scene.
LENGTHS = {"GOPR0372": 7, "GOPR0378": 13}
USUAL_LENGTH = 11


class Exposure(NamedTuple):
    """The frames of an exposure, which are averaged; the middle one is the sharp image. See also `PairName`."""

    frames: tuple[Path, ...]
    scene: str
    name: str

    @property
    def sharp(self) -> Path:
        """The frame in the middle."""
        return self.frames[len(self.frames) // 2]


class AveragedFrames(PairDataset):
    """Pairs made of the frames in `root/{train,test}/SCENE/NNNNNN.png`: an average, and the frame in its middle.

    The frames of a scene are cut into windows of the length that GOPRO_Large averages, which do not overlap, from the
    first frame on. `frames` are averaged about the middle of each: the sharp images are the same for every number of
    them. Averages are rounded to 8 bits as those of the set are. Names are SCENE-NNNNNN with the number of the sharp
    frame; GOPRO_Large has other numbers, and its first window may begin elsewhere.

    Levels of graded blur, from which a backbone is tuned, are `tafm_loss.blur.FrameExposures`.

    Args:
        root: the folder GOPRO_Large_all.
        split: "train" or "test".
        frames: how many, odd, from 3 to the length of the windows; None averages whole windows: 7 frames in the scenes
            GOPR0372, 13 in GOPR0378, 11 in all others.
        gamma: averages in linear light under this gamma, as the set's `blur_gamma` with 2.2; None averages the values
            as they are stored.
        complete: whether the scenes must be the published ones. How many frames they have was not published.

    Raises:
        NotADirectoryError: if a folder is missing.
        ValueError: if a scene is missing or too short, or its frames are not numbered without a gap; for an even or too
            large number of frames, another split or a gamma that makes no sense; and on reading, if frames differ in
            size or cannot be read.
    """

    pairs: list[Exposure]

    def __init__(
        self, root: Path, split: str, *, frames: int | None = None, gamma: float | None = None, complete: bool = True
    ) -> None:
        if frames is not None and (isinstance(frames, bool) or not isinstance(frames, int) or frames < 3):
            raise ValueError(f"frames must be an odd number, 3 or more, or None, got {frames!r}")
        scenes = gopro_scenes(root, split)
        exposures = [exposure for scene in scenes for exposure in _exposures(scene, frames)]
        if complete:
            check_counts(
                f"GOPRO_Large_all {split} in {root}", count_scenes(exposures), dict.fromkeys(SCENES[split], None)
            )
        super().__init__(exposures)
        if gamma is not None and not 1 <= gamma <= 4:
            raise ValueError(f"gamma must be from 1 to 4, or None, got {gamma!r}")
        self.gamma = gamma

    def __getitem__(self, index: int) -> PairSample:
        """Read and average the frames of one pair."""
        exposure = self.pairs[index]
        sharp = read_pixels(exposure.sharp)
        total = torch.zeros(sharp.shape)
        for path in exposure.frames:
            frame = read_pixels(path)
            if frame.shape != sharp.shape:
                raise ValueError(f"{path} and {exposure.sharp} differ in size: keep frames of one video in a folder")
            total += frame if self.gamma is None else to_linear(frame.float() / 255, self.gamma)
        return PairSample(self._average(total, len(exposure.frames)), sharp)

    def _average(self, total: Tensor, count: int) -> Tensor:
        average = total / count
        if self.gamma is not None:
            average = from_linear(average, self.gamma) * 255
        # An odd number of integers has no average that lies half-way between two.
        return average.round().to(torch.uint8)


def official_length(scene: str) -> int:
    """Return how many frames a blurred image of GOPRO_Large averages in a scene."""
    return LENGTHS.get(scene.partition("_")[0], USUAL_LENGTH)


def _exposures(scene: Path, count: int | None) -> list[Exposure]:
    length = official_length(scene.name)
    count = length if count is None else count
    if count > length or count % 2 == 0:
        raise ValueError(f"frames must be odd and at most {length}, the windows of scene {scene.name}; got {count}")
    frames = images_below(scene)
    _check_consecutive(scene, list(frames))
    paths, skipped = list(frames.values()), (length - count) // 2
    if len(paths) < length:
        raise ValueError(f"{scene} holds {len(paths)} frames, but an exposure takes {length}")
    windows = [paths[start : start + length] for start in range(0, len(paths) - length + 1, length)]
    return [
        Exposure(tuple(window[skipped : skipped + count]), scene.name, f"{scene.name}-{window[length // 2].stem}")
        for window in windows
    ]


def _check_consecutive(scene: Path, names: list[str]) -> None:
    if strange := next((name for name in names if not name.isdecimal()), None):
        raise ValueError(f"{scene} holds {strange}; frames must be called by their number, such as 000047.png")
    for before, after in pairwise(names):
        if int(after) != int(before) + 1:
            raise ValueError(
                f"{scene}: frame {int(before) + 1} is missing between {before} and {after}; only consecutive frames "
                "make an exposure: restore it"
            )
