"""A finished evaluation: what it was of, and what came out."""

import json
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

from examples._common import read_json, write_atomically
from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import PairDataset
from examples.deblurring.evaluation.rows import ROWS_FILE, ImageRows, read_rows
from examples.deblurring.evaluation.settings import Settings, read_settings
from examples.deblurring.evaluation.statistics import Summary, as_json

__all__ = ["SUMMARY_FILE", "Result", "describe", "open_data", "read_result", "write_summary"]

SUMMARY_FILE = "summary.json"
HASH_DIGITS = 12


class Result(NamedTuple):
    """What lies in the folder of an evaluation that has come to its end.

    Args:
        folder: it.
        settings: what was evaluated.
        rows: the values of all images.
        missing: {metric: reason} of those that could not be had.
        images_in_set: how many images the data set has, of which a limit may have taken the first.
        skipped: {name: reason} of those that cannot be read.
    """

    folder: Path
    settings: Settings
    rows: ImageRows
    missing: dict[str, str]
    images_in_set: int
    skipped: dict[str, str] = {}  # noqa: RUF012 - never changed

    @property
    def label(self) -> str:
        """What the method is called: as the folder is."""
        return self.folder.resolve().name


def open_data(settings: Settings) -> PairDataset:
    """Return the images that are evaluated, and those beyond the limit.

    Raises:
        OSError: if a folder or file is missing.
        ValueError: if the options or the data set are not what they should be, or a name has control characters.
    """
    try:
        pairs = open_pairs(settings.dataset, Path(settings.root), settings.split, **settings.dataset_options)
    except TypeError as error:
        raise ValueError(f"the options {settings.dataset_options} do not suit {settings.dataset}: {error}") from error
    for pair in pairs.pairs:
        # A table of lines has no room for them, nor for what is no text (Cs).
        if any(unicodedata.category(mark) in {"Cc", "Cs"} for mark in pair.name + pair.scene):
            raise ValueError(f"the name {pair.name!r} has characters that no table can hold: rename the file")
    return pairs


def write_summary(result: Result, summary: Summary, **more: Any) -> None:
    """Write `summary.json`: the settings (`settings.json` again), means and intervals, and `more`."""
    content = {
        "settings": read_json(result.folder / "settings.json"),
        "images_in_set": result.images_in_set,
        "missing": result.missing,
        "skipped": result.skipped,
        **more,
        **as_json(summary),
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(result.folder / SUMMARY_FILE, text.encode())


def read_result(folder: Path) -> Result:
    """Return the result in a folder.

    Raises:
        FileNotFoundError: if there is none, or the evaluation has not come to its end.
        ValueError: if a file cannot be read, or comes from another version of this program.
    """
    settings = read_settings(folder)
    path = folder / SUMMARY_FILE
    try:
        summary = read_json(path)
        missing, images_in_set = dict(summary["missing"]), int(summary["images_in_set"])
        skipped = dict(summary.get("skipped", {}))  # which earlier versions did not have
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the evaluation in {folder} has not come to its end, for there is no {path.name}: give its command again"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): give the command of the evaluation again") from error
    rows = read_rows(folder / ROWS_FILE)
    return Result(folder, settings, rows, missing, images_in_set, skipped)


def describe(result: Result) -> str:
    """Say in one sentence what was evaluated, and how."""
    settings = result.settings
    data = f"{settings.dataset}, {settings.split}{_options(settings.dataset_options)}"
    seen = len(result.rows.names) + len(result.skipped)
    if seen < result.images_in_set:
        data += f", only the first {seen} of {result.images_in_set} images"
    network = settings.network
    if network is None:
        return f"The blurred images of {data}; tafm-loss {settings.version}."
    how = [
        f"{network.name}{_options(network.options)}",
        f"weights {'/'.join(Path(network.weights).parts[-2:])}, sha256 {network.sha256[:HASH_DIGITS]}",
        *([f"local statistics (TLC) of {network.tlc} px"] if network.tlc else []),
        *([f"self-ensemble of {network.ensemble}"] if network.ensemble > 1 else []),
        *([f"tiles of {network.tile} px, {network.overlap} px overlap"] if network.tile else []),
        *([f"grid of {network.grid} px (images no larger are seen whole)"] if network.grid else []),
        *(["full image"] if not network.tile and not network.grid else []),
    ]
    return f"{data}: {', '.join(how)}; tafm-loss {settings.version}."


def _options(options: dict[str, Any]) -> str:
    return f" ({', '.join(f'{name} {json.dumps(value)}' for name, value in options.items())})" if options else ""
