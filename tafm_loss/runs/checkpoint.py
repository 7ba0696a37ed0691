"""The files that a run can be taken up from: a checkpoint with a digest, and the history of what was recorded."""

import contextlib
import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tafm_loss._files import open_regular, replacing, write_atomically

__all__ = ["CHECKPOINT_FILE", "Checkpoint", "Progress", "warned"]

CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_FILE = "history.jsonl"
# torch.save writes a zip archive. The comment at its end holds the SHA-256 of all that comes before.
DIGEST_LENGTH = hashlib.sha256().digest_size * 2
DIGEST_PREFIX = DIGEST_LENGTH.to_bytes(2, "little")


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
    """The files of a run in a folder: `checkpoint.pt`, replaced as a whole, and `history.jsonl`, a row at a time.

    Args:
        folder: where, made if there is none.
        settings: what the run is; a checkpoint of another one is refused.
        resume: whether to go on from the checkpoint that is there, if there is one.
        processes: how many take part.

    Attributes:
        resumes: whether there is a checkpoint to go on from.
    """

    def __init__(self, folder: Path, settings: str, *, resume: bool, processes: int = 1) -> None:
        self.path = folder / CHECKPOINT_FILE
        self.history_path = folder / HISTORY_FILE
        self.settings = settings
        self.processes = processes
        self.resumes = resume and self.path.exists()
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, history: list[dict[str, float]]) -> None:
        """Write the history so far, leaving out what an interrupted run recorded after its checkpoint."""
        write_atomically(self.history_path, "".join(map(_line, history)).encode())

    def record(self, row: Mapping[str, float]) -> None:
        """Add a row to the history on disk, whole or not at all."""
        with warned("the history", self.history_path), open(self.history_path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                line = _line(row).encode()
                if file.write(line) < len(line):
                    raise OSError("there is no space for a line")
            except OSError:
                file.truncate(end)
                raise

    def save(self, parts: Mapping[str, Any], progress: Progress) -> None:
        """Replace the checkpoint; where that fails it is warned about, and the one before is kept."""
        content = {name: part.state_dict() for name, part in parts.items()}
        content |= {"settings": self.settings, "processes": self.processes, **vars(progress)}
        with warned(f"the checkpoint of step {progress.step}", self.path), replacing(self.path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # which says nothing of the disk
                raise OSError(f"torch.save failed ({error}); is the disk full?") from error
            _seal(temporary)

    def load(self, parts: Mapping[str, Any]) -> Progress:
        """Fill `parts` from the checkpoint, and return how far it had come.

        Raises:
            ValueError: if the file cannot be read, is damaged, is none that `save` wrote, or is of another run.

        Warns:
            UserWarning: if another number of processes made it.
        """
        fields = [field.name for field in dataclasses.fields(Progress)]
        try:
            _check_seal(self.path)
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, processes = content["settings"], content["processes"]
            progress = Progress(**{name: content[name] for name in fields})
        except Exception as error:  # of an archive that is no checkpoint, torch.load may say almost anything
            told = f"{self.path} is no checkpoint that can be read ({error}); remove it to start anew"
            raise ValueError(told) from error
        if settings != self.settings:
            raise ValueError(
                f"{self.path} is of another run: {settings}, not {self.settings}; "
                "take the same arguments, or another folder"
            )
        try:
            for name, part in parts.items():
                part.load_state_dict(content[name])
        except Exception as error:  # each part complains in its own way
            told = f"{self.path} does not fit what is trained: {error}; remove it to start anew"
            raise ValueError(told) from error
        if processes != self.processes:
            warnings.warn(
                f"{self.path} was made by {processes} processes, and goes on with {self.processes}: "
                "the result is that of an unbroken run up to rounding alone",
                stacklevel=2,
            )
        return progress


@contextlib.contextmanager
def warned(what: str, path: Path) -> Iterator[None]:
    """Turn a failed writing into a warning: a full disk must not end a long run."""
    try:
        yield
    except OSError as error:
        warnings.warn(
            f"{what} could not be written to {path}: {error}; what was there is kept, and the run goes on",
            stacklevel=4,
        )


def _seal(path: Path) -> None:
    """Put the SHA-256 of an archive into the comment at its end, and all of it onto the disk."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)  # the length of the comment, 0 so far
        end = file.tell()
        digest = _digest(file, end)
        file.seek(end)
        file.write(DIGEST_PREFIX + digest)
        file.flush()
        os.fsync(file.fileno())


def _check_seal(path: Path) -> None:
    """Raise a ValueError unless a file is as `_seal` left it."""
    with open_regular(path) as file:
        length = file.seek(0, os.SEEK_END)
        end = max(0, length - len(DIGEST_PREFIX) - DIGEST_LENGTH)
        file.seek(end)
        found = file.read()
        if not found.startswith(DIGEST_PREFIX) or found[2:] != _digest(file, end):
            raise ValueError("its SHA-256 is not the one at its end: it is damaged, incomplete, or another file")


def _digest(file: Any, end: int) -> bytes:
    """Return the SHA-256 of the first bytes of a file in hexadecimal digits."""
    digest, left = hashlib.sha256(), end
    file.seek(0)
    while block := file.read(min(left, 2**20)):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"
