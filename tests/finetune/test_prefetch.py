"""Computing ahead: in order, not too far, with its errors, and without hanging."""

import threading
import traceback
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from tafm_loss.finetune.prefetch import prefetch

LIMIT = 5.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that is set at the end of the test, so that no thread waits on it for ever."""
    event = threading.Event()
    yield event
    event.set()


def test_items_come_in_the_order_of_their_steps_whichever_is_ready_first() -> None:
    later = threading.Event()

    def make(step: int) -> int:
        if step == 0:
            assert later.wait(LIMIT)
        if step == 1:
            later.set()
        return 10 * step

    assert list(prefetch(make, range(7))) == [0, 10, 20, 30, 40, 50, 60]


def test_no_step_gives_no_item() -> None:
    assert list(prefetch(lambda step: step, ())) == []


def test_at_most_ahead_items_are_begun_before_they_are_asked_for() -> None:
    begun: list[int] = []
    with closing(prefetch(lambda step: begun.append(step) or step, count(), ahead=3)) as items:
        for step in range(10):
            assert next(items) == step
            assert len(begun) <= step + 1 + 3


def test_an_error_is_raised_at_its_step_with_its_own_traceback() -> None:
    def read_the_file(step: int) -> int:
        if step == 3:
            raise OSError("the disk is gone")
        return step

    items = prefetch(read_the_file, range(6))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone") as caught:
        next(items)
    assert "read_the_file" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert list(items) == []


def test_closing_drops_what_has_not_begun_and_waits_for_nothing(gate: threading.Event) -> None:
    begun: list[int] = []
    ended = threading.Event()

    def make(step: int) -> int:
        begun.append(step)
        if step > 0:
            gate.wait(LIMIT)
            ended.set()
        return step

    items = prefetch(make, range(100), ahead=8, workers=2)
    assert next(items) == 0
    items.close()
    assert not ended.is_set()
    gate.set()
    assert ended.wait(LIMIT)
    assert set(begun) <= {0, 1, 2}


def test_an_interrupt_in_the_loop_ends_the_threads() -> None:
    threads: set[threading.Thread] = set()

    def make(step: int) -> int:
        threads.add(threading.current_thread())
        return step

    with pytest.raises(KeyboardInterrupt), closing(prefetch(make, count())) as items:
        for item in items:
            if item == 2:
                raise KeyboardInterrupt
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_no_thread_or_nothing_ahead_is_refused() -> None:
    for options in ({"ahead": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match="ahead and workers must be at least 1"):
            next(prefetch(lambda step: step, range(3), **options))
