"""The sum that is minimised: terms, their weights, and the outputs they are taken over."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from examples.deblurring.training.config import Term
from examples.deblurring.training.losses import Loss, create_loss
from tafm_loss import calibrate_weight, multi_output

__all__ = ["Objective"]


class Objective:
    """Terms with weights, each summed over the outputs of a network.

    Args:
        terms: of the experiment.
        device: where its losses compute.
        seed: of backbones that are random.

    Raises:
        ValueError: for a loss that is not known.
    """

    def __init__(self, terms: Sequence[Term], device: torch.device, seed: int = 0) -> None:
        self.names = _distinct([term.loss for term in terms])
        with torch.random.fork_rng(devices=[]):
            # Random features are part of the experiment: every process and every resumed run has the same.
            torch.default_generator.manual_seed(seed)
            self.losses: list[Loss] = [create_loss(term.loss, **term.options) for term in terms]
        for loss in self.losses:
            if isinstance(loss, nn.Module):
                loss.to(device)
        self.ratios = [term.gradient_ratio for term in terms]
        self.weights: list[float | None] = [term.weight for term in terms]

    def __call__(self, outputs: list[Tensor], sharp: Tensor) -> dict[str, Tensor]:
        """Return each term, weighted."""
        return {
            name: weight * multi_output(loss, outputs, sharp)
            for name, loss, weight in zip(self.names, self.losses, self.weights, strict=True)
            if weight is not None
        }

    @property
    def calibrated(self) -> bool:
        """Whether every term has its weight."""
        return None not in self.weights

    def calibrated_weights(self, outputs: list[Tensor], sharp: Tensor) -> list[float]:
        """Return all weights, with gradient ratios turned into weights by what a network makes of a batch.

        The ratio is that at the last output, the restored image.

        Raises:
            ValueError: if a gradient is zero or not finite.
        """
        restored = outputs[-1].detach().float()
        fixed = [(loss, weight) for loss, weight in zip(self.losses, self.weights, strict=True) if weight is not None]

        def weighted(pred: Tensor, target: Any) -> Tensor:
            return torch.stack([weight * loss(pred, target) for loss, weight in fixed]).sum()

        return [
            calibrate_weight(loss, weighted, restored, sharp, ratio) if ratio is not None and weight is None else weight
            for loss, ratio, weight in zip(self.losses, self.ratios, self.weights, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, for a checkpoint."""
        return {"weights": list(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the weights of a checkpoint."""
        self.weights = list(state["weights"])


def _distinct(names: Sequence[str]) -> list[str]:
    return [f"{name}-{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
