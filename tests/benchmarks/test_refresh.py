"""A distance is refreshed as it is said to be and no further, adversaries learn, and the verdict is as named."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tafm_loss import TaskAdaptiveFeatureLoss, create_backbone, gradient_ratio
from tafm_loss.finetune import Measured
from tafm_loss.scenes import generate_scenes
from tests.seeds import seeded

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


@pytest.fixture
def part(script: Callable[[str], ModuleType]) -> Any:
    return lambda name: script(f"refreshing.{name}")


def batch(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Restored, sharp and blurred scenes."""
    sharp = generate_scenes(count, 64, generator=seeded())
    blurred = F.avg_pool2d(F.pad(sharp, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return (sharp + blurred) / 2, sharp, blurred


def test_the_distance_that_can_learn_is_that_of_the_loss(part: Any) -> None:
    restored, sharp, blurred = batch()
    found = part("adapting").Distance(create_backbone("tafm-lite"))(torch.cat([sharp, restored, blurred]), len(sharp))
    loss = TaskAdaptiveFeatureLoss(reduction="none")
    expected = torch.stack([loss(images, sharp) for images in (restored, blurred)])
    assert torch.allclose(found, expected, rtol=1e-4)


def refresher(part: Any, *, ordered: float = 1.0, **plan: Any) -> Any:
    adapting = part("adapting")
    guard = adapting.Guard(batch()[1])
    shares = iter([1.0])
    guard.ordered = lambda distance: next(shares, ordered)
    backbone, goal = create_backbone("tafm-lite"), adapting.AnchoredTriplet(1.0)
    plan = {"every": 2, "steps": 3, "rate": 1e-3, **plan}
    return adapting.Refresher(backbone, goal, backbone, adapting.Refreshing(**plan), guard)


def test_a_refresh_lowers_the_objective_and_changes_no_backbone_but_its_own(part: Any) -> None:
    one = refresher(part, steps=12)
    before = create_backbone("tafm-lite").sha256
    assert one(*batch())
    assert one.told[0]["last"] < one.told[0]["first"]
    assert one.loss().sha256 != before
    assert one.untuned.backbone.state().keys() == one.backbone.state().keys()
    assert all(torch.equal(one.untuned.backbone.state()[name], own) for name, own in _pretrained().items())


def _pretrained() -> dict[str, torch.Tensor]:
    return create_backbone("tafm-lite").state()


def test_blur_that_is_out_of_order_takes_the_refresh_back_and_ends_refreshing(part: Any) -> None:
    one = refresher(part, ordered=0.9)
    assert not one(*batch()) and one.stopped
    assert all(torch.equal(one.backbone.state()[name], own) for name, own in _pretrained().items())
    assert not one(*batch()) and len(one.told) == 1


def test_the_guard_knows_a_distance_that_has_lost_the_order_of_blur(part: Any) -> None:
    guard = part("adapting").Guard(batch()[1])
    assert guard.passes(guard.ordered(part("adapting").Distance(create_backbone("tafm-lite"))))
    assert not guard.passes(
        guard.ordered(lambda images, scenes: -images.unflatten(0, (-1, scenes))[1:].mean((2, 3, 4)))
    )


def test_a_mask_that_a_distance_rewards_costs_and_one_that_it_does_not_is_free(part: Any) -> None:
    goal = part("adapting").MaskedObjective()
    restored, sharp, blurred = batch(2)
    levels = torch.stack([sharp, (sharp + restored) / 2, restored, blurred])
    grades = torch.tensor([0.0, 0.5, 1.0, 2.0])[:, None].expand(-1, 2)
    versions = goal.versions(levels, grades, [seeded(1), seeded(2)])
    assert torch.equal(versions["masked"][0], goal.mask(restored))

    def term(masked: float) -> float:
        distances = {name: torch.ones(len(stack), 2) for name, stack in versions.items()}
        distances["blurred"] = torch.tensor([0.25, 1.0, 4.0])[:, None].expand(-1, 2)
        distances["masked"] = torch.full((1, 2), masked)
        none = torch.empty(0, 2)
        return float(goal.terms(Measured(distances, grades, none, none, {}, None))["masked"])

    assert term(0.8) > term(1.0) > 0 and term(1.2) == 0


def test_the_anchored_triplet_asks_for_order_and_geometry_alone(part: Any) -> None:
    goal = part("adapting").AnchoredTriplet(2.0)
    ones = {name: torch.ones(1, 3) for name in goal.neutral}
    apart = dict(ones) | {"noise": torch.full((1, 3), 4.0)}
    grades = torch.tensor([0.0, 0.5, 1.0])[:, None].expand(-1, 3)

    def terms(blurred: list[float], others: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = others | {"blurred": torch.tensor(blurred)[:, None].expand(-1, 3)}
        none = torch.empty(0, 3)
        made: dict[str, torch.Tensor] = goal.terms(Measured(found, grades, none, none, ones, None))
        return made

    assert set(terms([1.0, 4.0], ones)) == {"order", "geometry"}
    assert float(terms([1.0, 4.0], ones)["order"]) == pytest.approx(0, abs=1e-4)
    assert float(terms([1.0, 1.0], ones)["order"]) == pytest.approx(1)
    assert float(terms([1.0, 4.0], ones)["geometry"]) == pytest.approx(0, abs=1e-6)
    assert float(terms([1.0, 4.0], apart)["geometry"]) > 0.1


def test_a_discriminator_learns_what_is_sharp_and_its_term_trains_only_the_restored_images(part: Any) -> None:
    restored, sharp, _ = batch(8)
    for matching in (True, False):
        one = part("adversaries").Adversary(matching=matching, seed=0, device=torch.device("cpu"))
        for _ in range(40):
            one.learn(restored, sharp)
        assert one.told[-1]["apart"] > one.told[0]["apart"] + 0.05
        before = [parameter.clone() for parameter in one.network.parameters()]
        pred = restored.clone().requires_grad_()
        one.term(pred, sharp).backward()
        assert pred.grad is not None and pred.grad.abs().sum() > 0
        assert all(parameter.grad is None or not parameter.requires_grad for parameter in one.network.parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, one.network.parameters(), strict=True))


def test_equal_seeds_make_equal_discriminators_and_leave_the_global_seed_alone(part: Any) -> None:
    state = torch.get_rng_state()
    one, same, other = (
        part("adversaries").Adversary(matching=True, seed=seed, device=torch.device("cpu")) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.network.head.weight, same.network.head.weight)
    assert not torch.equal(one.network.head.weight, other.network.head.weight)


def test_the_two_sides_of_the_relativistic_loss_want_the_opposite(part: Any) -> None:
    adversaries = part("adversaries")
    low, high = torch.full((2, 1, 4, 4), -1.0), torch.full((2, 1, 4, 4), 1.0)
    assert adversaries.discriminator_loss(low, high) < adversaries.discriminator_loss(high, low)
    assert adversaries.generator_loss(low, high) > adversaries.generator_loss(high, low)


class Setting:
    """What an arm begins with, without a network: what it would restore is given."""

    def __init__(self, tunings: Any) -> None:
        self.ratio, self.seed, self.tunings = 2.0, 0, tunings
        self.photographs = Path()
        self.trainer = self
        self.device = torch.device("cpu")
        self.network = self.pairs = None

    def calibrated(self, network: Any, term: Any, pairs: Any, ratio: float) -> float:
        restored, sharp, blurred = batch()
        return ratio / gradient_ratio(lambda x, y: term(x, y, blurred), F.l1_loss, restored, sharp)


def test_a_refreshed_loss_comes_into_use_when_it_is_due_and_stays_as_strong(
    part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = part("arms")
    monkeypatch.setattr(arms, "_guarded", lambda photographs: batch()[1])
    name = "anchored 6"
    plan = part("adapting").Refreshing(every=3, steps=1, rate=1e-3)
    setting = Setting({name: arms.TUNINGS[name]._replace(refreshing=plan)})
    one = arms.Refreshed(setting, create_backbone("tafm-lite"), name)
    used = []
    for _ in range(7):
        one(*batch())
        used.append(one.loss.sha256)
    assert [a != b for a, b in itertools.pairwise(used)] == [False, False, True, False, False, True]
    told = one.told()
    assert len(told["refreshes"]) == 2 and len(told["weights"]) == 3 and not told["stopped"]
    restored, sharp, _ = batch()
    ratio = gradient_ratio(lambda x, y: one.weight * one.loss(x, y), F.l1_loss, restored, sharp)
    assert ratio == pytest.approx(2, rel=0.1)
    json.dumps(told)


def gains(*means: float) -> dict[tuple[str, float], list[float]]:
    """Gains over four seeds: LPIPS, ST-LPIPS, DISTS, each at two prices."""
    names = [(metric, price) for metric in ("lpips", "stlpips", "dists") for price in (0.1, 0.3)]
    spread = (-0.2, 0.2, -0.1, 0.1)
    return {name: [mean + each for each in spread] for name, mean in zip(names, means, strict=True)}


@pytest.mark.parametrize(
    ("means", "wins"),
    [
        ((0, 0, 3, 3, 0, 0), True),
        ((2.1, 2.1, 0, 0, 0, 0), True),
        ((2.1, 1.0, 1.0, 2.1, 0, 0), False),  # by no metric at both prices
        ((-1.1, 0, 3, 3, 0, 0), False),
        ((0, 0, 3, 3, 0, -1.1), False),
        ((-0.9, -0.9, 3, 3, -0.9, -0.9), True),
    ],
)
def test_a_win_is_large_at_both_prices_and_costs_little(part: Any, means: tuple[float, ...], wins: bool) -> None:
    assert part("results").verdict(gains(*means)) == wins


def test_no_win_is_due_to_chance_or_to_seeds_that_are_missing(part: Any) -> None:
    verdict = part("results").verdict
    uncertain = gains(0, 0, 3, 3, 0, 0) | {("stlpips", 0.3): [12.0, -3.0, 4.0, -1.0]}
    assert not verdict(uncertain)
    assert not verdict(gains(0, 0, 3, 3, 0, 0) | {("dists", 0.1): None})


def run_figures(part: Any, arm: str, seed: int, value: float, stage: str = "confirmation") -> dict[str, Any]:
    metrics = ("psnr", "lpips", "stlpips", "dists", "mdsi")
    cases = ("shake", "linear", "defocus", "GoPro", "REDS") if stage == "confirmation" else ("shake",)
    prices = [str(price) for price in part("plan").STAGES[stage].prices]
    return {
        **{"stage": stage, "seed": seed, "arm": arm, "ratio": 0.0 if arm == "L1" else 2.0, "steps": 5, "seconds": 1.0},
        **{"happened": {"weight": 1.0}, "batches": "0", "start": "0", "masks": {}},
        "levels": dict.fromkeys(cases, 30.0),
        "raw": {case: {"psnr": [30.0], "lpips": [0.5]} for case in cases},
        "equal": {
            price: {case: {"gain": 0.1, **{key: [value] for key in metrics}} for case in cases} for price in prices
        },
        "metadata": {"command": "", "machine": "", "commit": "", "date": ""},
    }


def test_tables_and_the_picture_are_made_from_runs(part: Any, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    plan = part("plan")
    arms = ["L1", *plan.CONFIRMED]
    runs = [run_figures(part, arm, 100, 0.5, "trials") for arm in ("L1", *plan.TRIED)]
    # The further down, the better; a little more so on later seeds.
    runs += [
        run_figures(part, arm, seed, 0.5 - place * (0.05 + 0.001 * seed))
        for place, arm in enumerate(arms)
        for seed in (0, 1)
    ]
    for index, run in enumerate(runs):
        (tmp_path / f"{run['stage']}-{index}.json").write_text(json.dumps(run))
    made = part("results").results(tmp_path, dict.fromkeys(arms, 0.04))
    assert set(made) == {"refresh", "refresh_trials"}
    for result in made.values():
        assert all(len(row) == len(result["table"]["columns"]) for row in result["table"]["rows"])
    assert set(made["refresh"]["contrasts"]) == {*plan.CONFIRMED} - {plan.FROZEN}
    last = made["refresh"]["contrasts"][arms[-1]]
    assert last["wins"] and all(row["gain"] > 0 for row in last["gains"])
    assert {arm for arm, found in made["refresh"]["contrasts"].items() if found["named"]} == {*plan.CONTRASTS}
    (tmp_path / "refresh.json").write_text(json.dumps(made["refresh"]))
    part("figure").draw(tmp_path / "refresh.json", tmp_path / "refresh.png")
    assert (tmp_path / "refresh.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_verdict_follows_from_the_published_gains(part: Any) -> None:
    result = json.loads((RESULTS / "refresh.json").read_text())
    plan = part("plan")
    assert {arm for arm, found in result["contrasts"].items() if found["named"]} == {*plan.CONTRASTS}
    for found in result["contrasts"].values():
        judged = {
            (row["metric"], row["price"]): row.get("seeds")
            for row in found["gains"]
            if row["case"] == "shake" and row["metric"] in plan.GUARDS
        }
        assert found["wins"] == part("results").verdict(judged)


def test_all_arms_of_a_seed_saw_the_same_and_a_refresh_stays_within_its_share(part: Any) -> None:
    result = json.loads((RESULTS / "refresh.json").read_text())
    for seed in {run["seed"] for run in result["runs"]}:
        assert len({run["batches"] for run in result["runs"] if run["seed"] == seed}) == 1
    assert len({run["start"] for run in result["runs"]}) == 1
    seconds = result["seconds"]
    for arm in part("plan").CONTRASTS:
        assert seconds[arm] <= 1.2 * seconds["frozen"] * 1.02


def test_what_failed_its_rule_is_not_public(part: Any) -> None:
    contrasts = json.loads((RESULTS / "refresh.json").read_text())["contrasts"]
    won = any(contrasts[arm]["wins"] for arm in part("plan").CONTRASTS)
    assert won or not hasattr(TaskAdaptiveFeatureLoss, "refresh")
