"""The one check of what callers pass, and white noise."""

import pytest
import torch

from tafm_loss.images import check_images, check_unit_range, unit_noise


def test_messages_name_the_argument_and_the_remedy() -> None:
    for images, error, message in (
        ([1.0], TypeError, "pred must be a torch.Tensor, got list"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"pred must be .* got torch.uint8; .* / 255"),
        (torch.zeros(3, 8, 8), ValueError, r"\(N, C, H, W\), got \(3, 8, 8\); add a batch axis"),
        (torch.zeros(2, 5, 3, 8, 8), ValueError, r"got \(2, 5, 3, 8, 8\); flatten .* images\.flatten\(0, -4\)"),
        (torch.zeros(1, 4, 8, 8), ValueError, "must have 3 channels, got 4"),
        (torch.zeros(1, 3, 8, 7), ValueError, "at least 8 px high and wide, got 8 x 7"),
    ):
        with pytest.raises(error, match=message):
            check_images(images, "pred", minimum_size=8)  # type: ignore[arg-type]
    check_images(torch.zeros(0, 1, 8, 8), "pred", channels=None)
    with pytest.raises(ValueError, match="at least one channel"):
        check_images(torch.zeros(1, 0, 8, 8), "pred", channels=None)


def test_values_may_overshoot_a_little_and_no_more() -> None:
    for images in (torch.tensor([-0.04, 1.04]), torch.empty(0)):
        check_unit_range(images, "pred")
    for value, message in (
        (-0.06, "-0.06 to 0.5; divide 8-bit values by 255"),
        (1.06, "0.5 to 1.06; divide 8-bit values by 255"),
        (float("nan"), "nan to nan; find the step before this that makes them not finite"),
        (float("-inf"), "-inf to 0.5; find the step before this that makes them not finite"),
    ):
        with pytest.raises(ValueError, match=rf"pred must have values in \[0, 1\], got {message}"):
            check_unit_range(torch.tensor([0.5, value]), "pred")


def test_unit_noise_is_normal_of_the_type_and_shape_asked_for_and_each_image_can_have_its_own() -> None:
    like = torch.zeros(2, 3, 64, 64, dtype=torch.float16)
    noise = unit_noise(like, torch.Generator().manual_seed(0))
    assert noise.dtype == torch.float16 and noise.shape == like.shape
    assert noise.float().mean().abs() < 0.03 and noise.float().std() == pytest.approx(1, abs=0.03)
    own = unit_noise(like, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert torch.equal(own[1], unit_noise(like[1], torch.Generator().manual_seed(2))) and not torch.equal(*own)
    torch.manual_seed(4)
    drawn = unit_noise(like.double())
    torch.manual_seed(4)
    assert torch.equal(drawn, torch.randn(like.shape, dtype=torch.float64))
    with pytest.raises(TypeError, match="generator must be"):
        unit_noise(like, 3)  # type: ignore[arg-type]
