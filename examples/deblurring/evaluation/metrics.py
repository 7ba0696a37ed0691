"""The metrics of the tables: what each is, what it needs, and how those that are chosen are taken of a pair.

Example:
    measure = Measurement(["psnr", "ssim", "lpips", "realblur_ecc"], device="cuda")
    values = measure(restored, sharp)  # {"psnr": 31.2, "ssim": 0.93, ...}, by measure.columns
    measure.missing  # {"lpips": "its weights cannot be had: ..."} where there is no network
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from examples.deblurring.evaluation.alignment import align, aligned_psnr, aligned_ssim, import_opencv
from examples.deblurring.evaluation.niqe import NIQE, read_pristine_model
from examples.deblurring.evaluation.perceptual import MetricUnavailableError, load_perceptual
from examples.deblurring.evaluation.similarity import (
    SSIM_WINDOW,
    gmsd,
    psnr,
    psnr_8_bits,
    sharpness_kept,
    ssim,
    ssim_3d,
    ssim_luma,
    ssim_uniform,
)
from tafm_loss.images import check_images, check_unit_range

__all__ = [
    "ECC_FAILED",
    "GAIN",
    "GROUPS",
    "INPUT_PSNR",
    "METRICS",
    "UNSHOWN",
    "Measurement",
    "Metric",
    "MetricUnavailableError",
    "column_of",
]

ECC_FAILED = "ecc_failed"
# Measured of every result, beside what is asked for: pictures are chosen by the one, the other tells images apart.
GAIN = "psnr_gain"
INPUT_PSNR = "psnr_input"
# In no table: counted in words, and the same for all methods.
UNSHOWN = (ECC_FAILED, INPUT_PSNR)

# Of a pair (1, 3, H, W) in [0, 1]: one value for each column that shares the loader, in the order of METRICS.
Compute = Callable[[Tensor, Tensor], Sequence[float]]


class Resources(NamedTuple):
    """What a metric may be loaded with."""

    device: torch.device
    niqe_parameters: Path | None
    trunks: Path | None


class Metric(NamedTuple):
    """A column of the tables.

    Args:
        title: how it is called, SSIM with its variant.
        digits: after the point.
        better: 1 if higher is better, -1 if lower is, 0 if neither.
        description: what it is, in words.
        load: returns what computes it, once for all pairs; columns with the same loader are computed together.
        unit: "dB", or nothing.
    """

    title: str
    digits: int
    better: int
    description: str
    load: Callable[[Resources], Compute]
    unit: str = ""

    @property
    def heading(self) -> str:
        """The title, with the unit and an arrow towards what is better."""
        arrow = {1: " ↑", -1: " ↓", 0: ""}[self.better]
        return f"{self.title}{f', {self.unit}' if self.unit else ''}{arrow}"


class Measurement:
    """Takes the chosen metrics of a restored image; networks are loaded once, here.

    A metric that cannot be had is left out, with the reason in `missing`.

    Attributes:
        columns: the names of what is measured, in the order of METRICS.
        missing: {name: reason} of what was asked for and is not.

    Args:
        names: of METRICS, or of GROUPS, which stand for several.
        device: where images are measured; NIQE and the alignment of RealBlur work on the CPU.
        niqe_parameters: the file niqe_pris_params.npz of BasicSR; without it NIQE is missing.
        trunks: the folder of the networks of LPIPS and DISTS, see `load_perceptual`.

    Raises:
        ValueError: if a name is unknown, or `niqe_parameters` is no such file.
        FileNotFoundError: if `niqe_parameters` is not there.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        device: str | torch.device = "cpu",
        niqe_parameters: str | Path | None = None,
        trunks: str | Path | None = None,
    ) -> None:
        files = (None if path is None else Path(path) for path in (niqe_parameters, trunks))
        resources = Resources(torch.device(device), *files)
        self.columns: list[str] = []
        self.missing: dict[str, str] = {}
        self._device = resources.device
        self._computes: list[tuple[list[str], Compute]] = []
        for load, columns in _by_loader(names).items():
            try:
                self._computes.append((columns, load(resources)))
                self.columns += columns
            except MetricUnavailableError as error:
                self.missing.update(dict.fromkeys(columns, str(error)))

    def __call__(self, restored: Tensor, sharp: Tensor) -> dict[str, float]:
        """Return {column: value} of a restored image.

        Args:
            restored: (3, H, W), floating, in [0, 1]; a small overshoot is clamped.
            sharp: (3, H, W) likewise.

        Raises:
            TypeError: if an image is not of a floating type.
            ValueError: if shapes or ranges are not as said, values are not finite, or the images are too small.
        """
        pair = [self._checked(image, name) for image, name in ((restored, "restored"), (sharp, "sharp"))]
        if pair[0].shape != pair[1].shape:
            raise ValueError(
                f"restored and sharp must have one shape, got {tuple(restored.shape)} and {tuple(sharp.shape)}"
            )
        values: dict[str, float] = {}
        with torch.inference_mode():
            for columns, compute in self._computes:
                values.update(zip(columns, compute(*pair), strict=True))
        return values

    def _checked(self, image: Tensor, name: str) -> Tensor:
        if isinstance(image, Tensor) and image.ndim != 3:
            raise ValueError(f"{name} must have shape (3, H, W), got {tuple(image.shape)}; measure images one by one")
        check_images(image[None], name)
        check_unit_range(image, name)
        return image[None].to(self._device).clamp(0, 1)


