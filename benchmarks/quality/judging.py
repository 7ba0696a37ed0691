"""An arm's network judged: as it is, and after the mask that its validation images choose."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from examples.deblurring.evaluation.niqe import NIQE
from quality.data import Pairs
from quality.masks import chosen_mask, masked
from quality.measuring import measure
from quality.training import restore

# What an arm may give away in PSNR against L1 as it is, dB.
PRICE = 0.05


class HeldOut(NamedTuple):
    """One kind of blur: photographs that choose, and others that are read once."""

    choosing: Pairs
    judging: Pairs


class Judge:
    """Measures networks on held-out pairs.

    Args:
        held_out: {kind of blur: pairs}.
        primary: the metric that chooses the mask.
        metrics: what is measured.
        device: where networks and metrics compute.
        niqe: measured too if it is there.
    """

    def __init__(
        self,
        held_out: dict[str, HeldOut],
        primary: str,
        metrics: Sequence[str],
        device: torch.device,
        niqe: NIQE | None = None,
    ) -> None:
        self.held_out = held_out
        self.primary = primary
        self.metrics = list(metrics)
        self.device = device
        self.niqe = niqe

    def __call__(self, network: nn.Module, levels: dict[str, float] | None) -> dict[str, Any]:
        """Return {kind of blur: figures}.

        Args:
            network: an arm's.
            levels: the PSNR on the choosing pairs that every arm is brought to; None for the arm that sets it.
        """
        return {kind: self._judged(network, pairs, (levels or {}).get(kind)) for kind, pairs in self.held_out.items()}

    def _judged(self, network: nn.Module, pairs: HeldOut, level: float | None) -> dict[str, Any]:
        restored, sharp = self._restored(network, pairs.choosing)
        own = float(measure(restored, sharp, ["psnr"])["psnr"].mean())
        level = own - PRICE if level is None else level
        mask = chosen_mask(restored, sharp, level, self.primary)
        restored, sharp = self._restored(network, pairs.judging)
        figures: dict[str, Any] = {"level": level, "mask": mask and mask._asdict()}
        figures["raw"] = self._measured(restored, sharp)
        if mask is not None:
            figures["masked"] = self._measured(masked(restored, mask), sharp)
        return figures

    def _measured(self, images: Tensor, sharp: Tensor) -> dict[str, list[float]]:
        values = measure(images, sharp, self.metrics)
        found = {name: [round(value, 6) for value in each.tolist()] for name, each in values.items()}
        if self.niqe is not None:
            found["niqe"] = [round(self.niqe(image[None].cpu()), 4) for image in images]
        return found

    def _restored(self, network: nn.Module, pairs: Pairs) -> tuple[Tensor, Tensor]:
        return restore(network, pairs, self.device), pairs.batch(slice(None), self.device).sharp
