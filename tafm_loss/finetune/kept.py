"""Reading each item once, as far as memory goes."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["MEMORY_BYTES", "Kept"]

MEMORY_BYTES = 2**30

T = TypeVar("T")


class Kept(Generic[T]):
    """A reader whose items stay in memory: the first that are asked for, up to a limit; for any number of threads.

    Args:
        read: returns an item by its number.
        size: of an item, in bytes.
        limit: bytes in all.

    Example:
        >>> read = Kept(lambda number: print("read", number) or b"item", len)
        >>> read(3) == read(3)
        read 3
        True
    """

    def __init__(self, read: Callable[[int], T], size: Callable[[T], int], limit: int = MEMORY_BYTES) -> None:
        self._read = read
        self._size = size
        self._left = limit
        self._items: dict[int, T] = {}
        self._lock = threading.Lock()

    def __call__(self, number: int) -> T:
        """Return an item, read now or before."""
        if number in self._items:
            return self._items[number]
        # Without the lock: reading is what there are several threads for.
        item = self._read(number)
        with self._lock:
            size = self._size(item)
            if number not in self._items and size <= self._left:
                self._items[number] = item
                self._left -= size
        return item
