"""Files: written so that a reader never sees half of one, and read so that what a stranger wrote can do no harm."""

import contextlib
import errno
import io
import json
import math
import os
import re
import stat
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "is_temporary",
    "open_regular",
    "read_object",
    "replacing",
    "require_matplotlib",
    "user_path",
    "write_atomically",
    "write_figure",
]

TEMPORARY_FILE = re.compile(r"\.[0-9a-f]{32}\.tmp")


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path in which `~` is the user's home; raises a ValueError for the home of one who is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{os.fspath(path)!r} is in the home of a user who is not known here: write it out") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new name beside `path`; what is written there takes the place of `path`, unless an error comes first.

    Raises:
        OSError: if it cannot be written; the error names `path`.
    """
    # Not tempfile: its files are readable by the owner alone, and stay so after the renaming.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        # Neither must hide the error: a folder that is gone, or may only be read.
        with contextlib.suppress(OSError):
            temporary.unlink()


def is_temporary(path: Path) -> bool:
    """Return whether a file is one that `replacing` has made, and would rename or remove if it lives."""
    return TEMPORARY_FILE.fullmatch(path.name) is not None


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path` and rename it onto `path`."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure of matplotlib as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def require_matplotlib() -> None:
    """Raise a ModuleNotFoundError that names the extra unless matplotlib is there, before anything is computed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('pictures need matplotlib: pip install "tafm-loss[plots]"') from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read; raises an OSError for a folder, or for a pipe or a device, which may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return open(path, "rb")


def read_object(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object that `data` holds.

    Raises:
        ValueError: if it is no UTF-8, no JSON, no object, nested too deeply, or holds a key twice or a number that is
            not finite, or is an integer that no float can hold.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_no_larger_than_floats,
            object_pairs_hook=_without_doubles,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"numbers must be finite, got {text}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _no_larger_than_floats(text: str) -> int:
    # Python's integers have no bound, and each reader would have to expect an OverflowError.
    number = int(text)
    return number if abs(number) <= sys.float_info.max else _refuse(f"an integer of {len(text)} digits")


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return fields
