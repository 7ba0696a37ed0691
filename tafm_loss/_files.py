"""Writing files so that a reader never sees half of one."""

import os
import uuid
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path` and rename it onto `path`."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        # Not tempfile: its files are readable by the owner alone, and stay so after the renaming.
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
