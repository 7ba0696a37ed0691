"""Signals are noted and change nothing else, however many come; afterwards they act as before."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tafm_loss.runs import interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class UsualError(Exception):
    pass


def usual(number: int, frame: Any) -> None:
    raise UsualError


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.signal(number, usual) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_however_often_it_comes_and_acts_as_usual_afterwards(number: signal.Signals) -> None:
    with interrupts() as interrupted:
        assert not interrupted()
        for again in [number, *SIGNALS, *SIGNALS]:
            signal.raise_signal(again)
            assert interrupted()
    with pytest.raises(UsualError):
        signal.raise_signal(number)


def test_ctrl_c_ends_what_hangs_and_a_launchers_signals_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tafm_loss.runs.signals.PATIENCE_S", 0.0)
    with interrupts() as interrupted:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert interrupted()
        with pytest.raises(UsualError):
            signal.raise_signal(signal.SIGINT)


def test_what_the_process_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with interrupts() as interrupted:
        signal.raise_signal(signal.SIGHUP)
        assert not interrupted()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
