"""Of a pair that does not line up, what is compared shows the same."""

import pytest
import torch
from torch import Tensor

from tafm_loss import matched_crops
from tafm_loss.scenes import generate_scenes
from tests.seeds import seeded

REACH = 3
SIZE = 48


def displaced(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return restored images, sharp ones that lie beside, and the crops of the sharp ones that fit."""
    scenes = generate_scenes(6, SIZE + 2 * REACH, generator=seeded(seed))
    # The farthest places, the middle, and others.
    places = torch.tensor([[0, 0], [2 * REACH, 2 * REACH], [0, 2 * REACH], [REACH, REACH], [1, 4], [5, 2]])
    sharp = torch.stack(
        [scene[:, y : y + SIZE, x : x + SIZE] for scene, (y, x) in zip(scenes, places.tolist(), strict=True)]
    )
    restored = scenes[..., REACH:-REACH, REACH:-REACH]
    return restored, sharp, restored[..., REACH:-REACH, REACH:-REACH]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_image_is_compared_with_the_crop_that_shows_the_same(dtype: torch.dtype) -> None:
    restored, sharp, expected = displaced()
    own, target = matched_crops(restored.to(dtype), sharp.to(dtype), reach=REACH)
    assert torch.equal(own, expected.to(dtype)) and torch.equal(target, expected.to(dtype))


def test_blur_and_noise_do_not_hide_the_place() -> None:
    restored, sharp, expected = displaced()
    blurred = torch.nn.functional.avg_pool2d(restored, 5, 1, 2, count_include_pad=False)
    noisy = blurred + 0.02 * torch.randn(restored.shape, generator=seeded(1))
    assert torch.equal(matched_crops(noisy, sharp, reach=REACH)[1], expected)


def test_brightness_does_not_hide_the_place() -> None:
    restored, sharp, expected = displaced()
    assert torch.equal(matched_crops(0.9 * restored + 0.1, sharp, reach=REACH)[1], expected)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_where_nothing_tells_places_apart_nothing_is_moved(noise: float) -> None:
    rows = torch.arange(SIZE).float().div(SIZE).expand(1, 3, SIZE, SIZE).transpose(2, 3)
    sharp = torch.cat([torch.full((1, 3, SIZE, SIZE), 0.7), rows])
    restored = sharp + noise * torch.randn(sharp.shape, generator=seeded())
    target = matched_crops(restored, sharp, reach=REACH)[1]
    assert torch.equal(target[0], sharp[0, :, REACH:-REACH, REACH:-REACH])
    # Along a gradient that other axis alone says nothing.
    assert torch.equal(target[1], sharp[1, :, REACH:-REACH, REACH:-REACH])


def test_the_gradient_reaches_the_middle_of_what_is_restored_and_nothing_else() -> None:
    restored, sharp, expected = displaced()
    restored, sharp = restored.clone().requires_grad_(), sharp.clone().requires_grad_()
    own, target = matched_crops(restored, sharp, reach=REACH)
    assert not target.requires_grad
    own.sum().backward()
    assert restored.grad is not None and sharp.grad is None
    assert restored.grad.sum() == expected.numel() and restored.grad[..., :REACH, :].count_nonzero() == 0


def test_a_pair_stays_what_it_is_beside_other_pairs_and_without_them() -> None:
    restored, sharp, expected = displaced()
    alone = [matched_crops(restored[index, None], sharp[index, None], reach=REACH)[1] for index in range(len(sharp))]
    assert torch.equal(torch.cat(alone), expected)


def test_images_need_be_neither_square_nor_in_colour_nor_in_a_range() -> None:
    scene = torch.rand(2, 1, 40, 70, generator=seeded()) * 255 - 100
    restored, sharp = scene[..., 2:38, 2:66], scene[..., 4:, 1:65]
    own, target = matched_crops(restored, sharp, reach=2)
    assert own.shape == (2, 1, 32, 60) and torch.equal(own, target)


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_it_is_one_graph(backend: str) -> None:
    restored, sharp, expected = displaced()
    compiled = torch.compile(matched_crops, fullgraph=True, backend=backend)
    assert torch.equal(compiled(restored, sharp, reach=REACH)[1], expected)


@pytest.mark.parametrize(
    ("restored", "sharp", "reach", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9), 1, ValueError, r"one shape.*\(1, 3, 8, 8\) on cpu and"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8, device="meta"), 1, ValueError, "one shape and device"),
        (torch.zeros(1, 3, 8, 9), torch.zeros(1, 3, 8, 9), 4, ValueError, "at least 9 px high and wide, got 8 x 9"),
        (
            torch.zeros(1, 3, 8, 8),
            torch.zeros(1, 3, 8, 8),
            0,
            ValueError,
            "reach must be a number of px, 1 or more, got 0",
        ),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), 1.5, ValueError, "got 1.5"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), True, ValueError, "got True"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8).to(torch.uint8), 1, TypeError, "sharp must be a floating"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 8, 8), 1, ValueError, "at least one image"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), 1, ValueError, "restored must have shape"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    restored: Tensor, sharp: Tensor, reach: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        matched_crops(restored, sharp, reach=reach)
