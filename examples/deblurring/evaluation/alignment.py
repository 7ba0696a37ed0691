"""RealBlur's alignment: its sharp images were taken by a second camera, so a homography is sought before measuring.

The protocol is that of the data set's authors (Rim et al., ECCV 2020), which most papers follow; it is worth 2 to 3 dB.
The transform maximises the enhanced correlation coefficient (ECC; Evangelidis and Psarakis, IEEE TPAMI 2008). The
authors' figures are of OpenCV 4.2, and other releases find slightly other transforms.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.deblurring.evaluation.similarity import SSIM_WINDOW
from tafm_loss.images import check_images

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Aligned", "align", "aligned_psnr", "aligned_ssim"]

ITERATIONS = 100
GAUSSIAN_SIZE = 5
BORDER = SSIM_WINDOW // 2


class Aligned(NamedTuple):
    """A pair to be measured where `mask` is true.

    Args:
        restored: (3, H, W) on the CPU in float64, warped onto the sharp image, and 0 outside the mask.
        sharp: (3, H, W) likewise, 0 outside the mask.
        mask: (H, W), bool: where the warped image comes from inside the restored one.
        converged: whether a transform was found. If not, the pair is as it was given, and the mask true everywhere.
    """

    restored: Tensor
    sharp: Tensor
    mask: Tensor
    converged: bool


def align(restored: Tensor, sharp: Tensor) -> Aligned:
    """Match a restored image to the sharp one in brightness, by one factor, and in place, by a homography.

    Args:
        restored: (3, H, W) in [0, 1], of 11 px or more.
        sharp: (3, H, W) in [0, 1].

    Raises:
        ModuleNotFoundError: if OpenCV is not installed.
        TypeError: if an image is not of a floating type.
        ValueError: if the images have no such shape, or not the same.
    """
    for image, name in ((restored, "restored"), (sharp, "sharp")):
        check_images(image[None], name, minimum_size=SSIM_WINDOW)
    if restored.shape != sharp.shape:
        raise ValueError(
            f"restored and sharp must have one shape, got {tuple(restored.shape)} and {tuple(sharp.shape)}"
        )
    cv2 = import_opencv()
    x, z = (np.ascontiguousarray(_to_array(image).transpose(1, 2, 0)) for image in (sharp, restored))
    energy = float((z * z).sum(dtype=np.float64))
    warp = None
    if energy > 0:
        z = z * np.float32(float((x * z).sum(dtype=np.float64)) / energy)
        warp = _find_homography(cv2, x, z)
    if warp is not None:
        moved, mask = _warped(cv2, z, warp)
        if mask[BORDER:-BORDER, BORDER:-BORDER].any():
            inside = torch.from_numpy(mask)
            aligned = torch.from_numpy(moved).permute(2, 0, 1).double()
            return Aligned(aligned * inside, torch.from_numpy(x).permute(2, 0, 1).double() * inside, inside, True)
    everywhere = torch.ones(sharp.shape[1:], dtype=torch.bool)
    return Aligned(restored.detach().cpu().double(), sharp.detach().cpu().double(), everywhere, False)


def aligned_psnr(pair: Aligned) -> float:
    """PSNR in dB over the pixels of the mask, infinite for equal ones."""
    error = (pair.restored - pair.sharp).square().sum() / (pair.mask.sum() * pair.sharp.shape[0])
    return float(-10 * error.log10())


def aligned_ssim(pair: Aligned) -> float:
    """SSIM over the pixels of the mask: Gaussian, whole windows, per channel.

    As in the authors' code, the map is scikit-image's, and windows at the mask's edge see the zeros outside of it.
    """
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(
        pair.sharp.numpy(),
        pair.restored.numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    mask = pair.mask.numpy()[inside]
    return float((similarity[inside] * mask).sum() / (mask.sum() * len(similarity)))


def import_opencv() -> "ModuleType":
    """Return the module cv2; raises ModuleNotFoundError, saying what to install."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the alignment of RealBlur needs OpenCV; install opencv-python-headless", name=error.name
        ) from error
    module: ModuleType = cv2
    return module


def _to_array(image: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = image.detach().cpu().float().numpy()
    return array


def _find_homography(cv2: Any, sharp: NDArray[np.float32], restored: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the homography from places in `sharp` to places in `restored`, or None if ECC does not converge."""
    template, moving = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (sharp, restored))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, 0)
    start = np.eye(3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(
            template, moving, start, cv2.MOTION_HOMOGRAPHY, criteria, inputMask=None, gaussFiltSize=GAUSSIAN_SIZE
        )
    except cv2.error:
        return None
    return warp if np.isfinite(warp).all() else None


def _warped(
    cv2: Any, image: NDArray[np.float32], warp: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    height, width = image.shape[:2]
    moved = cv2.warpPerspective(
        image, warp, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    ones = np.ones((height, width), np.float32)
    inside = cv2.warpPerspective(ones, warp, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return moved, inside > 0
