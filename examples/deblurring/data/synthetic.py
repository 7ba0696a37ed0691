"""Pairs made of sharp photographs, blurred by a camera's shake when they are asked for."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from examples.deblurring.data.files import images_below
from examples.deblurring.data.pairs import PairDataset, PairSample
from tafm_loss import BlurSynthesizer
from tafm_loss.blur import add_sensor_noise, kernel_size
from tafm_loss.images import read_pixels

__all__ = ["PairBatch", "Photograph", "SyntheticPairs"]


class Photograph(NamedTuple):
    """A sharp photograph; see `PairName`."""

    sharp: Path
    scene: str
    name: str


class PairBatch(NamedTuple):
    """Images (N, 3, H, W) in [0, 1] of the same scenes, on one device."""

    blurred: Tensor
    sharp: Tensor


class SyntheticPairs(PairDataset):
    """A folder of sharp photographs with its sub-folders, blurred by a `BlurSynthesizer`, each to an extent of its own.

    For evaluation, `dataset[index]` is a whole photograph, with the same blur whenever it is asked for; what the blur
    needs from beyond the border is reflected. For training, `sharp(index)` is the photograph, of which one cuts crops
    that are larger by `margin`, and `blur` makes pairs of a batch of them on its device; nothing is reflected there.
    Blurred images have 8 bits in both, as those of files.

    Every photograph is a scene of its own.

    Args:
        root: a folder.
        extents: px, the least and the largest; each image's is drawn uniformly in between. See `BlurSynthesizer`.
        kind: "shake", "linear", "defocus", "gaussian", or {kind: probability}.
        transfer: "srgb", a gamma, or None to blur the values as they are.
        highlight_gain: how many times brighter clipped highlights may have been.
        shot_noise: photon noise of the blurred images; 8.9e-5 is a real camera's, see `add_sensor_noise`.
        read_noise: read noise of the blurred images; 2.9e-5 is a real camera's.
        seed: of what `dataset[index]` draws, together with the index.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it holds no image; for options that make no sense; and on reading, for files that are no images
            or are too small for the blur.
    """

    pairs: list[Photograph]

    def __init__(
        self,
        root: Path,
        *,
        extents: Sequence[float] = (3.0, 13.0),
        kind: str | Mapping[str, float] = "shake",
        transfer: str | float | None = "srgb",
        highlight_gain: float = 1.0,
        shot_noise: float = 0.0,
        read_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        names = {path: key.replace("/", "-") for key, path in images_below(root).items()}
        super().__init__([Photograph(path, name, name) for path, name in names.items()])
        middle, jitter = _middle_and_jitter(extents)
        add_sensor_noise(
            torch.zeros(1, 3, 1, 1), shot=shot_noise, read=read_noise, generator=torch.Generator()
        )  # checks
        self.shot_noise, self.read_noise, self.seed = shot_noise, read_noise, seed
        self._whole, self._cropping = (
            BlurSynthesizer(
                (middle,),
                kind=kind,
                transfer=transfer,
                highlight_gain=highlight_gain,
                extent_jitter=jitter,
                border=border,
            )
            for border in ("reflect", "valid")
        )

    @property
    def margin(self) -> int:
        """How many px larger than its result a crop for `blur` is, in height and width."""
        return kernel_size(self._cropping.extents[-1] * (1 + self._cropping.extent_jitter)) - 1

    def __getitem__(self, index: int) -> PairSample:
        """Return a whole photograph and its blurred version, which depend on the seed and the index alone."""
        photograph, sharp = self.pairs[index], self.sharp(index)
        place = range(len(self))[index]
        digest = hashlib.sha256(f"{self.seed} {place}".encode()).digest()
        # A generator on the CPU heeds the lowest 32 bits of a seed only.
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
        try:
            (blurred,) = self._blurred(self._whole, sharp[None].float() / 255, generator)
        except ValueError as error:
            raise ValueError(f"{photograph.sharp}: {error}") from error
        return PairSample((blurred * 255).round().to(torch.uint8), sharp)

    def sharp(self, index: int) -> Tensor:
        """Read a photograph, uint8 (3, H, W)."""
        return read_pixels(self.pairs[index].sharp)

    def blur(self, sharp: Tensor, generator: torch.Generator) -> PairBatch:
        """Return pairs (N, 3, h - margin, w - margin) of sharp images, each blurred to an extent of its own.

        Args:
            sharp: (N, 3, h, w) in [0, 1], on any device, which is where they are blurred.
            generator: of the kernels and the noise, on the CPU or that device; the pairs depend on which.

        Raises:
            ValueError: if the images have another shape or range, or are no larger than the margin.
        """
        blurred = self._blurred(self._cropping, sharp, generator)
        cut = self.margin // 2
        return PairBatch(blurred, sharp[..., cut : sharp.shape[-2] - cut, cut : sharp.shape[-1] - cut])

    def _blurred(self, synthesizer: BlurSynthesizer, sharp: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            blurred: Tensor = synthesizer(sharp, generator=generator)[0].clamp(0, 1)
            if self.shot_noise or self.read_noise:
                blurred = add_sensor_noise(
                    blurred,
                    shot=self.shot_noise,
                    read=self.read_noise,
                    transfer=synthesizer.transfer,
                    generator=generator,
                )
            return blurred.mul(255).round().div(255)


def _middle_and_jitter(extents: Sequence[float]) -> tuple[float, float]:
    """Return what a `BlurSynthesizer` takes for extents that are uniform between two bounds."""
    two_numbers = isinstance(extents, Sequence) and len(extents) == 2 and all(map(_is_number, extents))
    if not two_numbers or not 0 < extents[0] <= extents[1]:
        raise ValueError(f"extents must be the least and the largest in px, above 0, such as [3, 13]; got {extents!r}")
    low, high = extents
    return (low + high) / 2, (high - low) / (high + low)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max
