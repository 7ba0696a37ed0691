"""The metrics against the reference packages, and what becomes of those that cannot be had."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from examples.deblurring.evaluation.metrics import GROUPS, METRICS, Measurement


def draw_pair(noise: float = 0.1, height: int = 53, width: int = 62) -> tuple[Tensor, Tensor]:
    """Return (restored, sharp); the restored image reaches both ends of the range."""
    sharp = torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))
    return (sharp + noise * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(4))).clamp(0, 1), sharp


def measured(name: str, restored: Tensor, sharp: Tensor) -> float:
    return Measurement([name])(restored, sharp)[name]


def to_array(image: Tensor) -> np.ndarray:
    return image.double().permute(1, 2, 0).numpy()


def to_bytes(image: Tensor) -> np.ndarray:
    return np.round(to_array(image) * 255).astype(np.uint8)


def test_psnr_matches_scikit_image() -> None:
    restored, sharp = draw_pair()
    expected = peak_signal_noise_ratio(to_array(sharp), to_array(restored), data_range=1.0)
    assert measured("psnr", restored, sharp) == pytest.approx(expected, abs=1e-4)
    expected = peak_signal_noise_ratio(to_bytes(sharp), to_bytes(restored))
    assert measured("psnr_uint8", restored, sharp) == pytest.approx(expected, abs=1e-4)


def test_ssim_per_channel_and_of_the_luma_matches_scikit_image() -> None:
    restored, sharp = draw_pair()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(to_array(sharp), to_array(restored), channel_axis=2, data_range=1.0, **options)
    assert measured("ssim", restored, sharp) == pytest.approx(expected, abs=2e-5)
    luma = [rgb2ycbcr(to_array(image))[..., 0] for image in (sharp, restored)]
    assert measured("ssim_y", restored, sharp) == pytest.approx(
        structural_similarity(*luma, data_range=255.0, **options), abs=2e-5
    )


def test_ssim_in_three_dimensions_matches_a_filtered_volume() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    restored, sharp = draw_pair()
    offsets = np.arange(-5, 6)
    squares = sum(np.meshgrid(offsets**2, offsets**2, offsets**2))
    window = np.exp(-squares / (2 * 1.5**2))
    window /= window.sum()

    def mean(volume: np.ndarray) -> np.ndarray:
        return ndimage.correlate(volume, window, mode="nearest")

    x, y = (to_bytes(image).astype(np.float64) for image in (restored, sharp))
    mean_x, mean_y = mean(x), mean(y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (mean(x * y) - mean_x * mean_y) + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (mean(x**2) - mean_x**2 + mean(y**2) - mean_y**2 + c2)
    assert measured("ssim_3d", restored, sharp) == pytest.approx(similarity.mean(), abs=1e-9)


def test_gmsd_leaves_an_odd_last_row_and_column_out() -> None:
    restored, sharp = draw_pair(height=55, width=63)
    whole = measured("gmsd", restored, sharp)
    assert whole == measured("gmsd", restored[:, :54, :62], sharp[:, :54, :62])


OFFLINE = [name for name in METRICS if name not in ("lpips", "dists", "stlpips", "niqe")]


def test_every_metric_is_better_for_less_noise_if_either_is() -> None:
    pytest.importorskip("piq")
    pytest.importorskip("cv2")
    measure = Measurement(OFFLINE)
    less, more = (measure(*draw_pair(noise)) for noise in (0.02, 0.1))
    assert list(less) == measure.columns == OFFLINE and not measure.missing
    for name, value in less.items():
        if METRICS[name].better and name != "ecc_failed":
            assert (value - more[name]) * METRICS[name].better > 0, name
        assert math.isfinite(value) and isinstance(value, float)


def test_the_alignment_says_whether_it_failed() -> None:
    measure = Measurement(["psnr", "realblur_ecc"])
    sharp = draw_pair()[1]
    values = measure(torch.full_like(sharp, 0.5), sharp)
    assert list(values) == ["psnr", "psnr_ecc", "ssim_ecc", "ecc_failed"]
    assert values["ecc_failed"] == 1 and values["psnr_ecc"] == pytest.approx(values["psnr"], abs=1e-9)
    assert measure(sharp, sharp)["ecc_failed"] == 0


def test_metrics_without_their_weights_are_named_and_the_others_taken(tmp_path: Path) -> None:
    pytest.importorskip("stlpips_pytorch")
    measure = Measurement(["psnr", "lpips", "stlpips", "niqe"], trunks=tmp_path)
    assert measure.columns == ["psnr", "stlpips"] and list(measure(*draw_pair())) == ["psnr", "stlpips"]
    assert list(measure.missing) == ["lpips", "niqe"]
    assert f"there is no {tmp_path}/alexnet-features.safetensors" in measure.missing["lpips"]
    assert "niqe_pris_params.npz" in measure.missing["niqe"]


@pytest.mark.parametrize(
    ("package", "called", "names"),
    [("piq", "piq", ["mdsi"]), ("cv2", "OpenCV", GROUPS["realblur_ecc"])],
)
def test_a_metric_whose_package_is_absent_is_missing(
    package: str, called: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    measure = Measurement(["psnr", *names])
    assert measure.columns == ["psnr"] and list(measure.missing) == [*names]
    assert all(called in reason for reason in measure.missing.values())


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"one of psnr, .*realblur_ecc, got 'pnsr'"):
        Measurement(["psnr", "pnsr"])


def test_images_that_cannot_be_measured_are_refused() -> None:
    measure = Measurement(["psnr"])
    restored, sharp = draw_pair()
    with pytest.raises(ValueError, match=r"restored must have shape \(3, H, W\), got \(1, 3, 53, 62\)"):
        measure(restored[None], sharp)
    with pytest.raises(ValueError, match="one shape"):
        measure(restored[:, 1:], sharp)
    with pytest.raises(ValueError, match=r"restored must have values in \[0, 1\]"):
        measure(torch.full_like(sharp, math.nan), sharp)
    with pytest.raises(ValueError, match="divide 8-bit values by 255"):
        measure(restored, 255 * sharp)
    with pytest.raises(TypeError, match="sharp must be a floating-point tensor"):
        measure(restored, sharp.mul(255).to(torch.uint8))


def test_an_overshoot_is_clamped() -> None:
    sharp = torch.ones(3, 16, 16)
    assert measured("psnr", sharp + 0.04, sharp) == math.inf
