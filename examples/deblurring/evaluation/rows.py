"""The values of every image: a CSV file that grows by a line an image, and what is read from it."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from examples._common import write_atomically

__all__ = ["ROWS_FILE", "ImageRows", "RowFile", "read_rows"]

ROWS_FILE = "images.csv"
KEYS = ("name", "scene")

Lines = list[list[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRows:
    """The values of N images in M columns.

    Args:
        names: of the images, N.
        scenes: of the images, N.
        columns: what was measured, M.
        values: (N, M), float64; infinite or NaN where a metric is.
    """

    names: tuple[str, ...]
    scenes: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor

    def column(self, name: str) -> Tensor:
        """Return the values (N,) of a column."""
        return self.values[:, self.columns.index(name)]

    def ordered_as(self, other: "ImageRows") -> "ImageRows":
        """Return these rows in the order of another one's images.

        Raises:
            ValueError: if the two have not the same images, of the same scenes.
        """
        places = {image: place for place, image in enumerate(zip(self.names, self.scenes, strict=True))}
        images = list(zip(other.names, other.scenes, strict=True))
        if alone := sorted(places.keys() ^ set(images)):
            name, scene = alone[0]
            raise ValueError(
                f"{len(alone)} images are in one of the two results alone, the first {name} of scene {scene}: "
                "evaluate both on the same images"
            )
        return ImageRows(other.names, other.scenes, self.columns, self.values[[places[image] for image in images]])


class RowFile:
    """A CSV file to which an evaluation adds a line when an image is done.

    Args:
        path: the file; what an earlier run has left there is gone on from.
        columns: what is measured.

    Raises:
        ValueError: if the file there cannot be read, or has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        lines = _read_lines(path) if path.exists() else [[*KEYS, *columns]]
        if tuple(lines[0]) != (*KEYS, *columns):
            raise ValueError(
                f"{path} has the columns {', '.join(lines[0])}; now they are {', '.join((*KEYS, *columns))}: "
                "can a metric be had, or not be had, that was different then? Name another folder, or delete this one"
            )
        self.done = {name: scene for name, scene, *_ in lines[1:]}
        # A process that was killed may have left half a line, to which nothing must be added.
        write_atomically(path, _text(lines).encode())

    def add(self, name: str, scene: str, values: Mapping[str, float]) -> None:
        """Add the line of an image."""
        line = [name, scene, *(repr(float(values[column])) for column in self.columns)]
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(_text([line]))
        self.done[name] = scene


def read_rows(path: Path) -> ImageRows:
    """Return what a CSV file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds no image.
    """
    head, *lines = _read_lines(path)
    if not lines:
        raise ValueError(f"{path} holds no image: run the evaluation to its end")
    names, scenes, *_ = zip(*lines, strict=True)
    values = [[float(cell) for cell in line[len(KEYS) :]] for line in lines]
    return ImageRows(names, scenes, tuple(head[len(KEYS) :]), torch.tensor(values, dtype=torch.float64))


def _read_lines(path: Path) -> Lines:
    """Return the head and the lines of cells; half a line at the end is left out."""
    try:
        # In bytes, for half a line may end within a character.
        whole = path.read_bytes().rpartition(b"\n")[0].decode()
        lines = list(csv.reader(io.StringIO(whole, newline=""), strict=True))
        # Equal lines come of two processes that wrote at once, where folders cannot be locked.
        lines = [list(line) for line in dict.fromkeys(map(tuple, lines))]
        _check(lines)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table of images ({error}): delete it to start anew") from error
    return lines


def _check(lines: Lines) -> None:
    if not lines or tuple(lines[0][: len(KEYS)]) != KEYS:
        raise ValueError(f"the first line must begin with {','.join(KEYS)}")
    seen = set()
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise ValueError(f"line {number} has {len(line)} cells, expected {len(lines[0])}")
        if line[0] in seen:
            raise ValueError(f"line {number}: the image {line[0]} comes twice, with other values")
        seen.add(line[0])
        for cell in line[len(KEYS) :]:
            float(cell)


def _text(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
