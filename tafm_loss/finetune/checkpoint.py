"""What lets a long run be ended and taken up again: interrupts between two steps, and the files of its state."""

import contextlib
import dataclasses
import json
import pickle
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tafm_loss._files import TEMPORARY_FILES, replacing, write_atomically

__all__ = ["CHECKPOINT_FILE", "Checkpoint", "Progress", "interrupts", "warned"]

CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_FILE = "history.jsonl"


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Args:
        step: how many steps are done.
        history: what was recorded, a row at a time.
        best: the validation pass with the lowest objective: "objective", "step", "passes_since" and the "tuning" that
            made it; None if none is kept.
    """

    step: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None


class Checkpoint:
    """The files of a run in a folder: `checkpoint.pt`, replaced as a whole, and `history.jsonl`.

    `settings` say what the run is; a checkpoint of another one is refused.
    """

    def __init__(self, folder: Path, settings: str, *, resume: bool) -> None:
        self.path = folder / CHECKPOINT_FILE
        self.history_path = folder / HISTORY_FILE
        self.settings = settings
        self.resumes = resume and self.path.is_file()
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, history: list[dict[str, float]]) -> None:
        """Write the history so far, leaving out what an interrupted run recorded after its checkpoint."""
        for stale in self.path.parent.glob(TEMPORARY_FILES):  # of a run that was killed while it wrote
            stale.unlink()
        write_atomically(self.history_path, "".join(map(_line, history)).encode())

    def record(self, row: Mapping[str, float]) -> None:
        """Add a row to the history on disk."""
        with warned("the history", self.history_path), open(self.history_path, "a") as file:
            file.write(_line(row))

    def save(self, parts: Mapping[str, Any], progress: Progress) -> None:
        """Replace the checkpoint; where that fails it is warned about, and the one before is kept."""
        content = {name: part.state_dict() for name, part in parts.items()}
        content |= {"settings": self.settings, **vars(progress)}
        with warned(f"the checkpoint of step {progress.step}", self.path), replacing(self.path) as temporary:
            torch.save(content, temporary)

    def load(self, parts: Mapping[str, Any]) -> Progress:
        """Fill `parts` from the checkpoint, and return how far it had come.

        Raises:
            ValueError: if the file cannot be read, or is of another run.
        """
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            told = f"{self.path} is no checkpoint that can be read ({error}); remove it to start anew"
            raise ValueError(told) from error
        fields = [field.name for field in dataclasses.fields(Progress)]
        if not isinstance(content, dict) or not {"settings", *fields, *parts} <= content.keys():
            raise ValueError(f"{self.path} holds something else than a checkpoint of this; remove it to start anew")
        if content["settings"] != self.settings:
            raise ValueError(
                f"{self.path} is of another run: {content['settings']}, not {self.settings}; "
                "take the same arguments, or another out_dir"
            )
        for name, part in parts.items():
            part.load_state_dict(content[name])
        return Progress(**{name: content[name] for name in fields})


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


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C or SIGTERM sets, so that a step is never torn; the second acts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        event.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        restore()


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"
