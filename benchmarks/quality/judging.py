"""An arm's network judged: as it is, and after the mask that its validation images choose."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from examples.deblurring.evaluation.niqe import NIQE
from quality.data import Pairs
from quality.masks import chosen_mask, largest_gain, masked
from quality.measuring import measure
from quality.training import restore
from tafm_loss.demo import Mask

# What is measured at equal PSNR.
EQUAL = ("psnr", "ssim", "gmsd", "mdsi", "haarpsi")


class Level(NamedTuple):
    """Mean PSNR that all arms are brought to, dB: of the photographs that choose a mask, and of each kind of blur."""

    choosing: float
    judging: dict[str, float]


class Judge:
    """Measures networks on held-out pairs.

    Args:
        choosing: what the mask is chosen on.
        judging: {kind of blur: what is measured on}; the first kind in full.
        primary: the metric that chooses the mask.
        metrics: what is measured.
        device: where networks and metrics compute.
        price: dB that an arm is brought below L1 as it is.
        niqe: measured too if it is there.
    """

    def __init__(
        self,
        choosing: Pairs,
        judging: dict[str, Pairs],
        primary: str,
        metrics: Sequence[str],
        device: torch.device,
        price: float,
        niqe: NIQE | None = None,
    ) -> None:
        self.choosing = choosing
        self.judging = judging
        self.primary = primary
        self.metrics = list(metrics)
        self.device = device
        self.price = price
        self.niqe = niqe

    def __call__(self, network: nn.Module, level: Level | None) -> tuple[dict[str, Any], Level]:
        """Return the figures of an arm, and the level.

        "raw" is as it is; "masked" after the mask that was chosen, sigma and gain; "equal" after a mask of the sigma
        that was chosen, with the gain that brings the arm to the level on the very photographs, {kind of blur: ...}.

        Args:
            network: an arm's.
            level: None for the arm that sets it.
        """
        restored, sharp = self._restored(network, self.choosing)
        aimed = _psnr(restored, sharp) - self.price if level is None else level.choosing
        mask = chosen_mask(restored, sharp, aimed, self.primary)
        figures: dict[str, Any] = {"mask": mask and mask._asdict(), "equal": {}}
        levels = {}
        for kind, pairs in self.judging.items():
            restored, sharp = self._restored(network, pairs)
            levels[kind] = _psnr(restored, sharp) - self.price if level is None else level.judging[kind]
            if kind == next(iter(self.judging)):
                figures["raw"] = self._measured(restored, sharp)
                figures["masked"] = None if mask is None else self._measured(masked(restored, mask), sharp)
            gain = None if mask is None else largest_gain(restored, sharp, mask.sigma, levels[kind])
            if gain is None or mask is None:
                figures["equal"][kind] = None
            else:
                values = measure(masked(restored, Mask(mask.sigma, gain)), sharp, EQUAL)
                figures["equal"][kind] = {"gain": gain, **_lists(values)}
        return figures, Level(aimed, levels)

    def _measured(self, images: Tensor, sharp: Tensor) -> dict[str, list[float]]:
        found = _lists(measure(images, sharp, self.metrics))
        if self.niqe is not None:
            found["niqe"] = [round(self.niqe(image[None].cpu()), 4) for image in images]
        return found

    def _restored(self, network: nn.Module, pairs: Pairs) -> tuple[Tensor, Tensor]:
        return restore(network, pairs, self.device), pairs.batch(slice(None), self.device).sharp


def _psnr(restored: Tensor, sharp: Tensor) -> float:
    return float(measure(restored, sharp, ["psnr"])["psnr"].mean())


def _lists(values: dict[str, Tensor]) -> dict[str, list[float]]:
    return {name: [round(value, 6) for value in each.tolist()] for name, each in values.items()}
