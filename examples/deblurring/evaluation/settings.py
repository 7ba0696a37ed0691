"""All that decides the values of an evaluation, the file that an interrupted one is known by."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples._common import differences, read_json, write_atomically
from examples.deblurring.data import opening
from tafm_loss import __version__
from tafm_loss.runs import is_unused

__all__ = ["INPUT", "SETTINGS_FILE", "Network", "Settings", "check_folder", "claim", "read_settings", "with_defaults"]

SETTINGS_FILE = "settings.json"
# In place of weights: the blurred images themselves, the row that every table needs.
INPUT = "input"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and where its weights are.

    Args:
        name: as `list_networks()` has it.
        options: of `create_network`.
        weights: the file.
        sha256: of the file.
        tlc: the window in px of local pooling, see `use_local_statistics`; None for pooling over the image.
        ensemble: as `restore` takes it, and so are the others.
        tile: px.
        overlap: px.
        grid: px.
    """

    name: str
    options: dict[str, Any]
    weights: str
    sha256: str
    tlc: int | None = None
    ensemble: int = 1
    tile: int | None = None
    overlap: int = 64
    grid: int | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is evaluated, on what, by what.

    Args:
        network: None for the blurred images themselves.
        dataset: as `open_pairs` knows it.
        root: its folder.
        split: of the data set.
        dataset_options: of `open_pairs`.
        metrics: as `Measurement` knows them.
        niqe_parameters: the file that NIQE needs.
        limit: how many images, the first ones; None for all.
        save_images: whether every restored image is written.
        version: of this package.
    """

    network: Network | None
    dataset: str
    root: str
    split: str
    dataset_options: dict[str, Any]
    metrics: list[str]
    niqe_parameters: str | None = None
    limit: int | None = None
    save_images: bool = False
    version: str = __version__


def with_defaults(dataset: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `open_pairs`, with the default of each that is not given, as JSON has them.

    Raises:
        ValueError: if there is no such data set.
    """
    known = opening.options_of(dataset)
    signature = inspect.signature(opening.FILES.get(dataset) or opening.MADE[dataset])
    defaults = {name: signature.parameters[name].default for name in known}
    resolved: dict[str, Any] = json.loads(json.dumps({**defaults, **options}))
    return resolved


def claim(folder: Path, settings: Settings) -> None:
    """Write the settings into a folder; errors as in `check_folder`."""
    check_folder(folder, settings)
    write_atomically(folder / SETTINGS_FILE, (json.dumps(dataclasses.asdict(settings), indent=1) + "\n").encode())


def check_folder(folder: Path, settings: Settings) -> None:
    """Raise unless a folder is new, empty, or of the same settings; its limit may grow.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: if it is of other settings, which are named.
    """
    path = folder / SETTINGS_FILE
    if path.exists():
        before = read_settings(folder)
        # The first images of a set are among the first of more.
        if before.limit is not None and (settings.limit is None or settings.limit > before.limit):
            before = dataclasses.replace(before, limit=settings.limit)
        there, now = (_flat(dataclasses.asdict(found)) for found in (before, settings))
        if changed := differences(there, now):
            raise ValueError(
                f"{folder} holds an evaluation with other settings: {'; '.join(changed)}; "
                "name another folder, or delete this one"
            )
    elif not is_unused(folder):
        raise FileExistsError(f"{folder} holds other files and no {SETTINGS_FILE}: name a new folder")


def read_settings(folder: Path) -> Settings:
    """Return the settings of the evaluation in a folder.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they cannot be read.
    """
    path = folder / SETTINGS_FILE
    try:
        fields = read_json(path)
        network = fields.pop("network")
        return Settings(network=None if network is None else Network(**network), **fields)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds no evaluation, for there is no {SETTINGS_FILE}: make one by "
            "python -m examples.deblurring.evaluate"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not the settings of an evaluation ({error}): name another folder") from error


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with those of the network beside the others."""
    return {**{f"network {name}": value for name, value in (fields.pop("network") or {}).items()}, **fields}
