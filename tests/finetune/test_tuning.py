"""One pass of scenes through a backbone in training."""

import math

import pytest
import torch
from torch import Tensor, nn

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.config import BackboneConfig, Tap
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.finetune import GradedObjective, Measured, Objective, TripletObjective
from tafm_loss.finetune.crops import SceneCrops
from tafm_loss.finetune.tuning import StepOutput, Tuning, Validation, _checkerboard
from tafm_loss.report import selectivity
from tafm_loss.scenes import generate_scenes


class Seen(Objective):
    """Keeps what it is given."""

    keeps_geometry = True
    regresses_extent = True

    def descent_levels(self, levels: int) -> slice:
        return slice(0, levels)

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        self.measured = measured
        return {"all": measured.distances["blurred"].sum()}


class Pixels(nn.Module):
    """The image itself at one tap, twice the image at another."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"once": self.gain * images, "twice": 2 * self.gain * images}


def embedding() -> Backbone:
    class Flat(Pixels):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"once": self.gain * images.flatten(1)}

    taps = {"once": Tap(3 * 8 * 8, 1)}
    return Backbone(Flat(), BackboneConfig("flat", "flat", taps, (0.0,) * 3, (1.0,) * 3, 1, spatial=False))


def graded() -> tuple[Tensor, Tensor]:
    sharp = torch.rand(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.cat([sharp, sharp * 0.9, sharp * 0.6]), torch.tensor([[0.0, 0.0], [1.0, 2.0], [5.0, 6.0]])


def run(tuning: Tuning) -> StepOutput:
    levels, extents = graded()
    output: StepOutput = tuning(levels, extents, [torch.Generator().manual_seed(scene) for scene in range(2)])
    assert output.ordering_accuracy == 1
    return output


def test_embeddings_are_compared_by_their_squared_euclidean_distance() -> None:
    goal = Seen()
    run(Tuning(embedding(), goal))
    levels, extents = graded()
    expected = (levels[1:] - levels[0]).square().sum(dim=(2, 3, 4))
    torch.testing.assert_close(goal.measured.distances["blurred"], expected)
    torch.testing.assert_close(goal.measured.untuned["blurred"], expected)
    assert torch.equal(goal.measured.extents, extents)
    # Downhill from d = |x - sharp|^2 is the way to sharp, up to the noise that is added.
    assert (goal.measured.descents > 0.99).all()
    assert goal.measured.predicted is not None and torch.equal(goal.measured.predicted, torch.zeros(3, 2))


def test_each_tap_counts_over_its_own_scale_and_the_untuned_backbone_keeps_its_own() -> None:
    config = BackboneConfig("p", "p", {"once": Tap(3, 1), "twice": Tap(3, 1)}, (0.5,) * 3, (1.0,) * 3, 1)
    goal = Seen()
    tuning = Tuning(Backbone(Pixels(), config), goal)
    tuning.scales.copy_(torch.tensor([2.0, 4.0]))
    run(tuning)
    # Normalised features are the same at both taps: d / 2 and d / 4, on average, against d.
    torch.testing.assert_close(
        goal.measured.distances["blurred"], goal.measured.untuned["blurred"] * (1 / 2 + 1 / 4) / 2
    )


def test_a_checkerboard_stands_out_and_noise_does_not() -> None:
    noise = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert _checkerboard(noise).mean().item() == pytest.approx(1.0, abs=0.15)
    stripes = (torch.arange(16) % 2 * 2.0 - 1).expand(1, 3, 16, 16)
    # All power, 16^2 times the mean, at one of the three frequencies.
    assert _checkerboard(stripes).item() == pytest.approx(256 / 3)
    smooth = (torch.arange(16) * math.pi / 8).cos().expand(1, 3, 16, 16)
    assert _checkerboard(smooth).item() < 0.1


def test_the_untuned_backbone_is_no_part_of_what_is_saved_or_trained() -> None:
    tuning = Tuning(embedding(), GradedObjective(geometry=1.0, extent=1.0))
    names = [name for name, _ in tuning.named_parameters()]
    assert names == ["backbone.network.gain", "extent_regression.weight", "extent_regression.bias"]
    assert set(tuning.state_dict()) == {*names, "scales", "untuned_scales"}
    assert tuning.double().untuned.mean.dtype == torch.float64


def faded(sharp: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scenes at three quarters and at half of their contrast."""
    shares = torch.tensor([1.0, 0.75, 0.5]).view(-1, 1, 1, 1, 1)
    return shares * sharp + (1 - shares) / 2, torch.tensor([[0.0], [1.0], [2.0]]).expand(-1, len(sharp))


