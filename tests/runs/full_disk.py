"""A disk that is full, as far as a process can tell: its files may not grow beyond so many bytes."""

import contextlib
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def full_disk(largest_file: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
