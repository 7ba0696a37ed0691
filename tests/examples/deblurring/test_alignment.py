"""RealBlur's alignment: what it regains, where it measures, and what becomes of a pair that cannot be aligned."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.deblurring.evaluation.alignment import align, aligned_psnr, aligned_ssim, import_opencv
from examples.deblurring.evaluation.similarity import psnr, ssim

pytest.importorskip("cv2")


def texture(height: int = 96, width: int = 128) -> Tensor:
    """Smooth noise: ECC needs gradients that reach further than a pixel."""
    noise = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, scale_factor=8, mode="bicubic")[0, :, 8 : height + 8, 8 : width + 8].clamp(0, 1)


def test_both_values_are_those_of_the_protocol_as_the_authors_of_realblur_describe_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Written out with OpenCV and scikit-image alone.
    metrics = pytest.importorskip("skimage.metrics")
    cv2 = import_opencv()
    sharp, restored = hard_pair()
    x, z = (np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in (sharp, restored))
    z = z * np.float32(np.sum(x * z, dtype=np.float64) / np.sum(z * z, dtype=np.float64))
    find, criteria = cv2.findTransformECC, (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    _, warp = find(
        cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.cvtColor(z, cv2.COLOR_RGB2GRAY), np.eye(3, dtype=np.float32),
        cv2.MOTION_HOMOGRAPHY, criteria, None, 5,
    )  # fmt: skip
    size = x.shape[1], x.shape[0]
    z = cv2.warpPerspective(z, warp, size, flags=cv2.INTER_CUBIC + cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
    ones = np.ones_like(x)
    mask = cv2.warpPerspective(
        ones, warp, size, flags=cv2.INTER_NEAREST + cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    x, z = (image.astype(np.float64) * mask for image in (x, z))
    expected = 10 * np.log10(1 / (np.sum((x - z) ** 2) / np.sum(mask)))
    _, similarity = metrics.structural_similarity(
        x, z, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, data_range=1.0, full=True
    )
    inside = (slice(5, -5), slice(5, -5))
    # ECC comes to rest long before its 100 iterations, which no value shows.
    asked: list[tuple[int, int, float]] = []
    monkeypatch.setattr(cv2, "findTransformECC", lambda *given, **more: asked.append(given[4]) or find(*given, **more))
    pair = align(restored, sharp)
    assert asked == [criteria]
    assert pair.converged and 0.5 < float(pair.mask.double().mean()) < 0.99
    assert aligned_psnr(pair) == pytest.approx(float(expected), abs=1e-4)
    assert aligned_ssim(pair) == pytest.approx(float((similarity * mask)[inside].sum() / mask[inside].sum()), abs=1e-6)


def hard_pair() -> tuple[Tensor, Tensor]:
    """A sharp image and a copy that is turned, darker and noisy."""
    sharp = texture()
    turned = F.affine_grid(
        torch.tensor([[[0.99, 0.06, 0.06], [-0.05, 1.01, -0.08]]]), [1, 3, 96, 128], align_corners=False
    )
    copy = F.grid_sample(sharp[None], turned, padding_mode="border", align_corners=False)
    noise = torch.randn(copy.shape, generator=torch.Generator().manual_seed(1))
    return sharp, (0.8 * copy + 0.08 * noise)[0].clamp(0, 1)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_constant_image_does_not_converge_and_is_measured_as_it_is(value: float) -> None:
    sharp = texture()
    restored = torch.full_like(sharp, value)
    pair = align(restored, sharp)
    assert not pair.converged and pair.mask.all()
    assert torch.equal(pair.restored, restored.double()) and torch.equal(pair.sharp, sharp.double())
    assert aligned_psnr(pair) == pytest.approx(float(psnr(restored[None], sharp[None])), abs=1e-9)
    assert aligned_ssim(pair) == pytest.approx(float(ssim(restored[None], sharp[None])), abs=1e-4)
    assert math.isfinite(aligned_psnr(pair))


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match="install opencv-python-headless"):
        align(texture(), texture())


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        align(texture(), texture(104))
    with pytest.raises(ValueError, match="sharp must be at least 11 px"):
        align(texture(), texture()[:, :10])
    with pytest.raises(TypeError, match="floating-point"):
        align(texture().mul(255).to(torch.uint8), texture())
