"""The training loop: its rates, gradients, scales and validation passes, and when it ends."""

import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.finetune import GradedObjective, Measured, TripletObjective, finetune_backbone
from tafm_loss.finetune.loop import Loop
from tafm_loss.finetune.tuning import StepOutput, Tuning, Validation
from tests.finetune.conftest import SMALL, weights


def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam divides gradients by themselves; without that, what they are can be seen in the weights."""

    def descent(parameters: Any, lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
        assert betas == (0.9, 0.99)
        return torch.optim.SGD(parameters, lr=lr)

    monkeypatch.setattr("torch.optim.AdamW", descent)


@pytest.mark.parametrize(("factor", "clipped"), [(1e4, True), (1e-6, False)])
def test_a_gradient_longer_than_one_is_shortened_to_one(
    backbone: Backbone,
    scenes: Tensor,
    blur: BlurSynthesizer,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    clipped: bool,
) -> None:
    class Steep(TripletObjective):
        def terms(self, measured: Measured) -> dict[str, Tensor]:
            return {"order": factor * super().terms(measured)["order"]}

    plain_descent(monkeypatch)
    options = {"synthesizer": blur, "objective": Steep(), "steps": 1, "learning_rate": 0.5, **SMALL}
    moved = (weights(finetune_backbone(backbone, scenes, **options).backbone) - weights(backbone)).norm().item()
    assert moved == pytest.approx(0.5, rel=1e-3) if clipped else moved < 1e-3


def test_the_rate_rises_for_a_twentieth_and_falls_as_a_cosine(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr("torch.optim.AdamW", lambda parameters, lr, betas: Watched(parameters, lr=lr))
    flat = GradedObjective(distractors=False)
    options = {"synthesizer": blur, "objective": flat, "steps": 40, "learning_rate": 0.2, **SMALL}
    finetune_backbone(backbone, scenes, **options)
    cosine = [0.1 * (1 + math.cos(math.pi * step / 38)) for step in range(38)]
    assert rates == pytest.approx([0.1, 0.2, *cosine])


def test_the_scale_of_a_tap_follows_its_distances_and_the_untuned_one_stays(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outputs: list[Tensor] = []
    forward = Tuning.forward

    def watched(self: Tuning, *given: Any) -> StepOutput:
        output = forward(self, *given)
        outputs.append(output.tap_distances)
        return output

    monkeypatch.setattr(Tuning, "forward", watched)
    goal = GradedObjective(geometry=1.0)
    options = {"synthesizer": blur, "objective": goal, "steps": 3, "out_dir": tmp_path, **SMALL}
    finetune_backbone(backbone, scenes, **options)
    first, *steps = outputs
    expected = first
    for now in steps:
        expected = 0.95 * expected + 0.05 * now
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.testing.assert_close(kept["tuning"]["scales"], expected)
    torch.testing.assert_close(kept["tuning"]["untuned_scales"], first)
    assert len(steps) == 3 and not torch.allclose(expected, first, rtol=1e-3)


def test_a_batch_in_parts_is_the_batch(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_descent(monkeypatch)
    whole, parts = (
        finetune_backbone(backbone, scenes, synthesizer=blur, steps=3, accumulation=k, **{**SMALL, "batch_size": 4})
        for k in (1, 2)
    )
    torch.testing.assert_close(weights(parts.backbone), weights(whole.backbone), rtol=1e-4, atol=1e-5)
    assert parts.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-4)
    assert (weights(whole.backbone) - weights(backbone)).abs().max() > 1e-4


class Broken(GradedObjective):
    """Fails in its term "grey" or, with a finite value, in the gradient of it."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        terms = super().terms(measured)
        distance = measured.distances["grey"].mean()
        zero = distance - distance
        terms["grey"] = distance * math.nan if self.part == "value" else zero.sqrt()
        return terms


@pytest.mark.parametrize(
    ("part", "message"),
    [("value", "objective is not finite at step 0: grey, loss; "), ("gradient", "gradient is not finite at step 0")],
)
def test_what_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path, part: str, message: str
) -> None:
    with pytest.raises(FloatingPointError, match=message):
        finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, objective=Broken(part), **SMALL)
    options = {"synthesizer": blur, "steps": 2, "objective": Broken(part), "out_dir": tmp_path, **SMALL}
    with pytest.raises(FloatingPointError, match=r"last checkpoint is kept in .*checkpoint\.pt"):
        finetune_backbone(backbone, scenes, **options)
    assert not (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "model.safetensors").exists()


