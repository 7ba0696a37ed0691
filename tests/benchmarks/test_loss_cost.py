"""What the benchmark of costs counts, leaves out and compares is what it says, and its peers need no download."""

import math
import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.seeds import seeded

Scripts = Callable[[str], ModuleType]


@pytest.fixture
def timing(script: Scripts) -> ModuleType:
    return script("_cost_timing")


@pytest.fixture
def fidelity(script: Scripts) -> ModuleType:
    return script("_cost_fidelity")


@pytest.mark.parametrize("name", ["torchmetrics LPIPS, alex", "piq LPIPS", "piq DISTS"])
def test_peers_are_built_without_network_and_pass_a_gradient(
    script: Scripts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name.partition(" ")[0], reason="a peer that is not installed")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    before = torch.random.get_rng_state()
    pred, target = (torch.rand(1, 3, 48, 48, generator=seeded(seed)) for seed in (0, 1))
    loss = script("_cost_arms").build(name, target)
    pred.requires_grad_()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss(pred, target), pred)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_cases_that_would_take_too_long_are_left_out_and_named(
    timing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"quick": 0.1, "slow": 5.0}
    measured = []

    def measure_case(case: Any, names: Any, rounds: int) -> dict[str, Any]:
        measured.append((case.batch, list(names)))
        return {name: {"seconds": [seconds[name]]} for name in names}

    monkeypatch.setattr(timing, "measure_case", measure_case)
    cases = [timing.Case(8, 16), timing.Case(16, 16)]
    rows = timing.measure_cases(timing.Case(4, 16), cases, seconds, list(seconds), rounds=1)
    assert measured == [(4, ["quick", "slow"]), (8, ["quick", "slow"]), (16, ["quick"])]
    (absent,) = [row for row in rows if "left_out" in row]
    assert (absent["arm"], absent["batch"], absent["predicted_seconds"]) == ("slow", 16, 20.0)
    assert timing.median_seconds(rows, cases[1]) == {"quick": 0.1}


def test_work_is_counted_and_compared_with_the_higher_ceiling_as_by_hand(script: Scripts) -> None:
    matrix, roofline = torch.ones(8, 16), script("_cost_roofline")

    def step() -> None:
        product = matrix @ matrix.t()  # a view is no work
        product.add_(1)

    counted = roofline.count(step)
    assert counted["flop"] == 2 * 8 * 8 * 16
    # Both factors and the product; the product as input, and again as output.
    assert counted["bytes"] == 4 * (2 * 8 * 16 + 8 * 8) + 4 * 2 * 8 * 8
    # An expanded tensor counts the memory that it lies in.
    assert roofline.count(torch.ones(1, 16).expand(1000, 16).sum)["bytes"] == 4 * (16 + 1)
    ceilings = {"flop_per_s": 100.0, "bytes_per_s": 10.0}
    memory = roofline.against(ceilings, {"flop": 100, "bytes": 40}, 8.0)
    assert (memory["flop_share"], memory["bytes_share"], memory["roofline_share"]) == (0.125, 0.5, 0.5)
    assert memory["bound"] == "memory"
    assert roofline.against(ceilings, {"flop": 100, "bytes": 4}, 8.0)["bound"] == "compute"
    training = script("_cost_training")
    assert training.share({"L1": [9.0, 8.0, 100.0], "L1 + default": [10.0, 12.0, 9.0]}) == pytest.approx(0.1)


def test_residuals_have_the_psnr_that_is_asked_for(fidelity: ModuleType) -> None:
    sharp = torch.rand(2, 3, 48, 48, generator=seeded())
    restored = fidelity.restored_images(sharp)
    assert len(restored) == 2
    for images in restored.values():
        error = (images - sharp).square().mean((1, 2, 3))
        torch.testing.assert_close(-10 * error.log10(), torch.full((2,), fidelity.PSNR_DB), atol=0.01, rtol=0)


