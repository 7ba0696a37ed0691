"""Objectives: zero for what they ask for, and what each option adds."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.blur import BlurSynthesizer
from tafm_loss.distractors import brightened, grey, jpeg, shifted, stranger
from tafm_loss.finetune import GradedObjective, Measured, Objective, TripletObjective

EXTENTS = torch.tensor([[0.0], [2.0], [8.0], [20.0]])
BLUR = torch.tensor([[1.0], [5.0], [20.0]])
GOOD = {
    "blurred": BLUR,
    "noise": BLUR / 2,
    "scrambled": BLUR / 2,
    "fine noise": BLUR[:1] * 1.1,
    "shifted": BLUR[1:2] / 2,
    "jpeg": BLUR[1:2] / 2,
    "brightened": BLUR[1:2] / 2,
    "speckled": BLUR[1:] * 1.2,
    "halfway": BLUR[1:] / 4,
    "mirrored": BLUR[1:2],
    "grey": 8 * BLUR[1:2],
    "other": 3 * BLUR[2:],
}
DOWNHILL = torch.full((2, 1), 0.8)


def measured(
    distances: dict[str, Tensor], descents: Tensor = DOWNHILL, untuned: dict[str, Tensor] | None = None
) -> Measured:
    return Measured(distances, EXTENTS, descents, torch.ones_like(descents), untuned or {}, None)


def versions(goal: GradedObjective, scenes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    blur = BlurSynthesizer((0.0, 2.0, 8.0, 20.0))
    kernels = blur.sample(len(scenes), generator=torch.Generator().manual_seed(0))
    levels = blur(scenes, kernels=kernels)
    generators = [torch.Generator().manual_seed(scene) for scene in range(len(scenes))]
    return goal.versions(levels, kernels.extents, generators), levels


def test_the_triplet_asks_for_a_margin_of_one_in_unsquared_distance() -> None:
    # Lengths 1, sqrt 5 and sqrt 20: the first step is wide enough by .24, so are all.
    assert TripletObjective().terms(measured({"blurred": BLUR}))["order"] == 0
    weak = measured({"blurred": BLUR / 16})
    steps = [0.25 - math.sqrt(5) / 4 + 1, math.sqrt(5) / 4 - math.sqrt(20) / 4 + 1]
    assert TripletObjective().terms(weak)["order"].item() == pytest.approx(sum(steps) / 2, abs=1e-4)
    assert TripletObjective(margin=0.1).terms(weak)["order"] == 0


@pytest.mark.parametrize("goal", [TripletObjective(), GradedObjective(distractors=False)])
def test_distances_of_nothing_have_a_finite_cost_and_gradient(goal: Objective) -> None:
    none = torch.zeros(3, 1, requires_grad=True)
    cost = goal.terms(measured({"blurred": none}))["order"]
    cost.backward()
    assert cost.isfinite() and none.grad is not None and none.grad.isfinite().all()


def test_which_levels_are_weak_and_which_are_in_the_middle() -> None:
    goal = GradedObjective()
    levels = torch.rand(5, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    extents = torch.tensor([0.0, 1.0, 3.0, 10.0, 25.0])[:, None]
    made = goal.versions(levels, extents, [torch.Generator().manual_seed(0)])
    torch.testing.assert_close(made["halfway"], (levels[0] + levels[2:4]) / 2)
    assert len(made["fine noise"]) == 2 and len(made["noise"]) == len(made["scrambled"]) == 4
    error = [float((stack[0] - levels[0]).square().mean()) for stack in (made["jpeg"], made["mirrored"], levels[2:])]
    assert error == pytest.approx([error[2]] * 3)
    assert [goal.descent_levels(count) for count in (2, 3, 4)] == [slice(0, 2), slice(1, 3), slice(1, 3)]


def test_the_order_is_asked_of_every_pair_by_margins_that_grow_with_the_gap() -> None:
    graded = GradedObjective(distractors=False)
    gaps = EXTENTS[1:].log1p()
    exact = (graded.order_slope * gaps).exp()
    assert graded.terms(measured({"blurred": exact * 1.0001}))["order"].item() == pytest.approx(0, abs=1e-4)
    # All three as far as each other: every pair lacks its whole margin.
    pairs = [gaps[1] - gaps[0], gaps[2] - gaps[0], gaps[2] - gaps[1]]
    expected = 3 * 0.6 * sum(pairs).item() / 3
    equal = torch.full((3, 1), 7.0)
    assert graded.terms(measured({"blurred": equal}))["order"].item() == pytest.approx(expected, rel=1e-4)


def test_the_graded_objective_is_zero_for_what_it_asks_for() -> None:
    assert all(term == 0 for term in GradedObjective().terms(measured(GOOD)).values())


@pytest.mark.parametrize(
    ("version", "factor", "name", "cost"),
    [
        ("noise", 4, "noise", math.log(2)),
        ("noise", 0.1, "noise_ceiling", math.log(20 / 3)),
        ("scrambled", 4, "scrambled", 2 * math.log(2)),
        ("fine noise", 0.5, "fine_ceiling", -2 * math.log(0.55)),
        ("shifted", 4, "shifted", math.log(2)),
        ("jpeg", 4, "jpeg", math.log(2)),
        ("brightened", 4, "brightened", math.log(2)),
        ("speckled", 0.5, "speckled", 2 * (0.05 - math.log(0.6))),
        ("halfway", 2, "halfway", 2 * math.log(1.5)),
        ("mirrored", 2, "mirrored", math.log(2) - 0.15),
        ("mirrored", 0.5, "mirrored", math.log(2) - 0.15),
        ("grey", 0.1, "grey", 0.9 - math.log(0.8)),
        ("other", 0.1, "other", 0.6 - math.log(0.3)),
    ],
)
def test_what_is_too_near_or_too_far_costs_by_how_much_and_nothing_else_does(
    version: str, factor: float, name: str, cost: float
) -> None:
    terms = GradedObjective().terms(measured({**GOOD, version: GOOD[version] * factor}))
    assert terms[name].item() == pytest.approx(cost, rel=1e-5)
    assert all(term == 0 for other, term in terms.items() if other != name)


def test_a_gradient_that_leads_astray_or_has_a_checkerboard_costs() -> None:
    assert GradedObjective().terms(measured(GOOD, -DOWNHILL))["descent"].item() == pytest.approx(2 * (0.7 + 0.8))
    rough = measured(GOOD)._replace(checkerboards=torch.full((2, 1), 20.0))
    assert GradedObjective().terms(rough)["checkerboard"].item() == pytest.approx(math.log(20) / 2)


def test_without_distractors_only_the_order_counts(scenes: Tensor) -> None:
    graded = GradedObjective(distractors=False)
    made, levels = versions(graded, scenes)
    assert set(made) == {"blurred"} and torch.equal(made["blurred"], levels[1:])
    assert graded.descent_levels(3) == slice(0)
    assert set(graded.terms(measured({"blurred": BLUR}))) == {"order"}


def test_geometry_costs_what_changes_the_distances_of_other_changes_relative_to_each_other() -> None:
    graded = GradedObjective(geometry=2.0)
    assert graded.keeps_geometry and not GradedObjective().keeps_geometry
    # Nearer by the same factor: not a word. One of eight twice as near: log 2, spread over them.
    nearer = {name: distance * 3 for name, distance in GOOD.items()}
    assert graded.terms(measured(GOOD, untuned=nearer))["geometry"].item() == pytest.approx(0, abs=1e-5)
    moved = graded.terms(measured(GOOD, untuned={**nearer, "jpeg": GOOD["jpeg"] * 6}))["geometry"]
    count = sum(len(GOOD[name]) for name in graded.neutral)
    assert moved.item() == pytest.approx(2 * 2 * math.log(2) * (count - 1) / count**2, rel=1e-4)


def test_the_extent_is_regressed_on_request() -> None:
    graded = GradedObjective(distractors=False, extent=3.0)
    assert graded.regresses_extent and not GradedObjective().regresses_extent
    exact = measured({"blurred": BLUR})._replace(predicted=EXTENTS.log1p())
    assert graded.terms(exact)["extent"] == 0
    off = exact._replace(predicted=EXTENTS.log1p() + 0.5)
    assert graded.terms(off)["extent"].item() == pytest.approx(3 * 0.25, rel=1e-5)


def test_weights_that_make_no_sense_are_refused() -> None:
    for weight in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="weights of 0 or more"):
            GradedObjective(geometry=weight)


def test_versions_have_the_error_they_are_said_to_have(scenes: Tensor) -> None:
    graded = GradedObjective()
    made, levels = versions(graded, scenes)
    error = {name: (stack - scenes).square().mean(dim=(2, 3, 4)) for name, stack in made.items()}
    assert torch.equal(made["blurred"], levels[1:])
    torch.testing.assert_close(error["noise"], error["blurred"] * 5.5)
    factors = torch.tensor([3.0, 3.0, 2.0])[:, None]
    torch.testing.assert_close(error["scrambled"], error["blurred"] * factors)
    torch.testing.assert_close(error["fine noise"], error["blurred"][:1] * 8.0)
    torch.testing.assert_close(error["halfway"], error["blurred"][1:] / 4)
    torch.testing.assert_close(error["mirrored"], error["blurred"][1:2])
    # The change itself, as strong as the blur.
    for name, change in (("shifted", shifted), ("jpeg", jpeg), ("brightened", brightened)):
        torch.testing.assert_close(error[name], error["blurred"][1:2], msg=name)
        given, made_of = ((images - scenes).flatten(1) for images in (made[name][0], change(scenes)))
        torch.testing.assert_close(
            F.cosine_similarity(given, made_of), torch.ones(len(scenes)), rtol=0, atol=1e-4, msg=name
        )
    assert torch.equal(made["grey"][0], grey(scenes)) and torch.equal(made["other"][0], stranger(scenes))
    # Noise on top of the blur, with half of its error.
    speckle = made["speckled"] - levels[2:]
    torch.testing.assert_close(speckle.square().mean((2, 3, 4)), error["blurred"][1:] / 4)


def test_an_objective_asks_for_nothing_but_blur_unless_it_says_so(scenes: Tensor) -> None:
    for plain in (Objective(), TripletObjective()):
        assert not plain.keeps_geometry and not plain.regresses_extent and plain.descent_levels(4) == slice(0)
        assert set(plain.versions(torch.stack([scenes] * 3), EXTENTS[:3], [])) == {"blurred"}
    with pytest.raises(NotImplementedError):
        Objective().terms(measured(GOOD))
    # Recipes and checkpoints know a run by these.
    assert repr(TripletObjective(0.5)) == "TripletObjective(margin=0.5)"
    graded = GradedObjective(distractors=False, geometry=1.0, extent=2.0)
    assert repr(graded) == "GradedObjective(distractors=False, geometry=1.0, extent=2.0)"


def test_what_is_done_to_a_scene_does_not_depend_on_the_others(scenes: Tensor) -> None:
    blur = BlurSynthesizer((0.0, 2.0, 8.0))
    kernels = blur.sample(6, generator=torch.Generator().manual_seed(0))
    levels = blur(scenes, kernels=kernels)

    def of(part: slice) -> dict[str, Tensor]:
        generators = [torch.Generator().manual_seed(scene) for scene in range(6)][part]
        return GradedObjective().versions(levels[:, part], kernels.extents[:, part], generators)

    whole, halves = of(slice(0, 6)), (of(slice(0, 2)), of(slice(2, 6)))
    for name, stack in whole.items():
        torch.testing.assert_close(torch.cat([half[name] for half in halves], dim=1), stack, msg=name)
