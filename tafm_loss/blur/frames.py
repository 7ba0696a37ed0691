"""Blur of real exposures: averages of consecutive video frames."""

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tafm_loss._files import user_path
from tafm_loss._text import natural_key
from tafm_loss.blur.light import checked_transfer, from_linear, to_linear
from tafm_loss.blur.motion import exposure_extent, frame_motion, path_length
from tafm_loss.images import IMAGE_SUFFIXES, find_images, read_image

__all__ = ["Exposure", "FrameExposures"]

# The digits that number a frame are the last ones in its name: GOPR0372_07_00-000047.png is frame 47.
FRAME_NUMBER = re.compile(r"\d+(?=\D*$)")


class Exposure(NamedTuple):
    """Averages of consecutive frames about one centre frame, from the fewest frames to the most.

    `levels` (L, 3, H, W) in [0, 1]; `extents` (L,) in px, measured between the frames by `exposure_extent`, NaN where
    they have no texture to measure by; `counts`, how many frames each level averages; `scene`, its path below the
    root; `centre`, the path of the centre frame.
    """

    levels: Tensor
    extents: Tensor
    counts: tuple[int, ...]
    scene: str
    centre: str


class FrameExposures(Dataset[Exposure]):
    """Exposures of graded length from folders of video frames: the scenes of GOPRO_Large_all, or your own.

    Every folder at or below `root` that holds image files is a scene; their names end in the number of the frame.
    GOPRO_Large, the set of pairs, will not do: its sharp frames are not consecutive. A longer exposure averages more
    frames about the same centre frame, as in Nah et al., "Deep Multi-scale Convolutional Neural Network for Dynamic
    Scene Deblurring" (CVPR 2017), who made the GoPro set so, and in the TAFM paper. The paper's two rules are
    `counts=(1, 3, 5)`, and `counts=(1, 7, 15), least_path=25`: 15 frames or more, until they have moved by 25 px.

    It differs from the paper's code in five points. Frames are in natural order, frame 2 before frame 10. Every level
    is centred on the centre frame; the paper's 6 of 15 frames lie half a frame off it, hence 7 here. Frames are
    averaged in linear light; `transfer=None` averages the stored values as the paper and the set's `blur` folders do,
    2.2 is the gamma of its `blur_gamma`. The frames that remain at the end of a scene are dropped. Motion is measured
    on the tiles of `frame_motion`, not on corners.

    Exposures of a scene do not overlap. Their frames are read when one is asked for. For scenes of different size,
    give the `DataLoader` `batch_size=None`, or a `collate_fn` that crops.

    Args:
        root: a folder.
        counts: how many frames each level averages; odd, strictly rising. One frame is the frame itself, bitwise.
        least_path: px. An exposure starts with `counts[-1]` frames and takes in two more until its `path_length`
            is this long; the other counts grow in proportion, to the nearest odd number, but a count of 1 stays. All
            frames are read once, here. None averages `counts` frames whatever moves.
        transfer: "srgb", a gamma, or None to average the values as they are.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it holds no scene or no exposure; if a scene has fewer than `counts[-1]` frames or a gap in their
            numbers; for options that make no sense; and on reading, for frames of different size or files that are no
            images.

    Warns:
        UserWarning: for each scene that nowhere moves by `least_path`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as root:
        ...     for number in range(1, 6):
        ...         Image.new("RGB", (64, 48), (0, 40 * number, 0)).save(f"{root}/{number}.png")
        ...     sharp, weak, strong = FrameExposures(root)[0].levels
        >>> strong.shape
        torch.Size([3, 48, 64])
    """

    def __init__(
        self,
        root: str | Path,
        counts: Sequence[int] = (1, 3, 5),
        *,
        least_path: float | None = None,
        transfer: str | float | None = "srgb",
    ) -> None:
        self.counts = _checked_counts(counts)
        self.transfer = checked_transfer(transfer)
        if least_path is not None and not 0 < least_path < math.inf:
            raise ValueError(f"least_path must be a length above 0 px, or None, got {least_path}")
        self.least_path = least_path
        self._windows: list[_Window] = []
        for scene, frames in _find_scenes(user_path(root)):
            _check_scene(scene, frames, self.counts[-1])
            windows = _windows(scene, frames, self.counts, least_path)
            if not windows:
                warnings.warn(f"scene {scene!r} nowhere moves by {least_path} px; it has no exposure", stacklevel=2)
            self._windows += windows
        if not self._windows:
            raise ValueError(f"no scene in {root} moves by {least_path} px; lower least_path")

    @property
    def scenes(self) -> list[str]:
        """The scene of each exposure: its path below the root."""
        return [window.scene for window in self._windows]

    def __len__(self) -> int:
        """Return the number of exposures."""
        return len(self._windows)

    def __getitem__(self, index: int) -> Exposure:
        """Read the frames of one exposure and average them."""
        scene, frames, counts = self._windows[index]
        middle = len(frames) // 2
        averaged = torch.tensor(counts).view(-1, 1, 1, 1)
        light = torch.zeros(len(counts), 1, 1, 1)
        steps: list[Tensor] = []
        for place, (image, step) in enumerate(_read_frames(scene, frames)):
            light = light + (averaged // 2 >= abs(place - middle)) * to_linear(image, self.transfer)
            if place == middle:
                centre = image
            if step is not None:
                steps.append(step)
        levels = from_linear(light / averaged, self.transfer)
        if counts[0] == 1:
            levels[0] = centre
        extents = torch.tensor([exposure_extent(torch.stack(steps), count) for count in counts])
        return Exposure(levels, extents, counts, scene, str(frames[middle]))


class _Window(NamedTuple):
    """The frames of one exposure, and how many of them, about the middle, each level averages."""

    scene: str
    frames: tuple[Path, ...]
    counts: tuple[int, ...]


def _windows(scene: str, frames: Sequence[Path], counts: tuple[int, ...], least_path: float | None) -> list[_Window]:
    longest = counts[-1]
    if least_path is None:
        starts = range(0, len(frames) - longest + 1, longest)
        return [_Window(scene, tuple(frames[start : start + longest]), counts) for start in starts]
    windows = []
    start, path = 0, 0.0
    for place, (_, step) in enumerate(_read_frames(scene, frames)):
        if step is not None and place > start:
            path += path_length(step[None])
        length = place + 1 - start
        if length >= longest and length % 2 == 1 and path >= least_path:
            # In proportion, each the nearest odd number; a sharp frame stays one frame.
            grown = tuple(1 if count == 1 else 2 * (count * length // (2 * longest)) + 1 for count in counts)
            windows.append(_Window(scene, tuple(frames[start : place + 1]), grown))
            start, path = place + 1, 0.0
    return windows


def _read_frames(scene: str, frames: Sequence[Path]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield each frame and how its tiles moved since the frame before; None for the first. Two are held at a time."""
    first = previous = read_image(frames[0])
    yield first, None
    for path in frames[1:]:
        image = read_image(path)
        if image.shape != first.shape:
            raise ValueError(
                f"scene {scene!r}: {path} has {image.shape[1]} x {image.shape[2]} px, but {frames[0].name} has "
                f"{first.shape[1]} x {first.shape[2]} px; the frames of a scene must be of one size"
            )
        yield image, frame_motion(previous, image)
        previous = image


def _find_scenes(root: Path) -> list[tuple[str, list[Path]]]:
    """Return the scenes below a folder by name, and their frames, both in natural order."""
    if not root.is_dir():
        raise NotADirectoryError(f"root must be a folder of video frames; there is no folder {root}")
    scenes: dict[str, list[Path]] = {}
    for path in find_images(root):
        scenes.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    if not scenes:
        raise ValueError(f"there is no frame ({', '.join(sorted(IMAGE_SUFFIXES))}) in {root} or a folder below it")
    return [
        (scene, sorted(scenes[scene], key=lambda path: natural_key(path.name)))
        for scene in sorted(scenes, key=natural_key)
    ]


def _check_scene(scene: str, frames: Sequence[Path], least: int) -> None:
    """Raise ValueError unless a scene has enough frames, numbered without a gap."""
    if len(frames) < least:
        raise ValueError(
            f"scene {scene!r} in {frames[0].parent} has {len(frames)} frames, but an exposure takes {least}; "
            "remove the scene or lower counts"
        )
    numbers = []
    for path in frames:
        digits = FRAME_NUMBER.search(path.stem)
        if digits is None:
            raise ValueError(f"scene {scene!r}: the name of {path} holds no number; name frames like 000047.png")
        numbers.append(digits[0])
    gaps = [int(after) - int(before) for before, after in pairwise(numbers)]
    spacing = min(gaps)
    if spacing < 1:
        place = gaps.index(spacing)
        raise ValueError(
            f"scene {scene!r}: the number of {frames[place + 1]} does not rise after {frames[place].name}; "
            "keep the frames of one video in a folder, each of them once"
        )
    for path, following, number, gap in zip(frames, frames[1:], numbers, gaps, strict=False):
        if gap != spacing:
            missing = str(int(number) + spacing).zfill(len(number))
            raise ValueError(
                f"scene {scene!r}: {path.with_stem(FRAME_NUMBER.sub(missing, path.stem))} is missing between "
                f"{path.name} and {following.name}; only consecutive frames make an exposure: restore it, or split the "
                "scene into two folders there"
            )


def _checked_counts(counts: Sequence[int]) -> tuple[int, ...]:
    if isinstance(counts, str) or not isinstance(counts, Iterable):
        raise TypeError(f"counts must be a sequence of odd numbers such as (1, 3, 5), got {counts!r}")
    values = tuple(counts)
    odd = all(value % 2 == 1 and value >= 1 for value in values)
    if not values or not odd or any(a >= b for a, b in pairwise(values)) or values[-1] == 1:
        raise ValueError(f"counts must be odd numbers that rise strictly and end above 1, got {values}")
    return tuple(int(value) for value in values)
