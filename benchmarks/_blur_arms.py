"""What blur_throughput.py measures: how each package blurs a batch, a new random kernel for every image.

Every arm gets its images in its own layout, made beforehand, and returns whatever it returns: nothing is converted on
the clock. Kernels of the peers fill K x K px; ours have the largest extent whose kernel has K px.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _trajectory import blur_at_once, blur_one_by_one
from torch import Tensor

from tafm_loss.blur import BlurSynthesizer, largest_extent

OURS = "ours"
ONE_LEVEL: dict[str, Any] = {"shares": (1.0,), "transfer": None}
# The default levels of BlurSynthesizer, 0, 10 and 25 px, as shares of the last.
THREE_LEVELS: dict[str, Any] = {"shares": (0.0, 0.4, 1.0), "transfer": "srgb"}

Blur = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A batch of square RGB images in [0, 1] and the size of the kernels, px."""

    size: int
    batch: int
    kernel: int

    def images(self) -> Tensor:
        """Return the images, (batch, 3, size, size)."""
        return torch.rand(self.batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Arm:
    """One way to blur: `build` makes a function that blurs the whole batch of a case once.

    Arms of the same `peer` do the same by different means; the fastest of them counts.
    """

    peer: str
    build: Callable[[Case], Blur]
    variant: str = ""
    package: str = "tafm_loss"

    @property
    def name(self) -> str:
        return f"{self.peer}, {self.variant}" if self.variant else self.peer

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


def synthesizer(kernel: int, *, shares: tuple[float, ...], **options: Any) -> BlurSynthesizer:
    """Return our synthesizer for kernels of that size, its levels being shares of their largest extent."""
    extent = largest_extent(kernel)
    return BlurSynthesizer([extent * share for share in shares], **options)


def build_ours(case: Case, **options: Any) -> Blur:
    blur, images = synthesizer(case.kernel, **options), case.images()
    generator = torch.Generator().manual_seed(1)
    return lambda: blur(images, generator=generator)


def build_kornia(case: Case) -> Blur:
    from kornia.augmentation import RandomMotionBlur

    blur = RandomMotionBlur(case.kernel, angle=180.0, direction=(-1.0, 1.0), border_type="reflect", p=1.0)
    images = case.images()
    return lambda: blur(images)


def build_albumentations(case: Case, *, transform: str, dtype: str) -> Blur:
    # Its import asks the network for a newer version otherwise.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    size = {"radius": (case.kernel // 2,) * 2} if transform == "Defocus" else {"blur_limit": (case.kernel,) * 2}
    blur = getattr(albumentations, transform)(**size, p=1.0)
    images = np.ascontiguousarray(case.images().permute(0, 2, 3, 1).numpy())
    if dtype == "uint8":
        images = np.round(255 * images).astype(np.uint8)
    return lambda: [blur(image=image)["image"] for image in images]


def build_deepinv(case: Case, *, operator: str) -> Blur:
    from deepinv.physics import Blur as Convolution
    from deepinv.physics import BlurFFT
    from deepinv.physics.generator import MotionBlurGenerator

    if operator == "BlurFFT":
        physics = BlurFFT(img_size=(3, case.size, case.size))
    else:
        physics = Convolution(padding="reflect", use_fft=operator == "Blur(use_fft=True)")
    draw = MotionBlurGenerator((case.kernel, case.kernel), rng=torch.Generator().manual_seed(1))
    images = case.images()
    return lambda: physics.A(images, filter=draw.step(case.batch)["filter"])


def build_trajectory_one_by_one(case: Case) -> Blur:
    images, generator = case.images().numpy(), torch.Generator().manual_seed(1)
    return lambda: blur_one_by_one(images, case.kernel, generator=generator)


def build_trajectory_at_once(case: Case) -> Blur:
    images, generator = case.images(), torch.Generator().manual_seed(1)
    return lambda: blur_at_once(images, case.kernel, generator=generator)


ARMS = [
    Arm(OURS, functools.partial(build_ours, **ONE_LEVEL)),
    Arm("kornia RandomMotionBlur", build_kornia, package="kornia"),
    *(
        Arm(
            f"albumentations {transform}",
            functools.partial(build_albumentations, transform=transform, dtype=dtype),
            variant=dtype,
            package="albumentations",
        )
        for transform in ("MotionBlur", "Defocus", "AdvancedBlur")
        for dtype in ("float32", "uint8")
    ),
    *(
        Arm(
            "deepinv MotionBlurGenerator",
            functools.partial(build_deepinv, operator=operator),
            variant=operator,
            package="deepinv",
        )
        for operator in ("Blur", "Blur(use_fft=True)", "BlurFFT")
    ),
    Arm("trajectory, one by one", build_trajectory_one_by_one, package="scipy"),
    Arm("trajectory, at once", build_trajectory_at_once),
]
