"""Computing ahead of where it is needed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["prefetch"]

T = TypeVar("T")


def prefetch(
    make: Callable[[int], T], steps: Iterable[int], *, ahead: int = 4, workers: int = 2
) -> Generator[T, None, None]:
    """Yield `make(step)` for each step, in order, computed ahead by threads.

    What `make` raises is raised when its step is reached. Closing the generator drops what has not begun; what has
    begun ends by itself, and is not waited for.

    Args:
        make: computes one item; it is called by several threads at once.
        steps: what it is called with.
        ahead: how many items may be there, or on their way, before they are asked for.
        workers: how many threads compute.

    Raises:
        ValueError: if `ahead` or `workers` is below 1.

    Example:
        >>> list(prefetch(lambda step: step**2, range(5)))
        [0, 1, 4, 9, 16]
    """
    if ahead < 1 or workers < 1:
        raise ValueError(f"ahead and workers must be at least 1, got {ahead} and {workers}")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    pending: deque[Future[T]] = deque()
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Not waiting, or an interrupt would hang for as long as the slowest file takes.
        pool.shutdown(wait=False, cancel_futures=True)
