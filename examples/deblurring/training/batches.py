"""Random crops of pairs, each decided by the seed and its number in the run."""

import functools
import hashlib

import torch
from torch import Tensor

from examples.deblurring.data.augmentation import check_augmentation, random_crop
from examples.deblurring.data.pairs import PairDataset, PairSample
from examples.deblurring.data.synthetic import PairBatch, SyntheticPairs
from tafm_loss.images import read_header

__all__ = ["Batches", "seeded"]

MEMORY_BYTES = 2**30


class Batches:
    """What every step is trained on.

    The pairs come in a new random order at every pass, as from a shuffling loader; a batch may hold the end of one
    pass and the beginning of the next. Order, crops and augmentation follow from the seed and the number of the crop,
    so that a run can be taken up anywhere, and runs of one seed with other losses see the same.

    Args:
        pairs: a set of pairs, as `open_pairs` returns it.
        crop_size: px.
        augmentation: as `random_crop` knows it.
        batch_size: over all processes.
        share: which places of a batch are this process's.
        seed: of all that is random.

    Images stay in memory, as far as about 1 GiB goes.

    Raises:
        ValueError: for an unknown augmentation, or an image that is too small, named.
        FileNotFoundError: if an image is gone.
    """

    def __init__(
        self, pairs: PairDataset, *, crop_size: int, augmentation: str, batch_size: int, share: slice, seed: int
    ) -> None:
        self.pairs = pairs
        self.crop_size = crop_size + (pairs.margin if isinstance(pairs, SyntheticPairs) else 0)
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.share = share
        self.seed = seed
        check_augmentation(augmentation)
        _check_sizes(pairs, self.crop_size, crop_size)
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)
        size_in_memory = sum(image.nbytes for image in self._read(0))
        self._images = functools.lru_cache(maxsize=max(1, MEMORY_BYTES // size_in_memory))(self._read)

    def draw(self, step: int) -> PairSample:
        """Return this process's crops of a step: uint8 (n, 3, H, W) each, on the CPU."""
        crops = [self._crop(step * self.batch_size + place) for place in range(self.batch_size)[self.share]]
        return PairSample(*(torch.stack(images) for images in zip(*crops, strict=True)))

    def on_device(self, drawn: PairSample, step: int, device: torch.device) -> PairBatch:
        """Return crops (n, 3, crop_size, crop_size) in [0, 1] on a device, blurred there if they are synthetic."""
        blurred, sharp = (images.to(device, non_blocking=True).float() / 255 for images in drawn)
        if isinstance(self.pairs, SyntheticPairs):
            # Other seeds than those of the crops.
            return self.pairs.blur(sharp, generator=seeded(self.seed, 2, step, self.share.start))
        return PairBatch(blurred, sharp)

    def _crop(self, number: int) -> PairSample:
        passes, place = divmod(number, len(self.pairs))
        index = int(self._order(passes)[place])
        name = self.pairs.pairs[index].name
        return random_crop(
            self._images(index), self.crop_size, seeded(self.seed, 1, number), self.augmentation, name=name
        )

    def _read(self, index: int) -> PairSample:
        if isinstance(self.pairs, SyntheticPairs):
            return PairSample(*[self.pairs.sharp(index)] * 2)  # it is blurred later, on the device
        return self.pairs[index]

    def _draw_order(self, passes: int) -> Tensor:
        return torch.randperm(len(self.pairs), generator=seeded(self.seed, 0, passes))


def _check_sizes(pairs: PairDataset, size: int, crop_size: int) -> None:
    """Raise ValueError now for an image that a run would come upon after hours."""
    for pair in pairs.pairs:
        (width, height), _ = read_header(pair.sharp)
        if min(height, width) < size:
            margin = f", and {size - crop_size} px for the blur," if size > crop_size else ""
            raise ValueError(
                f"crops of {crop_size} px{margin} do not fit into {pair.sharp} of {width} x {height} px: take a "
                "smaller data.crop_size, or leave the image out"
            )


def seeded(*numbers: int) -> torch.Generator:
    """Return a generator on the CPU whose draws follow from all the numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
