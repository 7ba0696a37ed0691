"""NIQE: how far the statistics of an image are from those of pristine photographs; no reference is needed.

Of Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal Processing Letters
2013; the fit of the asymmetric generalised Gaussian is that of Lasmar et al., ICIP 2009. Its pristine model, fitted by
the authors, is not shipped: it is the file niqe_pris_params.npz of BasicSR (Apache-2.0).
"""

import functools
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.special import gamma
from torch import Tensor

from examples.deblurring.evaluation.similarity import as_8_bits, luma_8_bits
from tafm_loss.images import check_images

__all__ = ["NIQE", "SMALLEST", "PristineModel", "read_pristine_model"]

Array = NDArray[np.float64]

BLOCK = 96
SMALLEST = 2 * BLOCK
SCALES = 2
FEATURES = 36
WINDOW_RADIUS = 3
WINDOW_SIGMA = 7 / 6
# Far more than float64 rounds luma values to, and far less than they differ by.
ROUNDING = 1e-9
# A pixel is compared with its right, lower, lower right and lower left neighbour.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
SHAPES = np.arange(200, 10001) / 1000


class PristineModel(NamedTuple):
    """The normal distribution of the features of pristine photographs: mean (36,) and covariance (36, 36)."""

    mean: Array
    covariance: Array


class AsymmetricFit(NamedTuple):
    """Asymmetric generalised Gaussians, one an entry: their shape, and their scales left and right of 0."""

    shape: Array
    left: Array
    right: Array


class NIQE:
    """Naturalness of an image; lower is nearer to pristine photographs, which score about 3 to 5.

    The image is rounded to 8 bits, its luma (Rec. 601, 16 to 235) once more. Rows and columns at the bottom and at the
    right that fill no block of 96 px are left out. Values are not comparable between images of different size.

    Args:
        model: from `read_pristine_model`.
    """

    def __init__(self, model: PristineModel) -> None:
        self.model = model

    def __call__(self, image: Tensor) -> float:
        """Return the NIQE of one image (1, 3, H, W) in [0, 1]; NaN where less than two blocks have any texture.

        Raises:
            TypeError: if the image is not of a floating type.
            ValueError: if it is not one RGB image of 192 px or more.
        """
        check_images(image, "image", minimum_size=SMALLEST)
        if image.shape[0] != 1:
            raise ValueError(f"image must be one image, got {image.shape[0]} in shape {tuple(image.shape)}")
        eight_bits = as_8_bits(image.detach().cpu().double()) / 255
        features = luma_features(luma_8_bits(eight_bits).round()[0, 0].numpy())
        textured = features[np.isfinite(features).all(1)]
        if len(textured) < 2:
            return math.nan
        # As published: a block without texture has a share in the mean, by the features that are defined.
        distance = self.model.mean - np.nanmean(features, axis=0)
        covariance = (self.model.covariance + np.cov(textured, rowvar=False)) / 2
        return math.sqrt(distance @ np.linalg.pinv(covariance) @ distance)


def read_pristine_model(path: str | Path) -> PristineModel:
    """Read niqe_pris_params.npz.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no model of 36 features.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean = np.asarray(arrays["mu_pris_param"], dtype=np.float64)
            covariance = np.asarray(arrays["cov_pris_param"], dtype=np.float64)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as the parameters of NIQE: {error}") from error
    expected = {"mu_pris_param": (1, FEATURES), "cov_pris_param": (FEATURES, FEATURES)}
    found = {"mu_pris_param": mean.shape, "cov_pris_param": covariance.shape}
    if found != expected:
        raise ValueError(f"{path} must hold arrays of shape {expected}, got {found}")
    return PristineModel(mean[0], covariance)


def luma_features(luma: Array) -> Array:
    """Return (blocks, 36): the features of each block of a luma image (H, W), 0 to 255, at two scales."""
    height, width = (size // BLOCK * BLOCK for size in luma.shape)
    luma = luma[:height, :width]
    by_scale = []
    for scale in range(SCALES):
        size = BLOCK >> scale
        blocks = normalised(luma).reshape(luma.shape[0] // size, size, luma.shape[1] // size, size)
        by_scale.append(_block_features(blocks.swapaxes(1, 2).reshape(-1, size, size)))
        luma = halved(luma)
    return np.concatenate(by_scale, axis=1)


def normalised(luma: Array) -> Array:
    """Return the luma less its local mean, divided by its local deviation + 1 (Mittal et al., equations 1 to 3)."""
    window = np.exp(-(np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1) ** 2) / (2 * WINDOW_SIGMA**2))
    window /= window.sum()
    mean = _filter(luma, window, "nearest")
    variance = _filter(luma**2, window, "nearest") - mean**2
    # In a flat place rounding decides the sign, and the fit counts signs.
    difference = np.where(np.abs(luma - mean) < ROUNDING, 0, luma - mean)
    local: Array = difference / (np.sqrt(np.abs(variance)) + 1)
    return local


def halved(image: Array) -> Array:
    """Return an image (H, W) of even H and W at half its size, by MATLAB's antialiased bicubic `imresize`."""
    # SciPy calls mirroring with the edge repeated "reflect"; a kernel of eight lies around the odd pixels.
    return _filter(image, _bicubic_halving(), "reflect")[1::2, 1::2]


def fit_asymmetric(samples: Array) -> AsymmetricFit:
    """Fit an asymmetric generalised Gaussian to each row of samples (..., K), by its moments.

    The density is proportional to exp(-(|x| / scale) ** shape), with one scale left of 0 and one right of it. Where a
    side has no samples its scale is NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (
            np.sqrt(np.sum(samples**2, axis=-1, where=side) / np.sum(side, axis=-1))
            for side in (samples < 0, samples > 0)
        )
        ratio = left / right
        moments = np.abs(samples).mean(-1) ** 2 / (samples**2).mean(-1)
        target = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
        # NaN, of a block without texture, is fitted by the first shape, as in the code of the authors.
        nearest = np.argmin(np.abs(_moment_ratios() - target[..., None]), axis=-1)
    shape = SHAPES[nearest]
    to_scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return AsymmetricFit(shape, left * to_scale, right * to_scale)


def _block_features(blocks: Array) -> Array:
    """Return (N, 18) for normalised blocks (N, B, B)."""
    own = fit_asymmetric(blocks.reshape(len(blocks), -1))
    features = [own.shape, (own.left + own.right) / 2]
    for shift in NEIGHBOURS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        fit = fit_asymmetric(products.reshape(len(blocks), -1))
        mean = (fit.right - fit.left) * gamma(2 / fit.shape) / gamma(1 / fit.shape)
        features += [fit.shape, mean, fit.left, fit.right]
    return np.stack(features, axis=1)


@functools.cache
def _moment_ratios() -> Array:
    return gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))


@functools.cache
def _bicubic_halving() -> Array:
    # A new pixel lies between two old ones; the kernel (Keys, a = -0.5) is stretched to twice its width.
    distances = np.abs(np.arange(-3.5, 4)) / 2
    near = 1.5 * distances**3 - 2.5 * distances**2 + 1
    far = -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    weights = np.where(distances <= 1, near, far)
    normed: Array = weights / weights.sum()
    return normed


def _filter(image: Array, weights: Array, mode: str) -> Array:
    """Filter rows and columns by the same weights."""
    filtered: Array = correlate1d(correlate1d(image, weights, 0, mode=mode), weights, 1, mode=mode)
    return filtered
