"""Which scenes there are to learn from: folders, video frames, tensors, data sets."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from tafm_loss.blur.frames import FrameExposures
from tafm_loss.images import IMAGE_SUFFIXES, check_images, check_unit_range, find_images, read_header, read_pixels

__all__ = ["Graded", "Images", "Kept", "Source", "UnusableImageError", "none_usable", "open_source"]

MEMORY_BYTES = 2**30
# Messages name this many images and count the others.
NAMED = 3

Images: TypeAlias = str | Path | Tensor | FrameExposures | Dataset[Any] | Iterable[Any]
T = TypeVar("T")


class Graded(NamedTuple):
    """A scene: `levels` (L, 3, H, W) float32 in [0, 1], sharp first; `extents` (L,) px. A sharp image has one level.

    Of N scenes: (L, N, 3, H, W) and (L, N).
    """

    levels: Tensor
    extents: Tensor


class UnusableImageError(Exception):
    """One image cannot be used; the message names it and says why."""


class Kept(Generic[T]):
    """A reader whose items stay in memory: the first that are asked for, up to a limit; for any number of threads.

    Args:
        read: returns an item by its number.
        size: of an item, in bytes.
        limit: bytes in all; by default 1 GiB.
    """

    def __init__(self, read: Callable[[int], T], size: Callable[[T], int], limit: int | None = None) -> None:
        self._read = read
        self._size = size
        self._left = MEMORY_BYTES if limit is None else limit
        self._items: dict[int, T] = {}
        self._lock = threading.Lock()

    def __call__(self, number: int) -> T:
        """Return an item, read now or before."""
        if number in self._items:
            return self._items[number]
        # Without the lock: reading is what there are several threads for.
        item = self._read(number)
        with self._lock:
            size = self._size(item)
            if number not in self._items and size <= self._left:
                self._items[number] = item
                self._left -= size
        return item


class Source:
    """Scenes by number, read when asked for, from any number of threads.

    Args:
        read: returns an item, or raises UnusableImageError; the same item each time.
        scenes: the scene that each item belongs to.
        description: what the items are, in words.
    """

    def __init__(self, read: Callable[[int], Graded], scenes: Sequence[Hashable], description: str) -> None:
        self.scenes = scenes
        self.description = description
        self.faults: dict[int, str] = {}
        self._read = read

    def __getitem__(self, index: int) -> Graded:
        """Read an item.

        Raises:
            UnusableImageError: if it cannot be used.

        Warns:
            UserWarning: when this is found, once for each item.
        """
        if index in self.faults:
            raise UnusableImageError(self.faults[index])
        try:
            return self._read(index)
        except UnusableImageError as error:
            fault = str(error)
            # Of several threads that find it, the one whose text is kept warns.
            if self.faults.setdefault(index, fault) is fault:
                warnings.warn(f"skipped: {fault}", stacklevel=2)
            raise

    def first_usable(self, indices: Iterable[int]) -> Graded | None:
        """Return the first of these items that can be used, or None."""
        for index in indices:
            with contextlib.suppress(UnusableImageError):
                return self[index]
        return None


def open_source(images: Images, minimum_size: int) -> Source:
    """Return the scenes that `images` holds.

    Args:
        images: one of
            a folder, searched with its sub-folders; images of one sub-folder are one scene, unless there is but one;
            `FrameExposures` that begin with the sharp frame;
            a tensor (M, 3, H, W), or a sequence of tensors (3, H, W), in [0, 1];
            a map-style data set of such tensors, or of tuples that begin with one;
            any other iterable of these, which is read to its end and held in memory.
            Grey is repeated and alpha dropped.
        minimum_size: px, the least height and width; smaller images are skipped.

    Raises:
        TypeError: for anything else, or tensors that are not floating.
        ValueError: if there is no folder, no image in it, or none that can be used; for tensors of another shape or
            range, and exposures that do not begin with one frame. Items of a data set are checked when they are read.

    Warns:
        UserWarning: once, if images are skipped or become RGB; and later, for what shows on reading only.
    """
    if isinstance(images, str | Path):
        return _open_folder(Path(images), minimum_size)
    if isinstance(images, FrameExposures):
        return _open_frames(images, minimum_size)
    if isinstance(images, Tensor):
        check_images(images, "images", channels=None)
    elif not isinstance(images, list | tuple | Mapping | bytes | IterableDataset) and (
        hasattr(images, "__len__") and hasattr(images, "__getitem__")
    ):
        return _open_dataset(images, minimum_size)
    if not isinstance(images, Iterable) or isinstance(images, Mapping | bytes):
        raise TypeError(
            "images must be a folder, FrameExposures, a tensor (M, 3, H, W), or a sequence, data set or iterable of "
            f"tensors (3, H, W), got {type(images).__name__}"
        )
    return _open_tensors(list(images), minimum_size)


def none_usable(faults: Iterable[str]) -> ValueError:
    """Return the error to raise when all images are skipped for these reasons."""
    told = list(faults)
    return ValueError(f"images must hold some that can be used; all are skipped ({len(told)}): {_some(told)}")


def _open_folder(folder: Path, minimum_size: int) -> Source:
    if folder.is_file():
        raise ValueError(f"images must be a folder; {folder} is a file")
    if not folder.is_dir():
        raise ValueError(f"images must be a folder, tensors or exposures; there is no folder {folder}")
    found = find_images(folder)
    if not found:
        raise ValueError(f"there is no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in {folder}")
    paths, skipped, converted = [], [], []
    for path in found:
        try:
            size, mode = read_header(path)
            _check_size(size[::-1], minimum_size, str(path))
        except (OSError, ValueError, UnusableImageError) as error:
            skipped.append(str(error))
            continue
        paths.append(path)
        if mode != "RGB":
            converted.append(f"{path} ({mode})")
    _tell(skipped, converted, len(found))
    kept = Kept(lambda index: read_pixels(paths[index]), lambda pixels: pixels.nbytes)

    def read(index: int) -> Graded:
        try:
            return _sharp(kept(index).float() / 255)
        except (OSError, ValueError) as error:
            raise UnusableImageError(str(error)) from error

    # The frames of a video lie in a folder of their own.
    files = [path.relative_to(folder) for path in paths]
    scenes = [file if file.parent == Path() else file.parent for file in files]
    return Source(read, scenes if len(set(scenes)) > 1 else files, f"{len(paths)} images of {folder.resolve().name}")


def _open_frames(exposures: FrameExposures, minimum_size: int) -> Source:
    counts = exposures.counts
    if len(counts) < 3:
        raise ValueError(f"exposures must have a sharp, a weak and a strong level or more, got counts {counts}")
    if counts[0] != 1:
        raise ValueError(f"exposures must begin with the sharp frame, got counts {counts}; write counts={(1, *counts)}")

    def read(index: int) -> Graded:
        try:
            exposure = exposures[index]
        except (OSError, ValueError) as error:
            raise UnusableImageError(str(error)) from error
        _check_size(exposure.levels.shape[-2:], minimum_size, exposure.centre)
        # Also false where an extent is NaN, for want of texture to measure it by.
        if not (exposure.extents.diff() > 0).all():
            extents = ", ".join(f"{extent:.3g}" for extent in exposure.extents.tolist())
            raise UnusableImageError(f"the exposure about {exposure.centre} has extents that do not rise: {extents} px")
        return Graded(exposure.levels, exposure.extents)

    kept = Kept(read, lambda graded: graded.levels.nbytes)
    return Source(kept, exposures.scenes, f"{len(set(exposures.scenes))} scenes of frames")


def _open_tensors(items: Sequence[Any], minimum_size: int) -> Source:
    images, skipped, converted = [], [], []
    for index, item in enumerate(items):
        name = f"images[{index}]"
        image = _checked(item, name)
        try:
            _check_size(image.shape[1:], minimum_size, name)
        except UnusableImageError as error:
            skipped.append(str(error))
            continue
        images.append(image)
        if len(image) != 3:
            converted.append(f"{name} ({len(image)} channels)")
    _tell(skipped, converted, len(items))
    return Source(lambda index: _sharp(_as_rgb(images[index])), range(len(images)), f"{len(images)} tensors")


def _open_dataset(dataset: Any, minimum_size: int) -> Source:
    # Data sets are written for one thread in a process.
    lock = threading.Lock()
    first_converted: list[int] = []

    def read(index: int) -> Graded:
        name = f"images[{index}]"
        with lock:
            try:
                item = dataset[index]
            except OSError as error:
                raise UnusableImageError(f"{name}: {error}") from error
            image = _checked(item, name)
            if len(image) != 3 and not first_converted:
                first_converted.append(index)
                warnings.warn(f"images become RGB, the first of them {name} ({len(image)} channels)", stacklevel=2)
        _check_size(image.shape[1:], minimum_size, name)
        return _sharp(_as_rgb(image))

    count = len(dataset)
    return Source(read, range(count), f"{count} images of {type(dataset).__name__}")


def _checked(item: Any, name: str) -> Tensor:
    """Return the image of an item, of 1, 3 or 4 channels, or raise an error that names it."""
    image = item[0] if isinstance(item, list | tuple) and item else item
    if isinstance(image, Tensor) and (image.dim() != 3 or len(image) not in (1, 3, 4)):
        raise ValueError(f"{name} must have shape (3, H, W), got {tuple(image.shape)}; pass single images, not batches")
    check_images(image[None] if isinstance(image, Tensor) else image, name, channels=None)
    check_unit_range(image, name)
    return image.detach()  # type: ignore[no-any-return]


def _as_rgb(image: Tensor) -> Tensor:
    """Return a floating image of 1, 3 or 4 channels as float32 RGB in [0, 1] on the CPU."""
    rgb = image.expand(3, -1, -1) if len(image) == 1 else image[:3]
    return rgb.to("cpu", torch.float32).clamp(0, 1)


def _check_size(size: Sequence[int], minimum_size: int, name: str) -> None:
    if min(size) < minimum_size:
        raise UnusableImageError(
            f"{name} must be at least {minimum_size} px high and wide, got {size[0]} x {size[1]} px"
        )


def _sharp(image: Tensor) -> Graded:
    return Graded(image[None], torch.zeros(1))


def _tell(skipped: Sequence[str], converted: Sequence[str], count: int) -> None:
    """Warn of what opening found, or raise ValueError if it left nothing."""
    if skipped and len(skipped) == count:
        raise none_usable(skipped)
    found = [("are skipped", skipped), ("become RGB", converted)]
    parts = [f"{len(texts)} of {count} images {what}: {_some(texts)}" for what, texts in found if texts]
    if parts:
        warnings.warn(". ".join(parts), stacklevel=2)


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more
