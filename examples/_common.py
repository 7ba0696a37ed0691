"""What the programs of examples and benchmarks share: whole files, text in columns, work ahead, how a program ends."""

import contextlib
import io
import json
import os
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tafm_loss.runs import write_atomically

__all__ = [
    "INTERRUPTED",
    "USER_ERROR",
    "align",
    "count",
    "differences",
    "natural_key",
    "prefetch",
    "read_json",
    "run_program",
    "user_path",
    "warnings_in_lines",
    "write_atomically",
]

T = TypeVar("T")

USER_ERROR = 2
INTERRUPTED = 130
# As PyTorch says it on Linux, on Windows, and of devices.
WANT_OF_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
TOO_LARGE = "the memory does not suffice: take smaller images, crops or batches, or tiles"


# ---- files ----


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; raises OSError or ValueError."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


# ---- text ----


def align(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return the head, a rule and the rows in columns; the columns numbered in `right` end together."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = []
    for line in lines:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text.append("  ".join(cells).rstrip())
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def count(number: int, noun: str) -> str:
    """Return "1 image", "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words which settings in a file are others than those of now; values as in JSON."""
    return [
        f"{name} is {json.dumps(there.get(name))} there and {json.dumps(now.get(name))} now"
        for name in {**there, **now}
        if there.get(name) != now.get(name)
    ]


def natural_key(name: str) -> list[tuple[str, int]]:
    """Return a sorting key by which 9 comes before 10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


# ---- work ----


def prefetch(make: Callable[[int], T], steps: Iterable[int], *, workers: int = 2) -> Generator[T, None, None]:
    """Yield `make(step)` for each step, in order, computed ahead by threads; twice as many as there are threads wait.

    What `make` raises is raised when its step is reached. Closing the generator drops what has not begun.
    """
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[T]] = deque()
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Not waiting, or an interrupt would hang for as long as the slowest file takes.
        pool.shutdown(wait=False, cancel_futures=True)


# ---- programs ----


def user_path(text: str) -> Path:
    """Return a path of a command line; `~` is the home of the user, also where the shell leaves it, as in --out=~/x."""
    return Path(os.path.expanduser(text))


def run_program(name: str, work: Callable[[], int | None], *, interrupted: str = "interrupted") -> int:
    """Do the work of a program and return its exit code: that of `work`, 2 for a mistake of the user, 130 for Ctrl-C.

    What the console cannot show is written as an escape of Python. A want of memory counts as a mistake.

    Args:
        name: of the program, for what is told on standard error.
        work: returns an exit code, or None for 0.
        interrupted: what is told of a Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = work() or 0
        print(end="", flush=True)  # so that a full disk or a reader who has left is met here
        return code
    except BrokenPipeError:
        # The reader of our output has left; what Python would flush at exit must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or WANT_OF_MEMORY.search(str(error))):
            raise
        print(f"{name}: error: {TOO_LARGE}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return INTERRUPTED


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Tell warnings in one line each on standard error."""
    from tqdm import tqdm

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        # Above a progress bar, not in it.
        tqdm.write(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = tell
        yield