def _by_loader(names: Iterable[str]) -> dict[Callable[[Resources], Compute], list[str]]:
    """Return the columns to measure by their loader, in the order of METRICS."""
    chosen = []
    for name in names:
        if name not in METRICS and name not in GROUPS:
            raise ValueError(f"a metric must be one of {', '.join([*METRICS, *GROUPS])}, got {name!r}")
        chosen += [METRICS[column].load for column in GROUPS.get(name, (name,))]
    columns: dict[Callable[[Resources], Compute], list[str]] = {}
    for column, metric in METRICS.items():
        if metric.load in chosen:
            columns.setdefault(metric.load, []).append(column)
    return columns


def _batched(
    function: Callable[[Tensor, Tensor], Tensor], package: str | None = None, smallest: int = 1
) -> Callable[[Resources], Compute]:
    """Return the loader of a function of two batches that returns (N,), and of the package that it needs."""

    def compute(restored: Tensor, sharp: Tensor) -> list[float]:
        check_images(sharp, "the images", minimum_size=smallest)
        return [float(function(restored, sharp))]

    def load(resources: Resources) -> Compute:
        if package is not None:
            _package(package)
        return compute

    return load


def _piq(name: str) -> Callable[[Resources], Compute]:
    def function(restored: Tensor, sharp: Tensor) -> Tensor:
        found: Tensor = getattr(_package("piq"), name)(restored.float(), sharp.float(), data_range=1.0)
        return found

    return _batched(function, "piq")


def _perceptual(name: str) -> Callable[[Resources], Compute]:
    def load(resources: Resources) -> Compute:
        metric = load_perceptual(name, trunks=resources.trunks, device=resources.device)
        return lambda restored, sharp: [float(metric(restored, sharp))]

    return load


def _load_niqe(resources: Resources) -> Compute:
    if resources.niqe_parameters is None:
        raise MetricUnavailableError("its parameters are not shipped: give the file niqe_pris_params.npz of BasicSR")
    niqe = NIQE(read_pristine_model(resources.niqe_parameters))
    return lambda restored, sharp: [niqe(restored)]


def _load_realblur_ecc(resources: Resources) -> Compute:
    _package("skimage")
    try:
        import_opencv()
    except ModuleNotFoundError as error:
        raise MetricUnavailableError(str(error)) from error

    def compute(restored: Tensor, sharp: Tensor) -> list[float]:
        pair = align(restored[0], sharp[0])
        return [aligned_psnr(pair), aligned_ssim(pair), float(not pair.converged)]

    return compute


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        raise MetricUnavailableError(f"it needs the package {root}, which cannot be imported: {error}") from error


def column_of(name: str) -> Metric:
    """Return how a column is shown."""
    if name == GAIN:
        return METRICS["psnr"]._replace(
            title="gain", description="PSNR of the restored image less that of the blurred one"
        )
    return METRICS[name]


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", 2, 1, "PSNR of RGB, not rounded", _batched(psnr), "dB"),
    "psnr_uint8": Metric(
        "PSNR (8 bits)", 2, 1, "PSNR of RGB, both images rounded to 8 bits", _batched(psnr_8_bits), "dB"
    ),
    "ssim": Metric(
        "SSIM (RGB)",
        4,
        1,
        "SSIM, Gaussian window of 11 px, whole windows, mean of RGB",
        _batched(ssim, "piq", SSIM_WINDOW),
    ),
    "ssim_3d": Metric(
        "SSIM (3-D)",
        4,
        1,
        "SSIM of MATLAB for H x W x 3 (3-D Gaussian), both rounded to 8 bits",
        _batched(ssim_3d, None, SSIM_WINDOW),
    ),
    "ssim_y": Metric(
        "SSIM (luma)",
        4,
        1,
        "SSIM, Gaussian window of 11 px, whole windows, luma",
        _batched(ssim_luma, "piq", SSIM_WINDOW),
    ),
    "ssim_uniform": Metric(
        "SSIM (uniform)", 4, 1, "SSIM, uniform window of 7 px, mean of RGB", _batched(ssim_uniform, "skimage", 7)
    ),
    "gmsd": Metric("GMSD", 4, -1, "GMSD", _batched(gmsd, "piq", 6)),
    "mdsi": Metric("MDSI", 4, -1, "MDSI, by piq", _piq("mdsi")),
    "haarpsi": Metric("HaarPSI", 4, 1, "HaarPSI, by piq", _piq("haarpsi")),
    "fsim": Metric("FSIM", 4, 1, "FSIM with colour (FSIMc), by piq", _piq("fsim")),
    "lpips": Metric("LPIPS", 4, -1, "LPIPS 0.1 with AlexNet, full image", _perceptual("lpips")),
    "dists": Metric("DISTS", 4, -1, "DISTS with VGG16, full image", _perceptual("dists")),
    "stlpips": Metric("ST-LPIPS", 4, -1, "ST-LPIPS 0.0 with AlexNet, full image", _perceptual("stlpips")),
    "niqe": Metric("NIQE", 3, -1, "NIQE of the restored image, its luma rounded to 8 bits", _load_niqe),
    "sharpness_kept": Metric(
        "sharpness",
        3,
        0,
        "gradient energy relative to the sharp image; 1 is as sharp",
        _batched(sharpness_kept, None, 2),
    ),
    "psnr_ecc": Metric("PSNR (aligned)", 2, 1, "PSNR of RGB after RealBlur's alignment", _load_realblur_ecc, "dB"),
    "ssim_ecc": Metric(
        "SSIM (RGB, aligned)",
        4,
        1,
        "SSIM, Gaussian window of 11 px, by RealBlur's alignment",
        _load_realblur_ecc,
    ),
    ECC_FAILED: Metric(
        "ECC failed",
        0,
        -1,
        "1 where RealBlur's alignment did not converge: measured as it is",
        _load_realblur_ecc,
    ),
}

GROUPS: dict[str, tuple[str, ...]] = {"realblur_ecc": ("psnr_ecc", "ssim_ecc", ECC_FAILED)}
