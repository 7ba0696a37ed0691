"""The demo's metrics against independent implementations and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from tafm_loss.demo.metrics import gmsd, psnr, sharpness_kept, ssim


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    sharp = torch.rand(3, 3, 47, 52, generator=generator)
    noise = torch.randn(sharp.shape, generator=generator) * torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1)
    return (sharp + noise).clamp(0, 1), sharp


def test_psnr_of_a_constant_error_is_its_closed_form() -> None:
    sharp = torch.full((2, 3, 8, 9), 0.5)
    torch.testing.assert_close(psnr(sharp + 0.1, sharp), torch.full((2,), 20.0, dtype=torch.float64), atol=1e-5, rtol=0)


def test_ssim_matches_scikit_image(pair: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    for restored, sharp, ours in zip(*pair, ssim(*pair), strict=True):
        theirs = metrics.structural_similarity(
            restored.double().numpy(), sharp.double().numpy(), channel_axis=0, data_range=1.0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert float(ours) == pytest.approx(theirs, abs=1e-9)


def test_gmsd_matches_piq_on_even_sizes(pair: tuple[Tensor, Tensor]) -> None:
    piq = pytest.importorskip("piq")
    restored, sharp = (images[..., :46, :52] for images in pair)
    theirs = piq.gmsd(restored, sharp, reduction="none")
    # piq's luma weights are rounded otherwise in the fourth digit.
    torch.testing.assert_close(gmsd(restored, sharp).float(), theirs, atol=2e-4, rtol=2e-3)


def test_equal_images_are_perfect(pair: tuple[Tensor, Tensor]) -> None:
    sharp = pair[1]
    assert torch.isinf(psnr(sharp, sharp)).all()
    torch.testing.assert_close(ssim(sharp, sharp), torch.ones(3, dtype=torch.float64))
    assert (gmsd(sharp, sharp) == 0).all()
    assert (sharpness_kept(sharp, sharp) == 1).all()


def test_sharpness_kept_is_the_squared_gain_of_the_contrast(pair: tuple[Tensor, Tensor]) -> None:
    sharp = pair[1]
    torch.testing.assert_close(sharpness_kept(0.5 * sharp + 0.2, sharp), torch.full((3,), 0.25, dtype=torch.float64))


def test_every_metric_tells_more_noise_from_less(pair: tuple[Tensor, Tensor]) -> None:
    for metric, sign in ((psnr, -1), (ssim, -1), (gmsd, 1), (sharpness_kept, 1)):
        values = (sign * metric(*pair)).tolist()
        assert values == sorted(values), metric.__name__
        assert all(math.isfinite(value) for value in values)


@pytest.mark.parametrize("metric", [psnr, ssim, gmsd, sharpness_kept])
def test_shapes_that_would_broadcast_are_refused(metric: object) -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3, 16, 16\) and \(1, 3, 16, 16\)"):
        metric(torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16))  # type: ignore[operator]


def test_ssim_says_how_large_images_must_be() -> None:
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))
