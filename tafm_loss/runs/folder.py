"""The folder of a run: held against other runs, cleaned of what a killed one left, and left for another if it fails."""

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tafm_loss._files import is_temporary
from tafm_loss.runs.checkpoint import CHECKPOINT_FILE

__all__ = ["is_unused", "locked", "save_or_rescue"]

LOCK_FILE = ".lock"
HOLDER = "process "


@contextlib.contextmanager
def locked(folder: Path, *inner: str) -> Iterator[None]:
    """Hold a folder, which is made if there is none, against other runs; then clean it of what a killed run left.

    The lock ends with the process in any case. The file `.lock` says who holds the folder. Where the file system has no
    locks, nothing is held or cleaned. A folder that was made and stayed empty is removed.

    Args:
        folder: it.
        inner: names of folders in it that are the run's alone, with all below them.

    Raises:
        BlockingIOError: if another run holds the folder; the message says which.
        OSError: if the folder cannot be made.
    """
    import filelock

    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock_file = folder / LOCK_FILE
    holder = "another run"
    with contextlib.suppress(OSError, ValueError):
        holder = lock_file.read_text() or holder
    lock = filelock.FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BlockingIOError(f"{folder} is in use by {holder}: wait for its end, or take another folder") from None
    except (OSError, NotImplementedError):
        pass
    told = False
    try:
        if lock.is_locked:
            told = _tell_holder(lock_file)
            _remove_temporaries(folder, inner)
        yield
    finally:
        if told:
            # While it is held: nobody waits for this lock, so nobody is left with a file that is gone.
            with contextlib.suppress(OSError):
                lock_file.unlink()
        lock.release()
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _tell_holder(lock_file: Path) -> bool:
    """Say in the lock file who holds it, and return whether that could be; Windows lets nobody read what is locked."""
    with contextlib.suppress(OSError, ValueError):
        there = lock_file.read_text()
        # Where the system has no locks, filelock makes do with a text of its own, which must stay.
        if not there or there.startswith(HOLDER):
            lock_file.write_text(f"{HOLDER}{os.getpid()} on {platform.node()}, since {time.strftime('%F %T %z')}")
            return True
    return False


def _remove_temporaries(folder: Path, inner: Sequence[str]) -> None:
    for path in [*folder.iterdir(), *(path for name in inner for path in (folder / name).rglob("*"))]:
        if is_temporary(path):
            path.unlink()


def is_unused(folder: Path) -> bool:
    """Return whether there is no folder, or nothing in it but what `locked` and a killed run may leave."""
    return not folder.exists() or all(path.name == LOCK_FILE or is_temporary(path) for path in folder.iterdir())


def save_or_rescue(save: Callable[[Path], object], folder: Path, what: str) -> None:
    """Call `save(folder)`; if that fails, call it with a new temporary folder, so that the work of hours is not lost.

    Raises:
        OSError: if it failed; the message says where `what` is now, if anywhere.
    """
    try:
        save(folder)
    except OSError as error:
        failed = f"{what} could not be written to {folder}: {error}"
        try:
            elsewhere = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
            save(elsewhere)
        except OSError as again:
            path = folder / CHECKPOINT_FILE
            kept = f"; {path} is kept: make space, and resume" if path.exists() else ""
            raise OSError(f"{failed}; nor to a temporary folder: {again}{kept}") from error
        raise OSError(f"{failed}; it is safe in {elsewhere}: copy it from there") from error
