"""Pictures of what a network makes of the same pairs as it learns."""

from pathlib import Path

import torch
from torch import Tensor, nn

from examples._common import write_atomically
from examples.deblurring.data.files import as_pixels, encode_png
from examples.deblurring.data.pairs import PairDataset
from examples.deblurring.evaluation.inference import restore
from examples.deblurring.evaluation.similarity import psnr

__all__ = ["Samples"]

COUNT = 4
LARGEST = 256


class Samples:
    """The centres of a few pairs, evenly spread over a set.

    They show that a run does what it should; nothing is chosen by them.

    Args:
        pairs: a set of pairs, as `open_pairs` returns it.
        folder: where the pictures go.
        device: of the network.
    """

    def __init__(self, pairs: PairDataset, folder: Path, device: torch.device) -> None:
        chosen = torch.linspace(0, len(pairs) - 1, min(COUNT, len(pairs))).long().tolist()
        self.pairs = [
            [_centre(image).to(device).float()[None] / 255 for image in pairs[index]] for index in dict.fromkeys(chosen)
        ]
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def show(self, network: nn.Module, step: int) -> float:
        """Write `STEP.png`, a row of blurred, restored and sharp a pair, and return the mean gain in PSNR, dB."""
        was_training = network.training
        network.eval()
        try:
            restored = [restore(network, blurred) for blurred, _ in self.pairs]
        finally:
            network.train(was_training)
        pairs = [(image, *pair) for image, pair in zip(restored, self.pairs, strict=True)]
        rows = [torch.cat([blurred, image, sharp], 3) for image, blurred, sharp in pairs]
        gains = [float(psnr(image, sharp) - psnr(blurred, sharp)) for image, blurred, sharp in pairs]
        width = max(row.shape[3] for row in rows)
        padded = [torch.nn.functional.pad(row, (0, width - row.shape[3])) for row in rows]
        write_atomically(self.folder / f"{step:07}.png", encode_png(as_pixels(torch.cat(padded, 2)[0])))
        return sum(gains) / len(gains)


def _centre(image: Tensor) -> Tensor:
    height, width = (min(LARGEST, extent) for extent in image.shape[-2:])
    top, left = ((whole - part) // 2 for whole, part in zip(image.shape[-2:], (height, width), strict=True))
    return image[..., top : top + height, left : left + width]
