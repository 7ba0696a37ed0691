"""How a measured column is called in a table, how it is rounded, and which way is better."""

from typing import NamedTuple

from examples.deblurring.evaluation.metrics import METRICS

__all__ = ["ECC_FAILED", "GAIN", "INPUT_PSNR", "UNSHOWN", "Column", "column_of"]

ECC_FAILED = "ecc_failed"
# Measured of every result, beside what is asked for: pictures are chosen by the one, the other tells images apart.
GAIN = "psnr_gain"
INPUT_PSNR = "psnr_input"
# In no table: counted in words, and the same for all methods.
UNSHOWN = (ECC_FAILED, INPUT_PSNR)

# For SSIM with the variant: one pair of images has .96 by one and .98 by another.
TITLES = {
    "psnr": ("PSNR", 2),
    "psnr_uint8": ("PSNR (8 bits)", 2),
    "psnr_ecc": ("PSNR (aligned)", 2),
    "ssim": ("SSIM (RGB)", 4),
    "ssim_3d": ("SSIM (3-D)", 4),
    "ssim_y": ("SSIM (luma)", 4),
    "ssim_uniform": ("SSIM (uniform)", 4),
    "ssim_ecc": ("SSIM (RGB, aligned)", 4),
    "gmsd": ("GMSD", 4),
    "mdsi": ("MDSI", 4),
    "haarpsi": ("HaarPSI", 4),
    "fsim": ("FSIM", 4),
    "lpips": ("LPIPS", 4),
    "dists": ("DISTS", 4),
    "niqe": ("NIQE", 3),
    "sharpness_kept": ("sharpness", 3),
}


class Column(NamedTuple):
    """How a column is shown.

    Args:
        title: with the variant.
        unit: "dB", or nothing.
        digits: after the point.
        better: 1 if higher is better, -1 if lower is, 0 if neither.
        description: what it is, in words.
    """

    title: str
    unit: str
    digits: int
    better: int
    description: str

    @property
    def heading(self) -> str:
        """The title, with the unit and an arrow towards what is better."""
        arrow = {1: " ↑", -1: " ↓", 0: ""}[self.better]
        return f"{self.title}{f', {self.unit}' if self.unit else ''}{arrow}"


def column_of(name: str) -> Column:
    """Return how a column is shown."""
    if name == GAIN:
        return Column("gain", "dB", 2, 1, "PSNR of the restored image less that of the blurred one")
    metric = METRICS[name]
    title, digits = TITLES[name]
    better = {True: 1, False: -1, None: 0}[metric.higher_is_better]
    return Column(title, metric.unit, digits, better, metric.description)
