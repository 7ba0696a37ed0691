"""The files of a run: written whole, once, and refused where they are damaged, foreign or of another."""

import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tafm_loss.runs import Checkpoint, Progress
from tafm_loss.runs.checkpoint import _seal
from tests.runs.full_disk import full_disk

STEPS = 7


@pytest.fixture
def parts() -> dict[str, nn.Module]:
    return {"network": nn.utils.skip_init(nn.Linear, 3, 2)}


@pytest.fixture
def saved(tmp_path: Path, parts: dict[str, nn.Module]) -> Checkpoint:
    for parameter in parts["network"].parameters():
        nn.init.constant_(parameter, 0.5)
    checkpoint = Checkpoint(tmp_path, "settings", resume=True)
    checkpoint.save(parts, Progress(step=STEPS, history=[{"step": 0.0}]))
    return checkpoint


def test_what_is_saved_is_what_is_loaded(saved: Checkpoint, parts: dict[str, nn.Module]) -> None:
    nn.init.zeros_(parts["network"].weight)
    assert saved.load(parts) == Progress(step=STEPS, history=[{"step": 0.0}])
    assert bool((parts["network"].weight == 0.5).all())
    assert torch.load(saved.path, weights_only=True)["step"] == STEPS  # others can read it too


def test_what_an_interrupted_run_recorded_after_its_checkpoint_is_recorded_once(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "settings", resume=True)
    checkpoint.begin([])
    checkpoint.record({"step": 0.0})
    checkpoint.save({}, Progress(step=1, history=[{"step": 0.0}]))
    checkpoint.record({"step": 20.0})
    again = Checkpoint(tmp_path, "settings", resume=True)
    again.begin(again.load({}).history)
    again.record({"step": 20.0})
    assert (tmp_path / "history.jsonl").read_text() == '{"step": 0.0}\n{"step": 20.0}\n'


def test_a_checkpoint_that_cannot_be_written_is_warned_about_and_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "deep" / "down", "settings", resume=False)
    checkpoint.save({}, Progress(step=1))

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match=r"checkpoint of step 2 could not be written .*file write failed.* is kept"):
        checkpoint.save({}, Progress(step=2))
    assert checkpoint.load({}).step == 1
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["checkpoint.pt"]


def test_what_does_not_fit_on_the_disk_leaves_what_is_there_whole(
    saved: Checkpoint, parts: dict[str, nn.Module]
) -> None:
    saved.record({"step": 0.0})
    kept = [path.read_bytes() for path in (saved.history_path, saved.path)]
    with full_disk(saved.history_path.stat().st_size + 5):
        with pytest.warns(UserWarning, match=r"the history could not be written to .*history\.jsonl"):
            saved.record({"step": 20.0})
        with pytest.warns(UserWarning, match=r"the checkpoint of step 8 could not be .*checkpoint\.pt: .*disk full\?"):
            saved.save(parts, Progress(step=8))
    assert [path.read_bytes() for path in (saved.history_path, saved.path)] == kept
    saved.record({"step": 40.0})
    assert saved.history_path.read_text() == '{"step": 0.0}\n{"step": 40.0}\n'


def test_every_flipped_bit_is_found(saved: Checkpoint, parts: dict[str, nn.Module]) -> None:
    data = bytearray(saved.path.read_bytes())
    for place in range(len(data)):
        # One bit of every byte, a different one each time; the digest knows no better and no worse bits.
        data[place] ^= 1 << place % 8
        saved.path.write_bytes(data)
        with pytest.raises(ValueError, match="no checkpoint that can be read"):
            saved.load(parts)
        data[place] ^= 1 << place % 8
    saved.path.write_bytes(data)
    assert saved.load(parts).step == STEPS


def test_random_damage_is_refused_by_name(saved: Checkpoint, parts: dict[str, nn.Module]) -> None:
    data, draws = saved.path.read_bytes(), random.Random(0)
    for _ in range(300):
        first, second = sorted(draws.randrange(len(data)) for _ in range(2))
        damaged = draws.choice(
            [
                data[:first],
                data[second:],
                data[:first] + data[second:],
                data + data[:first],
                data[:first] + bytes(second - first) + data[second:],
                data[:first] + draws.randbytes(20) + data[first:],
            ]
        )
        if damaged == data:
            continue
        saved.path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint that can be read"):
            saved.load(parts)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def an_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"x")


def holding(content: object, *, sealed: bool = True) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save(content, path)
        if sealed:
            _seal(path)

    return write


WHOLE = {"settings": "settings", "processes": 1, "step": 1, "history": [], "best": None}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "no checkpoint that can be read"),
        (lambda path: path.write_bytes(pickle.dumps({"step": 1})), "no checkpoint that can be read"),
        (an_archive, "no checkpoint that can be read"),
        (a_folder, "no checkpoint that can be read"),
        (a_pipe, "no checkpoint that can be read"),
        (holding(WHOLE, sealed=False), "no checkpoint that can be read"),
        (holding([1, 2]), "no checkpoint that can be read"),
        (holding({"state_dict": {}}), "no checkpoint that can be read"),
        (holding({**WHOLE, "settings": "others"}), "of another run: others, not settings"),
        (holding(WHOLE), "does not fit what is trained: 'network'"),
        (holding({**WHOLE, "network": None}), "does not fit what is trained"),
        (holding({**WHOLE, "network": {"weight": torch.zeros(9)}}), "does not fit what is trained: .*size mismatch"),
    ],
)
def test_a_foreign_file_is_refused_by_name(
    tmp_path: Path, parts: dict[str, nn.Module], write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "checkpoint.pt")
    checkpoint = Checkpoint(tmp_path, "settings", resume=True)
    with pytest.raises(ValueError, match=rf"(?s)checkpoint\.pt .*{message}"):
        checkpoint.load(parts)


def test_another_number_of_processes_is_told(saved: Checkpoint, parts: dict[str, nn.Module], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="made by 1 processes, and goes on with 2: .* up to rounding"):
        Checkpoint(tmp_path, "settings", resume=True, processes=2).load(parts)
