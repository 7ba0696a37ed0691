"""Files of data sets: images in natural order, halves that belong together, and folders that are elsewhere."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from examples._common import natural_key
from tafm_loss.images import find_images

__all__ = [
    "as_pixels",
    "encode_png",
    "existing_folder",
    "images_below",
    "matched",
    "named",
    "natural_key",
    "split_folder",
    "sub_folders",
]

# The split that is the root itself.
ALL = "all"
MOST_NAMES = 3
LEVELS_ABOVE = 3


def named(names: Iterable[object]) -> str:
    """Return the first names as text, and how many more there are: "a, b, c and 12 more"."""
    texts = [str(name) for name in names]
    more = len(texts) - MOST_NAMES
    return ", ".join(texts[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def sub_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder in natural order, without hidden ones."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(folders, key=lambda path: natural_key(path.name))


def images_below(folder: Path) -> dict[str, Path]:
    """Return the images in a folder and its sub-folders, by their path in it without suffix, in natural order.

    Hidden files and folders are passed over: archives made on macOS hold a `._NAME.png` beside each NAME.png.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it holds no image, two that differ in their suffix alone, or what is called so and is no file.
    """
    found: dict[str, Path] = {}
    for path in find_images(existing_folder(folder)):
        # To open a pipe would wait for ever.
        if not path.is_file():
            raise ValueError(f"{path} is called as an image, but it is no file, nor a link to one: remove it")
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise ValueError(f"{found[key]} and {path.name} differ in their suffix alone: remove one of them")
        found[key] = path
    if not found:
        raise ValueError(f"there is no image in {folder}")
    return {key: found[key] for key in sorted(found, key=natural_key)}


def matched(blurred: Path, sharp: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield the name, blurred and sharp file of each image that two folders hold under the same name.

    Raises:
        NotADirectoryError: if a folder is missing.
        ValueError: if an image has no counterpart in the other folder.
    """
    inputs, targets = images_below(blurred), images_below(sharp)
    for here, there, folder in ((inputs, targets, sharp), (targets, inputs, blurred)):
        if single := [path for key, path in here.items() if key not in there]:
            raise ValueError(
                f"{len(single)} of {len(here)} images have no counterpart in {folder}: {named(single)}; "
                "restore the missing files, or remove these"
            )
    for key, path in inputs.items():
        yield key, path, targets[key]


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of one part of a data set: `root/split`, or `root` itself for the split "all"."""
    return existing_folder(root) if split == ALL else existing_folder(root, split)


def existing_folder(root: Path, *below: str) -> Path:
    """Return a folder below the root, or raise NotADirectoryError that says where it may be instead."""
    folder = root.joinpath(*below)
    if folder.is_dir():
        return folder
    if below:
        children = sub_folders(root) if root.is_dir() else []
        near = [path for path in [*children, *root.absolute().parents[:LEVELS_ABOVE]] if path.joinpath(*below).is_dir()]
        if near:
            raise NotADirectoryError(f"there is no folder {folder}; did you mean {near[0]} as root?")
        if children:
            raise NotADirectoryError(
                f"there is no folder {folder}; {root} holds {named(child.name for child in children)}"
            )
    raise NotADirectoryError(f"there is no folder {folder if root.is_dir() else root}")


def as_pixels(image: Tensor) -> Tensor:
    """Return an image in [0, 1] in 8 bits, on the CPU."""
    return (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def encode_png(pixels: Tensor) -> bytes:
    """Encode an image (3, H, W) uint8 as PNG."""
    buffer = io.BytesIO()
    # Level 1, not the usual 6: written in half the time, and an eighth larger.
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
