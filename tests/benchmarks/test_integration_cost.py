"""What each trainer's own term is made of, how its case is scaled, and what the table says where there is no term."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests.seeds import seeded


@pytest.fixture
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("torchvision", reason="the terms are over VGG19 of torchvision")
    return script("integration_cost")


def test_a_term_adds_the_distances_of_convolutions_before_their_relus(
    script: Callable[[str], ModuleType], benchmark: ModuleType
) -> None:
    loss = script("_cost_arms").Vgg19Loss(benchmark.VGG_FIVE[:2], benchmark.charbonnier)
    assert [type(loss.features[tap]) for tap in benchmark.VGG_FIVE[:2]] == [nn.Conv2d] * 2
    pred, target = (torch.rand(1, 3, 16, 16, generator=seeded(seed)) for seed in (0, 1))

    def at(tap: int, images: Tensor) -> Tensor:
        return loss.features[: tap + 1]((images - loss.mean) / loss.std)

    expected = sum((at(tap, pred) - at(tap, target)).abs().mean() for tap in loss.taps)
    torch.testing.assert_close(loss(pred, target), expected)


def test_the_crop_stays_and_the_batch_is_lowered(benchmark: ModuleType) -> None:
    usual = [(16, 128), (2, 128), (8, 256), (1, 384)]
    cases = [benchmark.Trainer("any", *sizes).measured for sizes in usual]
    assert [(case.batch, case.size) for case in cases] == [(4, 128), (2, 128), (1, 256), (1, 384)]


def test_a_trainer_without_a_term_has_the_time_of_the_loss_and_no_ratio(benchmark: ModuleType) -> None:
    own = benchmark.Term("tiny VGG", (0,), benchmark.charbonnier)
    trainers = [benchmark.Trainer("with", 1, 32, own), benchmark.Trainer("without", 1, 32)]
    rows = [benchmark.measure(trainer, trainer.measured, rounds=1) for trainer in trainers]
    table = benchmark.as_table(rows, "a form")
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert rows[0]["ratio"] > 0 and "-" not in table["rows"][0]
    assert rows[1]["ratio"] is None and table["rows"][1][1] == "none"
    assert [cell == "-" for cell in table["rows"][1][4:]] == [True, False, True]


def test_the_table_of_trainers_has_the_ratios_of_the_result() -> None:
    root = Path(__file__).resolve().parents[2]
    result = json.loads((root / "benchmarks/results/integration_cost.json").read_text())
    ratios = {row["trainer"]: f"{row['ratio']:.3f}" for row in result["rows"] if row["ratio"] is not None}
    text = (root / "examples/integrations/README.md").read_text().partition("## What it costs")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    costs = {cells[0]: cells[-1] for cells in lines}
    for trainer, name in [
        ("BasicSR 1.4.2 (ESRGAN)", "BasicSR 1.4.2"),
        ("NAFNet, with BasicSR's term", "NAFNet"),
        ("traiNNer-redux", "neosr, traiNNer-redux"),
    ]:
        assert costs[name] == ratios[trainer]
