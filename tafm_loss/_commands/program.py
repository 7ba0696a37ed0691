"""How programs end: their exit codes, and errors of the user in one line."""

import os
import sys
from collections.abc import Callable

__all__ = ["INTERRUPTED", "USER_ERROR", "run_program"]

USER_ERROR = 2
INTERRUPTED = 130


def run_program(name: str, work: Callable[[], int | None], *, interrupted: str = "interrupted") -> int:
    """Do the work of a program and return its exit code.

    Args:
        name: of the program, for what is told on standard error.
        work: returns an exit code, or None for 0.
        interrupted: what is told of a Ctrl-C that says nothing itself.

    Returns:
        What `work` returns; 2 for a mistake of the user, 130 if interrupted.
    """
    try:
        return work() or 0
    except BrokenPipeError:
        # The reader of our output has left; what Python would flush at exit must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        print(f"{name}: {str(stop) or interrupted}", file=sys.stderr)
        return INTERRUPTED
