"""The files of a run: written whole, once, and refused where they are of another."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tafm_loss.finetune.checkpoint import Checkpoint, Progress, interrupts


def test_what_an_interrupted_run_recorded_after_its_checkpoint_is_recorded_once(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "settings", resume=True)
    checkpoint.begin([])
    checkpoint.record({"step": 0.0})
    checkpoint.save({}, Progress(step=1, history=[{"step": 0.0}]))
    checkpoint.record({"step": 20.0})
    (tmp_path / ".0123.tmp").write_bytes(b"half a checkpoint")
    again = Checkpoint(tmp_path, "settings", resume=True)
    again.begin(again.load({}).history)
    again.record({"step": 20.0})
    assert (tmp_path / "history.jsonl").read_text() == '{"step": 0.0}\n{"step": 20.0}\n'
    assert not (tmp_path / ".0123.tmp").exists()


def test_a_checkpoint_that_cannot_be_written_is_warned_about_and_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "deep" / "down", "settings", resume=False)
    checkpoint.save({}, Progress(step=1))

    def full(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match=r"checkpoint of step 2 could not be written .*file write failed.* is kept"):
        checkpoint.save({}, Progress(step=2))
    assert checkpoint.load({}).step == 1
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_is_noted_and_the_second_acts_as_usual(number: signal.Signals) -> None:
    class UsualError(Exception):
        pass

    def usual(number: int, frame: Any) -> None:
        raise UsualError

    before = signal.signal(number, usual)
    try:
        with interrupts() as interrupted:
            assert not interrupted.is_set()
            signal.raise_signal(number)
            assert interrupted.is_set()
            with pytest.raises(UsualError):
                signal.raise_signal(number)
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)
