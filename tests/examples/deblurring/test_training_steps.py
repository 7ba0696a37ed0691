"""Single steps in closed form, and what a run is guarded against."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.trees import make_tree
from examples.deblurring.models.networks import create_network
from examples.deblurring.training.loop import Loop
from examples.deblurring.training.objective import Objective
from examples.deblurring.training.samples import Samples
from tests.examples.deblurring.training_runs import Run, Weights, rows, weights

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
network: {name: residual-unet, options: {width: 4}}
data: {dataset: flat, root: tree, crop_size: 32, samples: null}
objective: [{loss: l1, weight: 1}]
optimizer: {learning_rate: 4e-3}
schedule: {name: constant}
training: {steps: 1, batch_size: 2, workers: 1}
"""


Trained = Callable[..., Weights]


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Trained:
    """Return a function that trains as `run` does, and returns the weights."""

    def call(name: str, *changes: str) -> Weights:
        assert run(name, *changes)
        return weights(tmp_path / name)

    return call


def start() -> Weights:
    return create_network("residual-unet", width=4).state_dict()


def largest_change(after: Weights, before: Weights) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before)


def test_adams_first_step_is_as_long_as_the_rate_of_that_step(trained: Trained) -> None:
    assert largest_change(trained("plain"), start()) == pytest.approx(4e-3, rel=1e-3)
    rising = trained("rising", "schedule.warm_up=4", "training.steps=4", "optimizer.betas=[0.0,0.0]")
    # With betas of 0 every step is as long as its rate: 1 + 2 + 3 + 4 thousandths at most.
    assert 6e-3 < largest_change(rising, start()) <= 10e-3 * 1.001


def test_a_gradient_clipped_below_adams_eps_moves_nothing(trained: Trained) -> None:
    assert largest_change(trained("clipped", "training.clip=1e-13"), start()) < 4e-3 * 1e-4


def test_the_moving_average_is_that_of_the_weights(trained: Trained, tmp_path: Path) -> None:
    first = trained("one", "training.ema=0.75")
    second = trained("two", "training.ema=0.75", "training.steps=2")
    average = load_file(tmp_path / "two" / "network_ema.safetensors")
    for name, value in average.items():
        assert torch.allclose(value, 0.75 * first[name] + 0.25 * second[name], atol=1e-7)


class Sharpened(nn.Module):
    """Gives what it is told, whatever comes."""

    multiple = 1

    def __init__(self, answers: list[Tensor]) -> None:
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [next(self.answers)]


def test_the_gain_of_pictures_is_that_over_the_blurred_images(tmp_path: Path) -> None:
    make_tree("flat", tmp_path / "tree", "test", scenes=1, frames=1)
    samples = Samples(open_pairs("flat", tmp_path / "tree", "test"), tmp_path / "out", torch.device("cpu"))
    ((blurred, sharp),) = samples.pairs
    half = (blurred + sharp) / 2
    assert samples.show(Sharpened([blurred]), 1) == pytest.approx(0, abs=1e-9)
    assert samples.show(Sharpened([half]), 2) == pytest.approx(20 * torch.tensor(2.0).log10().item(), abs=1e-4)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["0000001.png", "0000002.png"]


def test_a_feature_term_leaves_dropout_and_the_other_terms_of_the_first_step_alone(run: Run, tmp_path: Path) -> None:
    network = "network={name: mimo-unet-plus, options: {width: 4, blocks: 1}}"
    run("control", network)
    run("arm", network, "objective=[{loss: l1, weight: 1}, {loss: edge, gradient_ratio: 0.5}]")
    assert rows(tmp_path / "arm")[-1]["l1"] == rows(tmp_path / "control")[-1]["l1"]


def test_the_weight_is_the_median_over_sixteen_batches(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([100.0, 0.0, *range(1, 15)])
    monkeypatch.setattr(Objective, "calibrated_weights", lambda *_: [1.0, float(next(found))])
    run("run", "objective=[{loss: l1, weight: 1}, {loss: edge, gradient_ratio: 0.5}]")
    # The lower of the two in the middle of 0, 1 ... 14, 100.
    assert rows(tmp_path / "run")[0]["edge_weight"] == 7


def test_weights_that_are_not_finite_are_not_kept(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Loop._step

    def poisoning(self: Loop, drawn: object, number: int) -> None:
        step(self, drawn, number)  # type: ignore[arg-type]
        if number == poisoned:
            with torch.no_grad():
                next(self.network.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Loop, "_step", poisoning)
    for poisoned, told in ((1, r"weights stopped being finite before step 2; the last checkpoint"), (0, "step 1; try")):
        with pytest.raises(FloatingPointError, match=told):
            run(str(poisoned), "training.steps=3", "training.checkpoint_every=1")
    kept = torch.load(tmp_path / "1" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 1 and all(bool(value.isfinite().all()) for value in kept["network"].values())


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ("training.workers=3", True),
        ("training.log_every=1", True),
        ("data.crop_size=16", False),
        ("training.seed=1", False),
    ],
)
def test_a_run_goes_on_with_what_decides_nothing_changed_and_nothing_else(
    run: Run, change: str, accepted: bool
) -> None:
    run("run")
    if accepted:
        run("run", change, resume=True)
        return
    with pytest.raises(ValueError, match=rf"holds another run: {change.partition('=')[0]} is"):
        run("run", change, resume=True)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(trained: Trained, datasets: Path, tmp_path: Path) -> None:
    whole = trained("one", "training.steps=3")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("-m", "examples.deblurring.train"),
    ]
    place = ["--datasets", str(datasets), "--out", str(tmp_path / "two"), "--set", "training.steps=3"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(tmp_path / "experiment.yaml"), *place],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained:") == 1
    halves = load_file(tmp_path / "two" / "network.safetensors")
    assert all(torch.allclose(whole[name], halves[name], atol=1e-5) for name in whole)
