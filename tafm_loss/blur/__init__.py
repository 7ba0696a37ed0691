"""What blur is: graded point-spread functions, and light blurred by them."""

from tafm_loss.blur.kernels import BlurKernels, blur_extent
from tafm_loss.blur.synthesizer import BlurSynthesizer

__all__ = ["BlurKernels", "BlurSynthesizer", "blur_extent"]