class Scripted(TripletObjective):
    """Says of held-out scenes what it is told to."""

    def __init__(self, says: list[float]) -> None:
        super().__init__()
        self.says = iter([0.0, *says])  # the first pass without gradient finds the scales

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        return super().terms(measured) if torch.is_grad_enabled() else {"order": torch.tensor(next(self.says))}


@pytest.mark.parametrize(("patience", "steps", "best"), [(2, 4, 1), (1, 3, 1), (3, 5, 4)])
def test_patience_ends_the_run_with_the_weights_of_the_best_pass(
    backbone: Backbone,
    scenes: Tensor,
    blur: BlurSynthesizer,
    monkeypatch: pytest.MonkeyPatch,
    quick_report: None,
    tmp_path: Path,
    patience: int,
    steps: int,
    best: int,
) -> None:
    monkeypatch.setattr("tafm_loss.finetune.loop.VALIDATE_EVERY", 1)
    seen: list[Tensor] = []
    measure = Validation.measure

    def watched(self: Validation, tuning: Tuning) -> dict[str, float]:
        seen.append(weights(tuning.backbone).clone())
        return measure(self, tuning)

    monkeypatch.setattr(Validation, "measure", watched)
    options = {"steps": 5, "synthesizer": blur, "validation": 0.4, "patience": patience, "out_dir": tmp_path, **SMALL}
    result = finetune_backbone(backbone, scenes, objective=Scripted([3.0, 1.0, 1.0, 1.5, 0.1]), **options)
    assert result.finished and len(seen) == steps and torch.equal(weights(result.backbone), seen[best])
    # A run that stopped early has come to its end: it is not trained on.
    again = finetune_backbone(backbone, scenes, objective=Scripted([]), resume=True, **options)
    assert again.finished and len(seen) == steps
    assert torch.equal(weights(again.backbone), weights(result.backbone)) and again.history == result.history


def test_without_patience_the_last_weights_are_taken(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, monkeypatch: pytest.MonkeyPatch, quick_report: None
) -> None:
    monkeypatch.setattr("tafm_loss.finetune.loop.VALIDATE_EVERY", 1)
    runs = [
        finetune_backbone(
            backbone, scenes, objective=Scripted(says), steps=3, synthesizer=blur, validation=0.4, **SMALL
        )
        for says in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    ]
    assert torch.equal(weights(runs[0].backbone), weights(runs[1].backbone))


class Disk(Dataset[Tensor]):
    """Counts what is read of it, and is gone after some images."""

    def __init__(self, images: Tensor, until: float = math.inf) -> None:
        self.images = images
        self.until = until
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        if self.reads > self.until:
            raise RuntimeError("the disk is gone")
        return self.images[index]


def test_few_batches_are_read_ahead_and_none_after_the_end(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer
) -> None:
    disk, reads = Disk(scenes), []

    class Watching(TripletObjective):
        def terms(self, measured: Measured) -> dict[str, Tensor]:
            reads.append(disk.reads)
            return super().terms(measured)

    finetune_backbone(backbone, disk, synthesizer=blur, objective=Watching(), steps=9, **SMALL)
    # One batch in work, four that are waiting, two images each; the first objective finds the scales.
    assert all(now <= 2 * (step + 5) for step, now in enumerate(reads[1:], start=1)), reads
    # What training reads, and the centres that units are measured on.
    assert disk.reads == 2 * 9 + 6


def test_no_step_of_a_long_run_draws_as_another_does() -> None:
    plans = [SimpleNamespace(plan=SimpleNamespace(seed=seed)) for seed in (0, 1, -1, 2**62)]
    seeds = {Loop._seed(plan, step) for plan in plans for step in range(2000)}  # type: ignore[arg-type]
    assert len(seeds) == 8000
    for seed in (min(seeds), max(seeds)):
        torch.Generator().manual_seed(seed)


def test_what_reading_raises_ends_the_run_at_its_step_and_its_threads_with_it(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path
) -> None:
    options = {"synthesizer": blur, "objective": "triplet", "steps": 100, "out_dir": tmp_path, **SMALL}
    with pytest.raises(RuntimeError, match="the disk is gone"):
        finetune_backbone(backbone, Disk(scenes, until=12), **options)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1
    for thread in threading.enumerate():
        if thread.name.startswith("crops"):
            thread.join(5)
            assert not thread.is_alive()
