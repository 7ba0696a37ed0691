"""What blur is: graded point-spread functions, and light blurred by them."""

from tafm_loss.blur.frames import Exposure, FrameExposures
from tafm_loss.blur.kernels import KINDS, BlurKernels, blur_extent, kernel_size, largest_extent
from tafm_loss.blur.light import add_sensor_noise, from_linear, to_linear
from tafm_loss.blur.pairs import PairsReport, write_pairs
from tafm_loss.blur.synthesizer import BlurSynthesizer

__all__ = [
    "KINDS",
    "BlurKernels",
    "BlurSynthesizer",
    "Exposure",
    "FrameExposures",
    "PairsReport",
    "add_sensor_noise",
    "blur_extent",
    "from_linear",
    "kernel_size",
    "largest_extent",
    "to_linear",
    "write_pairs",
]
