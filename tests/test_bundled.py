"""The bundled backbone is what its config says: a judge of blur, and a healthy one."""

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
def judge() -> TaskAdaptiveFeatureLoss:
    backbone = create_backbone("tafm-compact")
    return TaskAdaptiveFeatureLoss(
        backbone, layers=list(backbone.config.taps), distance="normalized_l2", reduction="none"
    )


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


def test_it_tells_blur_from_noise_on_generated_scenes(judge: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    assert_judges_blur(judge, scenes)


def test_it_tells_blur_from_noise_on_photographs(judge: TaskAdaptiveFeatureLoss, shared_path: object) -> None:
    assert_judges_blur(judge, photographs(shared_path("data/bsds500/test")))  # type: ignore[operator]


def test_its_response_grows_with_the_extent(judge: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    extents = (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 25.0)
    distances = response(judge, scenes, extents=extents)
    assert (distances.diff(dim=0) > 0).all()
    slopes = distances.mean(1).log().diff() / torch.tensor(extents).log().diff()
    assert (slopes >= 0.3).all()


def test_its_unit_is_a_ten_px_shake(judge: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    assert response(judge, scenes, extents=(10.0,)).mean().item() == pytest.approx(1.0, rel=0.4)
    recommended = TaskAdaptiveFeatureLoss(reduction="none")
    assert response(recommended, scenes, extents=(10.0,)).mean().item() == pytest.approx(1.0, rel=0.25)


def test_its_gradient_has_no_checkerboard(judge: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    assert gradient_peak(judge, scenes) <= 5


def test_other_changes_cost_what_they_should(judge: TaskAdaptiveFeatureLoss, scenes: Tensor) -> None:
    ratios = {name: values.median().item() for name, values in health(judge, scenes).items()}
    assert 0.7 <= ratios["mirrored"] <= 1.4
    assert ratios["grey"] > 1 and ratios["other"] > 1


def test_its_config_says_where_it_comes_from() -> None:
    config = create_backbone("tafm-compact").config
    assert config.licence == "Apache-2.0" and "generated scenes" in config.training_data
    assert "examples/train_compact.py" in config.recipe
    assert set(config.units) == set(DISTANCES)
    assert all(set(units) == set(config.taps) for units in config.units.values())
    assert (config.recommended_layers, config.recommended_distance) == ({"stage1": 1.0}, "structure")
    assert config.measurements["selectivity"]["white noise"]["shake"]["6"]["median"] >= 4
    json.dumps(dict(config.measurements))