@pytest.mark.parametrize(("held_out", "seen"), [(1, 2), (2, 2), (7, 6), (40, 16)])
def test_a_validation_pass_is_the_mean_over_its_scenes_in_evaluation_mode(held_out: int, seen: int) -> None:
    scenes = torch.rand(held_out, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    validation = Validation(SceneCrops(scenes, 8), faded, seed=3)
    assert validation.graded.levels.shape == (3, seen, 3, 8, 8)
    tuning = Tuning(embedding(), TripletObjective(margin=5.0))
    modes: list[bool] = []
    tuning.backbone.network.register_forward_hook(lambda module, given, result: modes.append(module.training))
    tuning.train()
    tuning.backbone.network.train()
    measured = validation.measure(tuning)
    assert not any(modes) and tuning.training and tuning.backbone.network.training
    with torch.no_grad():
        generators = [torch.Generator().manual_seed(0) for _ in range(seen)]
        whole = tuning(*validation.graded, generators)
    assert measured == {
        "validation_loss": pytest.approx(whole.terms["order"].item(), rel=1e-5),
        "validation_ordering_accuracy": 1.0,
    }
    assert measured["validation_loss"] > 0 and validation.measure(tuning) == measured


def test_a_validation_pass_over_blur_tells_the_lesser_of_two_median_selectivities() -> None:
    scenes = generate_scenes(10, 40, generator=torch.Generator().manual_seed(0))
    validation = Validation(SceneCrops(scenes, 40), BlurSynthesizer((0.0, 2.0, 8.0)), seed=3)
    config = BackboneConfig("p", "p", {"once": Tap(3, 1), "twice": Tap(3, 1)}, (0.5,) * 3, (1.0,) * 3, 1)
    tuning = Tuning(Backbone(Pixels(), config), TripletObjective())
    measured = validation.measure(tuning)
    sharp = validation.graded.levels[0, :8]
    for distractor, kinds in selectivity(tuning.distance, sharp, kinds=("shake",), extents=(3.0, 12.0), seed=3).items():
        lesser = min(row.median().item() for row in kinds["shake"])
        assert measured[f"selectivity, {distractor}"] == pytest.approx(lesser)
    assert len(measured) == 4


def test_scales_of_embeddings_stay_one_and_those_of_maps_follow_slowly() -> None:
    config = BackboneConfig("p", "p", {"once": Tap(3, 1), "twice": Tap(3, 1)}, (0.5,) * 3, (1.0,) * 3, 1)
    for backbone, first, later in (
        (Backbone(Pixels(), config), [2.0, 1e-8], [0.95 * 2 + 0.05 * 4, 0.95e-8 + 0.05]),
        (embedding(), [1.0], [1.0]),
    ):
        tuning = Tuning(backbone, GradedObjective())
        assert tuning.scales.tolist() == [1.0] * len(first)
        tuning.begin_scales(torch.tensor([2.0, 0.0][: len(first)]))
        assert tuning.scales.tolist() == pytest.approx(first) and torch.equal(tuning.untuned_scales, tuning.scales)
        tuning.move_scales(torch.tensor([4.0, 1.0][: len(first)]))
        assert tuning.scales.tolist() == pytest.approx(later) and tuning.untuned_scales.tolist() == pytest.approx(first)