def test_the_cosine_falls_where_a_loss_loses_digits(fidelity: ModuleType) -> None:
    def difference(pred: Tensor, target: Tensor) -> Tensor:
        return (
            (F.conv2d(pred, torch.ones(1, 3, 1, 1)) - F.conv2d(target, torch.ones(1, 3, 1, 1))).float().square().sum()
        )

    sharp = 0.5 + 0.4 * torch.rand(2, 3, 16, 16, generator=seeded())
    near = sharp + 1e-3 * torch.randn(sharp.shape, generator=seeded(1))
    far = 1 - sharp
    cosines = {}
    for name, pred in (("near", near), ("far", far)):
        exact = fidelity.gradient(difference, pred, sharp)
        torch.testing.assert_close(fidelity.cosines(exact, 3 * exact)["least"], 1.0)
        cosines[name] = fidelity.cosines(exact, fidelity.gradient(difference, pred, sharp, "bfloat16"))
    assert cosines["near"]["least"] < 0.9 < 0.999 < cosines["far"]["least"]


def result_of(benchmark: ModuleType) -> dict[str, Any]:
    """A result whose time grows as the power 1.5 of the pixels, and of which VGG19 misses the largest case."""
    base = benchmark.Case()
    cases = [benchmark.Case(size=size) for size in (128, 256, 512)]
    ways = [benchmark.Case(dtype="bfloat16"), benchmark.Case(compiled=True)]
    unit = {name: 1.0 + index for index, name in enumerate(benchmark.ARMS)}
    unit |= {benchmark.VGG19: 20.0, benchmark.CACHED: 0.71}
    rows = [
        {
            "arm": name,
            **benchmark.dataclasses.asdict(case),
            "seconds": [unit[name] * (case.pixels / base.pixels) ** 1.5],
        }
        for case in (*cases, *ways)
        for name in benchmark.VARIED
        if (name, case.size) != (benchmark.VGG19, 512)
    ]
    cosine = {"arm": benchmark.DEFAULT, "use": "autocast", "mean": 1.0, "batch": 1.0}
    return {
        "base": benchmark.dataclasses.asdict(base),
        "cases": rows,
        "measurements": {name: {"seconds": [unit[name]] * 2, "mebibytes": 8.0} for name in unit},
        "growth": {name: benchmark.growth(rows, name) for name in benchmark.VARIED},
        "training": [
            {"network": network, **benchmark.dataclasses.asdict(base), "share": share}
            for network, share in ((benchmark.UNET, 0.5), (benchmark.NAFNET, 0.05), (benchmark.NAFNET, 0.11))
        ],
        "fidelity": [
            {**cosine, "residual": "shake", "least": 0.999},
            {**cosine, "residual": "noise", "least": 0.98},
            {**cosine, "residual": "noise", "least": 0.1, "use": "images in bfloat16"},
        ],
    }


def test_goals_take_the_worst_case_and_table_and_picture_say_so(script: Scripts, tmp_path: Path) -> None:
    benchmark = script("loss_cost")
    result = result_of(benchmark)
    assert all(math.isclose(exponent, 1.5) for exponent in result["growth"].values())
    goals = {row["goal"]: (row["value"], row["holds"]) for row in benchmark.compare(result)}
    assert goals[f"{benchmark.DEFAULT} / {benchmark.VGG19}, seconds"] == (0.05, True)
    assert goals[f"{benchmark.CACHED} / {benchmark.DEFAULT}, seconds"] == (0.71, False)
    assert [goals[goal] for goal in goals if "share" in goal] == [(0.11, False)]
    assert [goals[goal] for goal in goals if "cosine" in goal] == [(0.999, True), (0.98, False)]
    table = benchmark.as_table(result | {"form": "tafm-compact, stage1, structure"})
    assert table["rows"][0] == ["tafm-compact, stage1, structure", "1000", "1000 - 1000", "0.050", "8"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert "11.0 %" in table["caption"] and "0.9800 (noise)" in table["caption"]
    # A result that does not name its form is of the former default.
    former, ours = "tafm-compact, all stages, normalized_l2", list(benchmark.ARMS)
    names = [row[0] for row in benchmark.as_table(result)["rows"]]
    assert names == [former, f"{former}, cached targets", *ours[2:]]
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture and is not installed")
    benchmark.draw(result, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
