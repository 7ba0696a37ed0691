"""One pass of scenes through a backbone in training."""

import math

import pytest
import torch
from torch import Tensor, nn

from tafm_loss.backbones.backbone import Backbone, BackboneConfig, Tap
from tafm_loss.finetune.objectives import GradedObjective, Measured, Objective
from tafm_loss.finetune.tuning import StepOutput, Tuning, _checkerboard


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
