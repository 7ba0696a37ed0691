"""Training runs: taken up exactly, logged, interrupted, refused; and the same whatever the parts of a batch."""

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from examples.deblurring import train as program
from examples.deblurring.training.loop import Loop
from tests.examples.deblurring.training_runs import Run, Weights, rows, weights

CONFIG = """
network: {name: residual-unet, options: {width: 4}}
data: {dataset: flat, root: tree, crop_size: 32}
objective: [{loss: l1, weight: 1}, {loss: edge, gradient_ratio: 0.5}]
optimizer: {learning_rate: 1e-2}
training: {steps: 6, batch_size: 2, checkpoint_every: 2, log_every: 2, samples_every: 3, workers: 1, ema: 0.9}
"""


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_what_it_says(tmp_path: Path, run: Run) -> None:
    assert run("run")
    out = tmp_path / "run"
    logged = [row for row in rows(out) if "loss" in row]
    assert rows(out)[0]["l1_weight"] == 1 and rows(out)[0]["edge_weight"] > 0
    assert [row["step"] for row in logged] == [2, 4, 6]
    assert all(row["loss"] == pytest.approx(row["l1"] + row["edge"]) for row in logged)
    assert all(row["images_per_second"] > 0 and row["peak_memory_mib"] > 1 for row in logged)
    assert all(0 <= row["data_wait"] <= 1 and row["gradient_norm"] > 0 for row in logged)
    assert json.loads((out / "config.json").read_text())["network"]["name"] == "residual-unet"
    assert [path.name for path in sorted((out / "samples").iterdir())] == ["0000003.png", "0000006.png"]
    assert Image.open(out / "samples" / "0000006.png").size == (3 * 64, 4 * 48)
    assert not same(weights(out), weights(out, "network_ema"))


@pytest.mark.parametrize("changes", [(), ("network={name: mimo-unet-plus, options: {width: 4, blocks: 1}}",)])
def test_a_run_that_was_cut_and_taken_up_is_that_of_an_unbroken_one(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, changes: Sequence[str]
) -> None:
    changes = ("training.samples_every=2", *changes)
    run("whole", *changes)
    step = Loop._step

    def breaking(self: Loop, drawn: object, number: int) -> None:
        if number == 3:
            raise RuntimeError("power cut")
        step(self, drawn, number)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_step", breaking)
    with pytest.raises(RuntimeError, match="power cut"):
        run("cut", *changes)
    monkeypatch.undo()
    torch.manual_seed(99)
    run("cut", *changes, resume=True)
    for name in ("network", "network_ema"):
        assert same(weights(tmp_path / "cut", name), weights(tmp_path / "whole", name))
    timeless = [
        [(row["step"], row.get("loss"), row.get("sample_gain_db")) for row in rows(tmp_path / name)]
        for name in ("cut", "whole")
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_the_end_of_a_time_limit_saves_what_there_is_and_resume_goes_on(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    run("whole")
    step = Loop._step

    def interrupted(self: Loop, drawn: object, number: int) -> None:
        step(self, drawn, number)  # type: ignore[arg-type]
        if number == 2:
            signal.raise_signal(sent)

    monkeypatch.setattr(Loop, "_step", interrupted)
    assert not run("run")
    assert (tmp_path / "run" / "network.safetensors").exists()
    assert run("run", resume=True)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_batch_in_parts_gives_what_the_whole_gives(tmp_path: Path, run: Run) -> None:
    changes = ("training.steps=2", "objective=[{loss: l1, weight: 1}]", "optimizer.learning_rate=1e-4")
    run("whole", *changes)
    run("parts", *changes, "training.accumulation=2")
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.allclose(first[name], second[name], atol=2e-5) for name in first)
    assert rows(tmp_path / "parts")[0]["loss"] == pytest.approx(rows(tmp_path / "whole")[0]["loss"], rel=1e-4)


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps the first precision of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_training_in_bfloat16_computes_the_loss_in_float32(tmp_path: Path, run: Run) -> None:
    changes = ("training.mixed_precision=bf16", "training.steps=2", "network={name: nafnet-32, options: {width: 4}}")
    run("run", *changes)
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def test_a_fine_tune_starts_from_the_weights_it_names(tmp_path: Path, run: Run) -> None:
    run("start")
    named = f"network.weights={tmp_path / 'start' / 'network.safetensors'}"
    run("tuned", named, "optimizer.learning_rate=0")
    assert same(weights(tmp_path / "tuned"), weights(tmp_path / "start"))


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Loop._step

    def poisoned(self: Loop, drawn: object, number: int) -> None:
        if number == 2:
            with torch.no_grad():
                next(self.network.parameters()).fill_(float("nan"))
        step(self, drawn, number)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_step", poisoned)
    with pytest.raises(
        FloatingPointError, match=r"l1, edge, gradient_norm stopped being finite before step 4.*checkpoint\.pt"
    ):
        run("run")
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 2 and all(bool(tensor.isfinite().all()) for tensor in kept["network"].values())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("network.name=unet",), "unet"),
        (("data.dataset=gopr",), "gopr"),
        (("objective=[{loss: l3, weight: 1}]",), "no loss 'l3'"),
        (("schedule.name=linear",), "cosine"),
        (("optimizer.name=sgd",), "adam or adamw"),
        (("data.crop_size=999",), "crops of 999 px"),
        (("training.batch_size=3", "training.accumulation=2"), "multiple of 1 processes x 2 parts"),
        (("data.augmentation=colour",), "augmentation"),
    ],
)
def test_what_an_experiment_names_and_does_not_exist_is_told(
    tmp_path: Path, run: Run, changes: Sequence[str], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        run("run", *changes)


def test_a_folder_with_a_run_is_never_overwritten(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ValueError, match=r"no run to go on with.*leave --resume out"):
        run("run", resume=True)
    run("run")
    before = (tmp_path / "run" / "history.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds files already"):
        run("run")
    with pytest.raises(ValueError, match=r"learning_rate is 0\.01 there and 1\.0 now"):
        run("run", "optimizer.learning_rate=1", resume=True)
    (tmp_path / "run" / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="holds files already"):
        run("run")
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == before


def test_the_program_tells_faults_in_a_line(tmp_path: Path, datasets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment.yaml").write_text(CONFIG)
    config, place = str(tmp_path / "experiment.yaml"), ["--datasets", str(datasets), "--out", str(tmp_path / "run")]
    assert program.main([config, *place, "--set", "training.steps=1", "training.workers=2"]) == 0
    assert "trained:" in capsys.readouterr().out
    for wrong, told in (
        ([], "name one experiment, got 0"),
        ([str(tmp_path / "none.yaml")], "none.yaml"),
        ([config, "--set", "training.stepz=1"], "Did you mean: 'steps'"),
        ([config, "--datasets", str(tmp_path / "nowhere"), "--out", str(tmp_path / "other")], "nowhere"),
        ([config, *place], "holds files already"),
    ):
        assert program.main(wrong) == 2
        error = capsys.readouterr().err
        assert told in error and error.startswith("train: error: ") and error.count("\n") == 1
