"""NIQE: its parts against closed forms and scipy, its values against those of BasicSR's code."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples.deblurring.evaluation.niqe import NIQE, fit_asymmetric, halved, luma_features, read_pristine_model
from tafm_loss.images import read_image

SharedPath = Callable[[str], Path]


@pytest.fixture
def niqe(shared_path: SharedPath) -> NIQE:
    return NIQE(read_pristine_model(shared_path("weights/niqe_pris_params.npz")))


def texture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(16, 236, (height, width)).astype(np.float64)


@pytest.mark.parametrize("shape", [0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(("left", "right"), [(1.0, 1.0), (0.5, 2.0)])
def test_the_parameters_of_a_generalised_gaussian_are_found_again(shape: float, left: float, right: float) -> None:
    generator = np.random.default_rng(1)
    magnitudes = generator.gamma(1 / shape, size=400_000) ** (1 / shape)
    negative = generator.random(magnitudes.size) < left / (left + right)
    fit = fit_asymmetric(np.where(negative, -left, right) * magnitudes)
    assert float(fit.shape) == pytest.approx(shape, rel=0.02)
    assert float(fit.left) == pytest.approx(left, rel=0.02)
    assert float(fit.right) == pytest.approx(right, rel=0.02)


def test_halving_matches_an_antialiased_bicubic_resize_away_from_the_border() -> None:
    image = texture(24, 36)
    theirs = F.interpolate(torch.from_numpy(image)[None, None], (12, 18), mode="bicubic", antialias=True)[0, 0].numpy()
    np.testing.assert_allclose(halved(image)[2:-2, 2:-2], theirs[2:-2, 2:-2], atol=1e-9)


def test_blocks_are_of_96_px_at_both_scales_and_what_fills_none_is_left_out() -> None:
    luma = texture(2 * 96 + 50, 3 * 96 + 95)
    features = luma_features(luma)
    assert features.shape == (6, 36)
    np.testing.assert_array_equal(features, luma_features(luma[: 2 * 96, : 3 * 96]))
    assert not np.allclose(features[:, :18], features[:, 18:])


@pytest.mark.parametrize(
    ("picture", "value"),
    [
        ("bsds500/test/100007.jpg", 4.429506),
        ("real-blur/gopro-GOPR0384_11_00-000001-blurred.png", 7.563918),
        ("baboon.png", 5.7296),  # published
    ],
)
def test_values_are_those_of_basicsr(niqe: NIQE, shared_path: SharedPath, picture: str, value: float) -> None:
    assert niqe(read_image(shared_path(f"data/{picture}"))[None]) == pytest.approx(value, abs=1e-3)


def test_an_image_without_texture_has_no_value(niqe: NIQE) -> None:
    assert np.isnan(niqe(torch.full((1, 3, 200, 200), 0.3)))


def test_images_that_are_too_small_are_refused(niqe: NIQE) -> None:
    with pytest.raises(ValueError, match="at least 192 px high and wide, got 191 x 300"):
        niqe(torch.rand(1, 3, 191, 300))
    with pytest.raises(ValueError, match="must be one image, got 2"):
        niqe(torch.rand(2, 3, 200, 200))


def test_a_file_that_holds_no_parameters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "parameters.npz"
    with pytest.raises(FileNotFoundError):
        read_pristine_model(path)
    for arrays in ({"other": np.zeros(3)}, {"mu_pris_param": np.zeros((1, 18)), "cov_pris_param": np.eye(18)}):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=r"parameters\.npz"):
            read_pristine_model(path)
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    for content in (b"", b"PK\x03\x04 cut", b"text", stream.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"parameters\.npz"):
            read_pristine_model(path)
