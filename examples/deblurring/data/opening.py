"""Data sets by name, and their options as they are written on a command line.

Example:
    pairs = open_pairs("flat", "datasets/scene", "all")  # datasets/scene/{blur,sharp}/NAME.png; uint8 (3, H, W) each
    blurred, sharp = (torch.stack(images) / 255 for images in zip(*pairs))  # (N, 3, H, W) each, where all are of a size
"""

import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from examples.deblurring.data.files import split_folder
from examples.deblurring.data.flat import flat_pairs
from examples.deblurring.data.gopro import gopro_pairs
from examples.deblurring.data.gopro_all import AveragedFrames
from examples.deblurring.data.hide import hide_pairs
from examples.deblurring.data.pairs import Pair, PairDataset, PairedImages
from examples.deblurring.data.realblur import realblur_pairs
from examples.deblurring.data.reds import reds_pairs
from examples.deblurring.data.synthetic import SyntheticPairs

__all__ = ["key_values", "list_datasets", "open_pairs", "options_of"]

FILES: dict[str, Callable[..., list[Pair]]] = {
    "gopro": gopro_pairs,
    "realblur_j": partial(realblur_pairs, "J"),
    "realblur_r": partial(realblur_pairs, "R"),
    "hide": hide_pairs,
    "reds": reds_pairs,
    "flat": flat_pairs,
}
MADE: dict[str, Callable[..., PairDataset]] = {"gopro_all": AveragedFrames, "synthetic": SyntheticPairs}
GIVEN = {"root", "split"}
YES_OR_NO = {"complete", "one_scene"}
# What JSON does not know: the words of Python, YAML and people.
WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None}


def list_datasets() -> list[str]:
    """Return the names that `open_pairs` knows."""
    return sorted(FILES | MADE)


def options_of(dataset: str) -> list[str]:
    """Return the names of the options that `open_pairs` takes for a data set.

    Raises:
        ValueError: if there is no such data set.
    """
    opener = FILES.get(dataset) or MADE.get(dataset)
    if opener is None:
        raise ValueError(f"there is no data set {dataset!r}; choose from {', '.join(list_datasets())}")
    return [name for name in inspect.signature(opener).parameters if name not in GIVEN]


def open_pairs(dataset: str, root: str | Path, split: str, **options: Any) -> PairDataset:
    """Return the pairs of one part of a data set: what it is and how it lies on disk is told in the module of its name.

    Args:
        dataset: one of `list_datasets()`.
        root: its folder.
        split: "train", "test" or what else its parts are called; "all" for a "flat" or "synthetic" folder without
            parts.
        **options: of the data set; `complete=False` takes what is there of a published one.

    Raises:
        OSError: if a folder or file is missing.
        ValueError: for an unknown name or option, for `complete` or `one_scene` that is no bool, and for what the data
            set lacks.
    """
    known = options_of(dataset)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"the data set {dataset} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    for name in YES_OR_NO & set(options):
        if not isinstance(options[name], bool):
            raise ValueError(f"{name} must be True or False, got {options[name]!r}")
    root = Path(root)
    if dataset == "synthetic":
        return SyntheticPairs(split_folder(root, split), **options)
    if dataset in FILES:
        return PairedImages(FILES[dataset](root, split, **options))
    return MADE[dataset](root, split, **options)


def key_values(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Return the values of "width=32", "blur=blur_gamma" and "complete=False" by their keys.

    Numbers, lists and the like are written as in JSON, truth as true or false, yes or no in any case; the rest is text.

    Args:
        texts: KEY=VALUE each.
        option: what the command line calls them, for the error.

    Raises:
        ValueError: for a text that is no KEY=VALUE, or a key that comes twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"{option} takes KEY=VALUE, got {text}")
        if key in values:
            raise ValueError(f"{option} names {key} twice")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = WORDS.get(value.lower(), value)
    return values
