"""Image files: found in folders, and read so that what is wrong with one is an error that names it."""

import os
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tafm_loss._files import open_regular, user_path

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

__all__ = ["IMAGE_SUFFIXES", "find_images", "read_header", "read_image", "read_pixels"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Images of formats that have too few colours, or that Pillow does not read everywhere.
OTHER_SUFFIXES = frozenset({".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pgm", ".ppm", ".tga"})
# By content, whatever the suffix. Pillow would start other programs for some of its other formats.
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
NAMED = 3  # Warnings name so many paths and count the others.

ORIENTATION = 0x0112  # a tag of EXIF
EMPTY_BITS = 2  # Values of 16 bits that leave so many of them unused are warned about.


def find_images(folder: str | Path) -> list[Path]:
    """Return the files in a folder and its sub-folders that have one of `IMAGE_SUFFIXES`, in either case, sorted.

    Links are followed, and no folder is searched twice. Hidden files and folders, whose names begin with a dot, are
    passed over.

    Raises:
        OSError: if there is no such folder, or it cannot be read.

    Warns:
        UserWarning: of sub-folders that cannot be read, or that are a second way into one that is searched; of images
            in other formats.
    """
    found, others, unread = [], [], []
    for entry, error in _entries(user_path(folder)):
        if error is not None:
            unread.append(f"{entry} ({error})")
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            found.append(entry)
        elif entry.suffix.lower() in OTHER_SUFFIXES:
            others.append(str(entry))
    if unread:
        warnings.warn(f"folders are passed over ({len(unread)}): {_first(unread)}", stacklevel=2)
    if others:
        advice = "images of other formats are passed over; save them as PNG"
        warnings.warn(f"{advice} ({len(others)}): {_first(others)}", stacklevel=2)
    return sorted(found)


def _entries(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield what is in a folder and below and no folder, and the folders that are passed over, with the reason."""
    waiting = deque([root])
    searched: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in searched:
                yield folder, "it leads to a folder that is searched already"
                continue
            searched.add((status.st_dev, status.st_ino))
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError as error:
            if folder == root:
                raise
            yield folder, error.strerror or str(error)
            continue
        for entry in entries:
            if not _is_folder(entry):
                yield folder / entry.name, None
            elif entry.is_symlink():
                waiting.append(folder / entry.name)  # after all folders proper, which keep their names
            else:
                waiting.appendleft(folder / entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: who reads it says what is wrong
        return False


def _first(texts: list[str]) -> str:
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def read_header(path: str | Path) -> tuple[tuple[int, int], str]:
    """Return the size in px, as it is stored, and Pillow's mode of an image file, without decoding it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image.
    """
    with _open_image(user_path(path)) as file:
        return file.size, file.mode


def read_image(path: str | Path) -> Tensor:
    """Return an image file as `read_pixels` does, in [0, 1]."""
    return read_pixels(path).float() / 255


def read_pixels(path: str | Path) -> Tensor:
    """Return an image file as RGB (3, H, W) uint8, turned as its EXIF data says; grey is repeated, alpha dropped.

    EXIF data that are damaged are left out. Of several frames, the first is read. Of 16 bits, the upper 8 are taken.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image.

    Warns:
        UserWarning: if 16-bit values leave the upper bits unused, and so become black.
    """
    from PIL import Image

    path = user_path(path)
    with _open_image(path) as file:
        deep = file.mode.startswith("I") or ";16" in str(file.tile)
        turn = _take_turn(file)
        file.load()
        if file.mode == "F" or (file.mode == "I" and file.format != "PNG"):
            raise ValueError(f"its values (Pillow's mode {file.mode}) have no known range; save 8 or 16 bits")
        image: Image.Image = file
        if file.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to 8 bits
            image = Image.fromarray((np.array(file) >> 8).astype(np.uint8))
        image = image.convert("RGB")
        pixels = np.array(image if turn is None else image.transpose(turn))
    if deep:
        _check_depth(int(pixels.max()), path.parent)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _take_turn(file: "ImageFile") -> "Image.Transpose | None":
    """Return how an image must be turned, and take all EXIF data out of it.

    Where they are damaged, Pillow would fail as it decodes a TIFF, or as it writes them back after the turn.
    """
    from PIL import Image

    value: object = None
    with suppress(Exception):  # damaged data make Pillow raise almost anything
        value = file.getexif().get(ORIENTATION)
    exif = file.getexif()
    for tag in list(exif):
        del exif[tag]
    turn = Image.Transpose
    turns = (
        *(turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE),
        *(turn.ROTATE_270, turn.TRANSVERSE, turn.ROTATE_90),
    )
    return turns[value - 2] if type(value) is int and 2 <= value <= 8 else None


def _check_depth(largest: int, folder: Path) -> None:
    """Warn of 16-bit values whose upper bits are empty; `largest` is that of the upper 8 bits."""
    bits = 8 + largest.bit_length()
    if bits <= 16 - EMPTY_BITS:
        # Not the name of the file: a warning for each of a folder says no more.
        warnings.warn(
            f"16-bit images in {folder} use {'at most ' if bits == 8 else ''}the lowest {bits} bits alone and are "
            f"read as nearly black; if the camera has {bits} bits, multiply the values by {2 ** (16 - bits)} and save "
            "them again",
            stacklevel=3,
        )


@contextmanager
def _open_image(path: Path) -> Iterator["ImageFile"]:
    """Open an image file; what goes wrong while it is open is raised as a ValueError that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as stream, Image.open(stream, formats=FORMATS) as file:
            yield file
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        reason = f"it is none of the formats {', '.join(FORMATS)}, or its beginning is damaged"
        raise ValueError(f"{path} cannot be read as an image: {reason}") from error
    except Exception as error:  # decoders raise almost anything at damaged bytes
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as an image: {reason}") from error
