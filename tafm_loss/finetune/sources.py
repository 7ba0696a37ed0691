"""Which scenes there are to learn from: folders, video frames, tensors, data sets."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from tafm_loss._files import user_path
from tafm_loss.blur.frames import FrameExposures
from tafm_loss.images import IMAGE_SUFFIXES, check_images, check_unit_range, find_images, read_header, read_pixels

__all__ = ["Graded", "Images", "Source", "UnusableImageError", "none_usable", "open_source"]

MEMORY_BYTES = 2**30  # of decoded images, over all items of a source
NAMED = 3  # Messages name so many images and count the others.

Images: TypeAlias = str | Path | Tensor | FrameExposures | Dataset[Any] | Iterable[Any]
S = TypeVar("S")
T = TypeVar("T")


class Graded(NamedTuple):
    """A scene: `levels` (L, 3, H, W) float32 in [0, 1], sharp first; `extents` (L,) px. A sharp image has one level.

    Of N scenes: (L, N, 3, H, W) and (L, N).
    """

    levels: Tensor
    extents: Tensor


class UnusableImageError(Exception):
    """One image cannot be used; the message names it and says why."""


class Source:
    """Items by number, read when asked for, from any number of threads; `read` may raise UnusableImageError.

    `scenes` are those that the items belong to; `description` says in words what they are; `names` tell them apart.
    """

    def __init__(
        self,
        read: Callable[[int], Graded],
        scenes: Sequence[Hashable],
        description: str,
        names: Iterable[str] | None = None,
    ) -> None:
        self.scenes = scenes
        self.description = description
        self.names = list(map(str, scenes) if names is None else names)
        self.faults: dict[int, str] = {}
        self._read = read

    def __getitem__(self, index: int) -> Graded:
        """Read an item; one that cannot be used raises UnusableImageError, and is warned about once."""
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
    """Return the scenes that `images` holds, of which those below `minimum_size` px in height or width are skipped.

    Images of one sub-folder are one scene, unless there is but one. Grey is repeated and alpha dropped. An iterable
    that is no data set is read to its end and held in memory.

    Raises:
        TypeError: for anything that `finetune_backbone` does not take, or tensors that are not floating.
        ValueError: if there is no folder, no image in it, or none that can be used; for tensors of another shape or
            range, and exposures that do not begin with one frame. Items of a data set are checked when they are read.
    """
    if isinstance(images, str | Path):
        return _open_folder(user_path(images), minimum_size)
    if isinstance(images, FrameExposures):
        return _open_frames(images, minimum_size)
    if isinstance(images, Tensor):
        check_images(images, "images", channels=None)
    # An IterableDataset inherits a __getitem__ that does not work.
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

    def look(path: Path) -> tuple[Path, str]:
        with _unusable(OSError, ValueError):
            size, mode = read_header(path)
        _check_size(size[::-1], minimum_size, str(path))
        return path, "" if mode == "RGB" else f"{path} ({mode})"

    paths = _sifted(found, look)
    kept = _kept(lambda index: read_pixels(paths[index]), lambda pixels: pixels.nbytes)

    def read(index: int) -> Graded:
        with _unusable(OSError, ValueError):
            return _sharp(kept(index).float() / 255)

    # The frames of a video lie in a folder of their own.
    files = [path.relative_to(folder) for path in paths]
    scenes = [file if file.parent == Path() else file.parent for file in files]
    description = f"{len(paths)} images of {folder.resolve().name}"
    return Source(read, scenes if len(set(scenes)) > 1 else files, description, [file.as_posix() for file in files])


def _open_frames(exposures: FrameExposures, minimum_size: int) -> Source:
    counts = exposures.counts
    if len(counts) < 3:
        raise ValueError(f"exposures must have a sharp, a weak and a strong level or more, got counts {counts}")
    if counts[0] != 1:
        raise ValueError(f"exposures must begin with the sharp frame, got counts {counts}; write counts={(1, *counts)}")

    def read(index: int) -> Graded:
        with _unusable(OSError, ValueError):
            exposure = exposures[index]
        _check_size(exposure.levels.shape[-2:], minimum_size, exposure.centre)
        # Also false where an extent is NaN, for want of texture to measure it by.
        if not (exposure.extents.diff() > 0).all():
            extents = ", ".join(f"{extent:.3g}" for extent in exposure.extents.tolist())
            raise UnusableImageError(f"the exposure about {exposure.centre} has extents that do not rise: {extents} px")
        return Graded(exposure.levels, exposure.extents)

    kept = _kept(read, lambda graded: graded.levels.nbytes)
    return Source(kept, exposures.scenes, f"{len(set(exposures.scenes))} scenes of frames")


def _open_tensors(items: Sequence[Any], minimum_size: int) -> Source:
    def look(number: int) -> tuple[Tensor, str]:
        image = _checked(items[number], f"images[{number}]", minimum_size)
        return image, "" if len(image) == 3 else f"images[{number}] ({len(image)} channels)"

    images = _sifted(range(len(items)), look)
    return Source(lambda index: _sharp(_as_rgb(images[index])), range(len(images)), f"{len(images)} tensors")


def _open_dataset(dataset: Any, minimum_size: int) -> Source:
    lock = threading.Lock()  # Data sets are written for one thread in a process.
    converted: list[str] = []

    def read(index: int) -> Graded:
        name = f"images[{index}]"
        with lock:
            with _unusable(OSError, prefix=f"{name}: "):
                item = dataset[index]
            image = _checked(item, name, minimum_size)
            if len(image) != 3 and not converted:
                converted.append(name)
                warnings.warn(f"images become RGB, the first of them {name} ({len(image)} channels)", stacklevel=2)
        return _sharp(_as_rgb(image))

    count = len(dataset)
    return Source(read, range(count), f"{count} images of {type(dataset).__name__}")


def _kept(read: Callable[[int], T], size: Callable[[T], int]) -> Callable[[int], T]:
    """Return `read` with a memory of the items that were asked for first, up to MEMORY_BYTES; for any threads."""
    items: dict[int, T] = {}
    lock = threading.Lock()

    def read_once(index: int) -> T:
        if index in items:
            return items[index]
        item = read(index)  # without the lock: reading is what there are several threads for
        with lock:
            if index not in items and sum(map(size, items.values())) + size(item) <= MEMORY_BYTES:
                items[index] = item
        return item

    return read_once


def _checked(item: Any, name: str, minimum_size: int) -> Tensor:
    """Return the image of an item, of 1, 3 or 4 channels, or raise an error that names it."""
    image = item[0] if isinstance(item, list | tuple) and item else item
    if isinstance(image, Tensor) and (image.dim() != 3 or len(image) not in (1, 3, 4)):
        raise ValueError(f"{name} must have shape (3, H, W), got {tuple(image.shape)}; pass single images, not batches")
    check_images(image[None] if isinstance(image, Tensor) else image, name, channels=None)
    check_unit_range(image, name)
    _check_size(image.shape[1:], minimum_size, name)
    return image.detach()  # type: ignore[no-any-return]


def _as_rgb(image: Tensor) -> Tensor:
    """Return a floating image of 1, 3 or 4 channels as float32 RGB in [0, 1] on the CPU."""
    rgb = image.expand(3, -1, -1) if len(image) == 1 else image[:3]
    return rgb.to("cpu", torch.float32).clamp(0, 1)


def _check_size(size: Sequence[int], least: int, name: str) -> None:
    if min(size) < least:
        raise UnusableImageError(f"{name} must be at least {least} px high and wide, got {size[0]} x {size[1]} px")


def _sharp(image: Tensor) -> Graded:
    return Graded(image[None], torch.zeros(1))


def _sifted(items: Sequence[S], look: Callable[[S], tuple[T, str]]) -> list[T]:
    """Return what `look` makes of the items that can be used; warn of the others, and of those that become RGB."""
    usable, skipped, converted = [], [], []
    for item in items:
        try:
            made, conversion = look(item)
        except UnusableImageError as error:
            skipped.append(str(error))
            continue
        usable.append(made)
        converted += [conversion] if conversion else []
    if skipped and not usable:
        raise none_usable(skipped)
    found = [("are skipped", skipped), ("become RGB", converted)]
    parts = [f"{len(texts)} of {len(items)} images {what}: {_some(texts)}" for what, texts in found if texts]
    if parts:
        warnings.warn(". ".join(parts), stacklevel=2)
    return usable


@contextlib.contextmanager
def _unusable(*kinds: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn errors of these kinds into one that leaves out the image."""
    try:
        yield
    except kinds as error:
        raise UnusableImageError(f"{prefix}{error}") from error


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more
