"""Signals that end a run, noted so that no step is torn."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["interrupts"]

# A closed terminal sends SIGHUP, which Windows does not have.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE_S = 10.0


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C, SIGTERM or SIGHUP has come; none of them ends the process meanwhile.

    Launchers send a signal several times, and would end the process while it saves. So repeats change nothing. But a
    Ctrl-C that comes 10 s after the first signal acts as usual, for a step may hang. A signal that the process ignores,
    such as SIGHUP under nohup, stays ignored. Outside the main thread, nothing is noted.
    """
    noted: list[float] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and noted and now - noted[0] > PATIENCE_S:
            restore()
            signal.raise_signal(number)
        noted.append(now)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            # None: the handler is not Python's, and could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(noted)
    finally:
        restore()
