"""What was forgotten: agreement over distortions that are no blur."""

import pytest
import torch
from torch import Tensor

from tafm_loss.report.forgetting import DISTORTIONS, agreement, distorted
from tafm_loss.scenes import generate_scenes


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(3, 48, generator=torch.Generator().manual_seed(0))


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean(dim=(1, 2, 3))


def colour_error(pred: Tensor, target: Tensor) -> Tensor:
    difference = pred - target
    return (difference - difference.mean(1, keepdim=True)).square().mean(dim=(1, 2, 3))


def test_a_distance_agrees_with_itself_and_with_any_rising_function_of_itself(scenes: Tensor) -> None:
    assert torch.equal(agreement(squared_error, squared_error, scenes).float(), torch.ones(3))
    assert torch.allclose(
        agreement(lambda a, b: squared_error(a, b).sqrt() + 1, squared_error, scenes).float(), torch.ones(3), atol=1e-3
    )


def test_a_reversed_distance_disagrees_wholly(scenes: Tensor) -> None:
    found = agreement(lambda a, b: -squared_error(a, b), squared_error, scenes)
    assert found.shape == (3,) and torch.allclose(found.float(), -torch.ones(3))


def test_a_distance_that_sees_colour_alone_agrees_little(scenes: Tensor) -> None:
    assert agreement(colour_error, squared_error, scenes).median() < 0.7


def test_features_of_the_target_are_computed_once(scenes: Tensor) -> None:
    class Judge:
        calls = 0

        def features(self, images: Tensor) -> Tensor:
            self.calls += 1
            return images

        def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
            return squared_error(pred, target)

    judge = Judge()
    agreement(judge, squared_error, scenes)
    assert judge.calls == 1


def test_every_distortion_grows_with_its_strength_and_stays_in_range(scenes: Tensor) -> None:
    errors: dict[str, list[float]] = {}
    for name, images in distorted(scenes, torch.Generator().manual_seed(0)):
        assert images.shape == scenes.shape and images.min() >= 0 and images.max() <= 1
        errors.setdefault(name, []).append(float(squared_error(images, scenes).mean().sqrt()))
    assert set(errors) == set(DISTORTIONS)
    for name, values in errors.items():
        assert len(values) in (3, 4) and values == sorted(values), name
        assert values[0] > 1 / 255 and values[-1] < 60 / 255, name


def test_a_shift_moves_the_image_right_by_whole_pixels(scenes: Tensor) -> None:
    shifted = [images for name, images in distorted(scenes, torch.Generator().manual_seed(0)) if name == "shift"]
    for pixels, images in enumerate(shifted, start=1):
        assert torch.equal(images[..., pixels:], scenes[..., :-pixels])
