"""Pairs that cannot be read: found before a run begins, left out by name, and still left out when it goes on."""

import contextlib
import functools
import warnings
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from examples._common import prefetch, read_json
from examples.deblurring.data.files import named
from examples.deblurring.data.pairs import PairDataset
from examples.deblurring.data.synthetic import SyntheticPairs

__all__ = ["QUARANTINE_FILE", "quarantine", "quarantined"]

QUARANTINE_FILE = "quarantine.json"


def quarantined(out: Path) -> dict[str, str]:
    """Return the pairs that the run in `out` has left out, {name: reason}; none if there is no such run.

    Raises:
        ValueError: if its file cannot be read.
    """
    path = out / QUARANTINE_FILE
    try:
        return dict(read_json(path)) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say which pairs are left out ({error}): take another --out") from error


def quarantine(pairs: PairDataset, accelerator: Accelerator, *, begun: bool, progress: bool) -> dict[str, str]:
    """Leave out of `pairs` those that cannot be read, and return {name: reason} of them.

    Every file is read once, a share by each process, so that no run meets a damaged one after hours.

    Args:
        pairs: what is to be trained on, without what an earlier part of the run has left out.
        accelerator: of the run.
        begun: whether the run goes on, and its draws are therefore fixed.
        progress: whether to show a bar.

    Raises:
        ValueError: if a run that goes on cannot read what it could when it began, or no pair can be read.
    """
    share = range(len(pairs))[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(share, desc="check", unit="pair", disable=not (progress and accelerator.is_main_process))
    faults = {}
    with contextlib.closing(prefetch(functools.partial(_fault, pairs), share)) as told:
        for index, fault in zip(bar, told, strict=True):
            if fault is not None:
                faults[pairs.pairs[index].name] = fault
    found = {name: reason for part in gather_object([faults]) for name, reason in part.items()}
    if not found:
        return {}
    what = f"{len(found)} of {len(pairs)} pairs cannot be read, {named(found)}: {next(iter(found.values()))}"
    if begun:
        raise ValueError(f"{what}; they could be when the run began: restore them, and it goes on")
    if len(found) == len(pairs):
        raise ValueError(what)
    if accelerator.is_main_process:
        warnings.warn(f"{what}; the run does without them", stacklevel=2)
    pairs.leave_out(found)
    return found


def _fault(pairs: PairDataset, index: int) -> str | None:
    try:
        if isinstance(pairs, SyntheticPairs):
            pairs.sharp(index)  # it is blurred later, on the device
        else:
            pairs[index]
    except (ValueError, OSError) as error:
        return str(error)
    return None
