"""Camera shake as Boracchi and Foi describe it, to be measured against; the package has its own.

Written from the description in "Modeling the performance of image restoration from motion blur" (IEEE Transactions on
Image Processing 21 (8), 2012). A particle moves at constant speed. At each step its velocity gets a Gaussian
perturbation and a pull back to where it started, and seldom a shake that about inverts it; then the velocity is
normalised. The particle's path, splatted onto pixels, is the point-spread function. How strong the forces may be is our
choice, and drawn per path; the unit of length is one step, so that they hold at any size of kernel.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 2000
LARGEST_PERTURBATION = 0.05
LARGEST_PULL = 1 / (STEPS / 10) ** 2
LARGEST_SHAKE_PROBABILITY = 0.002

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]


class Forces(NamedTuple):
    """What moves n particles, the plane being the complex one.

    `headings` (n,) are the first velocities, `pulls` (n,) the strength of the pull, `perturbations` (T, n) are added to
    the velocity and `shakes` (T, n) multiply it: by 1 at nearly every step.
    """

    headings: Complex
    pulls: Real
    perturbations: Complex
    shakes: Complex

    def of(self, index: int) -> "Forces":
        """Return the forces on one particle, without the axis of particles."""
        return Forces(self.headings[index], self.pulls[index], self.perturbations[:, index], self.shakes[:, index])


def draw_forces(n: int, *, generator: torch.Generator) -> Forces:
    """Draw the forces on n particles; all at once, which costs the sample-by-sample reference least."""
    heading, strength, pull, probability = torch.rand(4, n, generator=generator, dtype=torch.float64).numpy()
    across, down = torch.randn(2, STEPS, n, generator=generator, dtype=torch.float64).numpy()
    happens, angle = torch.rand(2, STEPS, n, generator=generator, dtype=torch.float64).numpy()
    inverted = np.exp(1j * (np.pi + angle - 0.5))
    return Forces(
        headings=np.exp(2j * np.pi * heading),
        pulls=LARGEST_PULL * pull,
        perturbations=LARGEST_PERTURBATION * strength * (across + 1j * down),
        shakes=np.where(happens < LARGEST_SHAKE_PROBABILITY * probability, inverted, 1.0),
    )


def walk(forces: Forces, size: int) -> Complex:
    """Return the path (T,) of one particle, or paths (T, n), about its mean and short enough for `size` px."""
    position = np.zeros_like(forces.headings)
    velocity = forces.headings
    path = np.empty_like(forces.perturbations)
    for step, (perturbation, shake) in enumerate(zip(forces.perturbations, forces.shakes, strict=True)):
        velocity = velocity * shake + perturbation - forces.pulls * position
        velocity = velocity / abs(velocity)
        position = position + velocity
        path[step] = position
    # No point of a path is farther from its mean than half the path's length.
    centred: Complex = (path - path.mean(axis=0)) * ((size - 3) / STEPS)
    return centred


def kernel_of_one(forces: Forces, size: int) -> Real:
    """Return the point-spread function (size, size) of one particle, point by point."""
    kernel = np.zeros((size, size))
    for point in walk(forces, size):
        across, down = point.real + size // 2, point.imag + size // 2
        column, row = int(across), int(down)
        right, below = across - column, down - row
        kernel[row, column] += (1 - below) * (1 - right)
        kernel[row, column + 1] += (1 - below) * right
        kernel[row + 1, column] += below * (1 - right)
        kernel[row + 1, column + 1] += below * right
    return kernel / STEPS


def kernels_of_all(forces: Forces, size: int) -> Real:
    """Return the point-spread functions (n, size, size) of n particles, all at once."""
    paths = walk(forces, size)
    n = paths.shape[1]
    across, down = paths.real + size // 2, paths.imag + size // 2
    column, row = across.astype(np.int64), down.astype(np.int64)
    right, below = across - column, down - row
    corner = (np.arange(n) * size + row) * size + column
    flat = np.zeros(n * size * size)
    for offset, weights in (
        (0, (1 - below) * (1 - right)),
        (1, (1 - below) * right),
        (size, below * (1 - right)),
        (size + 1, below * right),
    ):
        flat += np.bincount((corner + offset).ravel(), weights=weights.ravel(), minlength=flat.size)
    return flat.reshape(n, size, size) / STEPS


def blur_one_by_one(images: Single, size: int, *, generator: torch.Generator) -> list[Single]:
    """Blur images (N, C, H, W), each by a kernel of its own, in a loop; black beyond the border."""
    from scipy.signal import fftconvolve

    blurred = []
    for image in images:
        kernel = kernel_of_one(draw_forces(1, generator=generator).of(0), size).astype(np.float32)
        blurred.append(fftconvolve(image, kernel[None], mode="same", axes=(1, 2)))
    return blurred


def blur_at_once(images: Tensor, size: int, *, generator: torch.Generator) -> Tensor:
    """Blur images (N, C, H, W), each by a kernel of its own, by one grouped convolution; borders reflect."""
    n, channels, height, width = images.shape
    kernels = torch.from_numpy(kernels_of_all(draw_forces(n, generator=generator), size)).to(images.dtype)
    # conv2d correlates; turned by half a turn, the kernels are convolved.
    weights = kernels.flip(1, 2).repeat_interleave(channels, dim=0)[:, None]
    padded = F.pad(images, (size // 2,) * 4, mode="reflect").view(
        1, n * channels, *(side + size - 1 for side in (height, width))
    )
    return F.conv2d(padded, weights, groups=n * channels).view(n, channels, height, width)
