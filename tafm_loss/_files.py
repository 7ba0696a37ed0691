"""Writing files so that a reader never sees half of one."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["TEMPORARY_FILES", "replacing", "write_atomically"]

TEMPORARY_FILES = ".*.tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path` and rename it onto `path`."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


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
