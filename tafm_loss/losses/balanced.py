"""A pixel loss and a feature loss in one, whose weight follows the training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tafm_loss.losses.balance import RECOMMENDED_RATIO, Loss, gradient_norm, multi_output
from tafm_loss.losses.options import checked_weight

__all__ = ["BalancedLoss"]

# The share of a new measurement in the weight, once there are enough to forget the first ones.
RATE = 0.1


class BalancedLoss(nn.Module):
    """The sum of a pixel loss and a feature loss, with the weight that keeps the ratio of their gradients.

    At the first training step and at every `every`-th after it, both gradients with respect to the restored images are
    measured, over the images of all processes. The weight is the geometric mean of what these measurements ask for; it
    moves by a tenth of each. Only such a step costs more, about as much as both losses once again, and waits for the
    device. Where no gradient is asked for, nothing is measured.

    All processes of a distributed run must call it equally often in training. Its state is in `state_dict()`;
    a checkpoint without it loads too, and measures anew.

    Args:
        pixel_loss: called as loss(pred, target), giving one number.
        feature_loss: likewise; its own weight does not matter.
        ratio: how long the gradient of the feature loss is to be, relative to that of the pixel loss.
        every: the number of steps from one measurement to the next.

    Attributes:
        just_measured: whether the last call was one that measured: a good time to look at `log()`.

    Raises:
        ValueError: for a ratio that is not positive and finite, or `every` below 1; in a step, if a loss gives no
            single number, or only the feature loss has no gradient.

    Example:
        >>> loss_fn = BalancedLoss(nn.L1Loss(), nn.MSELoss(), ratio=0.5)
        >>> pred, target = torch.full((1, 3, 8, 8), 0.75, requires_grad=True), torch.full((1, 3, 8, 8), 0.5)
        >>> loss = loss_fn(pred, target)  # the gradients have lengths of 1 / n and 0.5 / n: the weight is 1
        >>> {name: round(value, 4) for name, value in loss_fn.log().items()}
        {'ratio': 0.5, 'pixel': 0.25, 'feature': 0.0625, 'weight': 1.0}
    """

    log_weight: Tensor
    measurements: Tensor

    def __init__(
        self, pixel_loss: Loss, feature_loss: Loss, *, ratio: float = RECOMMENDED_RATIO, every: int = 50
    ) -> None:
        super().__init__()
        self.pixel_loss, self.feature_loss = pixel_loss, feature_loss
        self.ratio = checked_weight(ratio, "ratio")
        if not self.ratio:
            raise ValueError("ratio must be more than 0; leave the feature loss out instead")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a number of steps, 1 or more, got {every!r}")
        self.every = every
        self.register_buffer("log_weight", torch.tensor(-torch.inf, dtype=torch.float32, device="cpu"))
        self.register_buffer("measurements", torch.tensor(0, dtype=torch.int64, device="cpu"))
        self._steps = 0
        self.just_measured = False
        self._log: dict[str, Tensor | float] = {}

    def forward(self, pred: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the sum of both losses, ().

        Args:
            pred: restored images (N, 3, H, W); or a list of a network's outputs, whose losses `multi_output` adds.
            target: sharp images of the same shape.
        """
        terms = self.terms(pred, target)
        return terms["pixel"] + terms["feature"]

    def terms(self, pred: Tensor | Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        """Return {"pixel", "feature": its part of the loss}: the parts add up to `forward`."""
        preds = [pred] if isinstance(pred, Tensor) else list(pred)
        trains = torch.is_grad_enabled() and any(image.requires_grad for image in preds)
        self.just_measured = trains and self._steps % self.every == 0
        self._steps += trains
        if self.just_measured:
            self._measure(pred, target)
        pixel, feature = (_loss_of(loss, pred, target) for loss in (self.pixel_loss, self.feature_loss))
        terms = {"pixel": pixel, "feature": self.log_weight.exp() * feature}
        self._log.update({name: term.detach() for name, term in terms.items()})
        return terms

    def log(self) -> dict[str, float]:
        """Return {"pixel", "feature"} of the last call, "weight", and "ratio" as it was last measured.

        It waits for the device.
        """
        log: dict[str, Tensor | float] = {**self._log, "weight": self.log_weight.exp()}
        return {name: float(value) for name, value in log.items()}

    def extra_repr(self) -> str:
        """Return the options."""
        return f"ratio={self.ratio}, every={self.every}"

    def _measure(self, pred: Tensor | Sequence[Tensor], target: Tensor) -> None:
        norms = torch.stack(
            [gradient_norm(getattr(self, name), pred, target, name) for name in ("pixel_loss", "feature_loss")]
        )
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            squares = norms.square()
            torch.distributed.all_reduce(squares)
            norms = squares.sqrt()
        pixel, feature = norms.tolist()
        if 0 < pixel < math.inf and feature == 0:
            raise ValueError("the gradient of feature_loss is zero, that of pixel_loss is not: no weight balances them")
        if not (0 < pixel < math.inf and 0 < feature < math.inf):
            return
        wanted = math.log(self.ratio * pixel / feature)
        self.measurements += 1
        rate = max(1 / int(self.measurements), RATE)
        log_weight = wanted if rate == 1 else (1 - rate) * float(self.log_weight) + rate * wanted
        self.log_weight.fill_(log_weight)
        self._log["ratio"] = math.exp(log_weight) * feature / pixel

    def _load_from_state_dict(
        self, state: Mapping[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *faults: Any
    ) -> None:
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, *faults)
        # A checkpoint from before this loss was used is none that is broken.
        missing[:] = [name for name in missing if name.removeprefix(prefix) not in self._buffers]


def _loss_of(loss: Loss, pred: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
    return loss(pred, target) if isinstance(pred, Tensor) else multi_output(loss, pred, target)
