"""What blur is: graded point-spread functions, and light blurred by them."""

from tafm_loss.blur.frames import Exposure, FrameExposures
from tafm_loss.blur.kernels import BlurKernels, blur_extent
from tafm_loss.blur.noise import add_sensor_noise
from tafm_loss.blur.pairs import write_pairs
from tafm_loss.blur.synthesizer import BlurSynthesizer

__all__ = [
    "BlurKernels",
    "BlurSynthesizer",
    "Exposure",
    "FrameExposures",
    "add_sensor_noise",
    "blur_extent",
    "write_pairs",
]
