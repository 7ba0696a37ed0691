"""One evaluation at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["writing_alone"]


@contextlib.contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other evaluations; where the system or the file system has no locks, do nothing.

    The lock is the process's, and ends with it in any case: no file is left behind.

    Raises:
        BlockingIOError: if another evaluation holds the folder.
        OSError: if there is no such folder.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"another evaluation is writing to {folder}: wait for its end, or name another folder"
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
