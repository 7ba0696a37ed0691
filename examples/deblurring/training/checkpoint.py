"""All that changes in a training run, and the files that it can be taken up from."""

import contextlib
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from examples._common import replacing, write_atomically

__all__ = ["CHECKPOINT_FILE", "Checkpoint", "warned"]

CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_FILE = "history.jsonl"
STEP, HISTORY = "step", "history"


class Checkpoint:
    """The files of a run in a folder: `checkpoint.pt`, replaced as a whole, and `history.jsonl`, a row at a time.

    Args:
        folder: where.
        resume: whether to go on from the checkpoint that is there.

    Attributes:
        step: how many steps are done.
        history: what was recorded.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self.path = folder / CHECKPOINT_FILE
        self.history_path = folder / HISTORY_FILE
        self.resumes = resume
        self.step = 0
        self.history: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        """Write the history so far, leaving out what an interrupted run recorded after its checkpoint."""
        for stale in self.path.parent.glob(".*.tmp"):  # of a run that was killed while it wrote
            stale.unlink()
        write_atomically(self.history_path, "".join(map(_line, self.history)).encode())

    def record(self, row: dict[str, float], *, write: bool) -> None:
        """Add a row to the history, and to its file if this is the process that writes."""
        self.history.append(row)
        if write:
            with warned("the history", self.history_path), open(self.history_path, "a") as file:
                file.write(_line(row))

    def save(self, parts: Mapping[str, Any]) -> None:
        """Replace the checkpoint; where that fails it is warned about, and the one before is kept."""
        content = {name: part.state_dict() for name, part in parts.items()}
        content |= {STEP: self.step, HISTORY: self.history}
        with warned(f"the checkpoint of step {self.step}", self.path), replacing(self.path) as temporary:
            torch.save(content, temporary)

    def load(self, parts: Mapping[str, Any]) -> None:
        """Fill `parts` and this object from the checkpoint.

        Raises:
            ValueError: if the file cannot be read, or holds something else.
        """
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{self.path} is no checkpoint that can be read ({error}); remove it to start anew"
            ) from error
        if not isinstance(content, dict) or not {STEP, HISTORY, *parts} <= content.keys():
            raise ValueError(f"{self.path} holds something else than a checkpoint of this; remove it to start anew")
        for name, part in parts.items():
            part.load_state_dict(content[name])
        self.step, self.history = content[STEP], content[HISTORY]


@contextlib.contextmanager
def warned(what: str, path: Path) -> Iterator[None]:
    """Turn a failed writing into a warning: a full disk must not end a long run."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises the latter for a full disk
        warnings.warn(
            f"{what} could not be written to {path}: {error}; what was there is kept, and the run goes on",
            stacklevel=4,
        )


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"
