"""What befalls a training run from outside: the environment, another run, damage, a folder that is closed."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from examples.deblurring.training.loop import Loop
from tafm_loss.runs import locked
from tests.examples.deblurring.training_runs import Run, weights

CONFIG = """
network: {name: residual-unet, options: {width: 4}}
data: {dataset: flat, root: tree, crop_size: 32}
objective: [{loss: l1, weight: 1}]
training: {steps: 4, batch_size: 2, checkpoint_every: 2, workers: 1}
"""


def same(a: Path, b: Path) -> bool:
    there, here = weights(a), weights(b)
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in there)


def breaking(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    step = Loop._step

    def call(self: Loop, drawn: object, now: int) -> None:
        if now == number:
            raise RuntimeError("power cut")
        step(self, drawn, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_step", call)


@pytest.mark.parametrize("variable", ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4", "ACCELERATE_DYNAMO_BACKEND=inductor"])
def test_variables_of_accelerate_change_nothing(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    run("whole")
    monkeypatch.setenv(*variable.split("="))
    run("run")
    assert same(tmp_path / "run", tmp_path / "whole")


def test_pairs_that_cannot_be_read_are_left_out_for_good(
    datasets: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(datasets / "tree", tmp_path / "tree")
    here = f"data.root={tmp_path / 'tree'}"
    damaged, other = sorted((tmp_path / "tree" / "train" / "input").iterdir())[:2]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-40])
    with pytest.warns(
        UserWarning, match=rf"1 of \d+ pairs cannot be read, {damaged.stem}: .* cannot be read as an image"
    ):
        run("unbroken", here)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        breaking(patch, 3)
        run("run", here)
    assert list(json.loads((tmp_path / "run" / "quarantine.json").read_text())) == [damaged.stem]
    # What is left out stays so, be it repaired or removed; what was read must still be there.
    damaged.write_bytes(whole)
    before = other.read_bytes()
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{other.stem}: .* they could be when the run began: restore them"):
        run("run", here, resume=True)
    other.write_bytes(before)
    for path in (damaged, damaged.parents[1] / "target" / damaged.name):
        path.unlink()
    run("run", here, resume=True)
    assert same(tmp_path / "run", tmp_path / "unbroken")


def test_a_folder_that_another_run_holds_is_refused(tmp_path: Path, run: Run) -> None:
    with locked(tmp_path / "run"), pytest.raises(BlockingIOError, match=rf"in use by process {os.getpid()} on "):
        run("run")
    assert not (tmp_path / "run").exists() and run("run")


@pytest.mark.parametrize("number", [0, 3])
def test_a_run_that_was_cut_before_or_after_its_first_checkpoint_goes_on(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run("whole")
    with monkeypatch.context() as patch:
        breaking(patch, number)
        with pytest.raises(RuntimeError, match="power cut"):
            run("cut")
    assert (tmp_path / "cut" / "checkpoint.pt").exists() == bool(number)
    assert run("cut", resume=True) and same(tmp_path / "cut", tmp_path / "whole")


def test_a_flipped_bit_in_the_checkpoint_is_found(tmp_path: Path, run: Run) -> None:
    run("run")
    path = tmp_path / "run" / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint that can be read \(its SHA-256"):
        run("run", resume=True)
    path.unlink()
    with pytest.raises(ValueError, match=r"no run to go on with, for there is no checkpoint\.pt"):
        run("run", resume=True)


def test_a_folder_that_is_closed_does_not_cost_the_network(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("whole")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    train = Loop.run

    def closing(self: Loop, *arguments: object) -> bool:
        finished = train(self, *arguments)  # type: ignore[arg-type]
        # A file in place of the folder stands for one that may only be read, which nothing is for the user root.
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").touch()
        return finished

    monkeypatch.setattr(Loop, "run", closing)
    with pytest.raises(OSError, match=r"the network could not be written to .*run: .*; it is safe in .*run-"):
        run("run")
    (rescued,) = (tmp_path / "temporary").iterdir()
    assert same(rescued, tmp_path / "whole")
