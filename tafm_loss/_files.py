"""Writing files so that a reader never sees half of one, and opening them so that a reader never waits."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["TEMPORARY_FILES", "open_regular", "replacing", "write_atomically"]

TEMPORARY_FILES = ".*.tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path` and rename it onto `path`."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read; raises an OSError for a folder, or for a pipe or a device, which may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return open(path, "rb")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new name beside `path`; what is written there takes the place of `path`, unless an error comes first."""
    # Not tempfile: its files are readable by the owner alone, and stay so after the renaming.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
