"""How strong a loss is beside a pixel loss, and losses of networks with several outputs."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.images import check_images
from tafm_loss.losses.feature import FeatureMaps
from tafm_loss.losses.options import checked_weight

__all__ = ["RECOMMENDED_RATIO", "Loss", "calibrate_weight", "gradient_norm", "gradient_ratio", "multi_output"]

# How strong the gradient of a feature loss should be beside that of the pixel loss. The trials chose it for the
# recommended forms of both bundled backbones: benchmarks/results/deblurring_trials.json.
RECOMMENDED_RATIO = 2.0

Loss = Callable[[Tensor, Any], Tensor]


def gradient_ratio(
    loss: Loss, pixel_loss: Loss, pred: Tensor | Sequence[Tensor], target: Tensor | FeatureMaps
) -> float:
    """Return the norm of the gradient of `loss` with respect to `pred`, divided by that of `pixel_loss`.

    With an optimiser that normalises or clips gradients only this ratio decides how much a term counts, not its
    weight or value. Gradients are not accumulated anywhere, and the graph of `pred` is left alone.

    Args:
        loss: called as loss(pred, target), giving a scalar.
        pixel_loss: likewise.
        pred: restored images (N, C, H, W), or a list of a network's outputs, over which `multi_output` adds both
            losses; take them from the network that the ratio is meant for.
        target: sharp images of the same shape; `FeatureMaps` if both losses take them.

    Raises:
        ValueError: if the gradient of `pixel_loss` is zero, one of the two is not finite, or a loss is no scalar.
    """
    pixel_norm = _finite_norm(pixel_loss, pred, target, "pixel_loss")
    if pixel_norm == 0:
        raise ValueError("the gradient of pixel_loss must not be zero; take a pred that differs from target")
    return _finite_norm(loss, pred, target, "loss") / pixel_norm


def calibrate_weight(
    loss: Loss,
    pixel_loss: Loss,
    pred: Tensor | Sequence[Tensor],
    target: Tensor | FeatureMaps,
    ratio: float = RECOMMENDED_RATIO,
) -> float:
    """Return the factor on `loss` that makes its `gradient_ratio` to `pixel_loss` equal `ratio`.

    Raises:
        ValueError: as `gradient_ratio`, if the gradient of `loss` is zero, or `ratio` is negative or not finite.

    Example:
        >>> import torch
        >>> l1, l2 = torch.nn.L1Loss(), torch.nn.MSELoss()
        >>> pred, target = torch.full((1, 3, 8, 8), 0.75), torch.full((1, 3, 8, 8), 0.5)
        >>> round(calibrate_weight(l2, l1, pred, target, ratio=0.1), 4)
        0.2
    """
    wanted, current = checked_weight(ratio, "ratio"), gradient_ratio(loss, pixel_loss, pred, target)
    if current == 0:
        raise ValueError("the gradient of loss must not be zero; take a pred that differs from target")
    return wanted / current


def multi_output(loss: Loss, preds: Sequence[Tensor], target: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Return the sum of a loss over the outputs of a network that has several.

    For stages at full size (MPRNet, HINet) and scales (MIMO-UNet). For an output smaller than `target` the target is
    resized bilinearly without antialiasing, as in MIMO-UNet's own training. A loss that has `features` computes them
    once per size of the target. Gradient reaches every output.

    Args:
        loss: called as loss(pred, target).
        preds: images (N, C, H_i, W_i), none larger than `target`.
        target: sharp images (N, C, H, W).
        weights: a factor for each output; 1 each when None.

    Raises:
        TypeError: if `preds` is no list or tuple of tensors.
        ValueError: if `preds` is empty, an output is larger than `target`, or `weights` are not one finite,
            non-negative number for each output.
    """
    factors = _checked_outputs(preds, target, weights)
    targets = {size: _target_at(size, target, loss) for size in {pred.shape[-2:]: None for pred in preds}}
    parts = [factor * loss(pred, targets[pred.shape[-2:]]) for pred, factor in zip(preds, factors, strict=True)]
    return functools.reduce(torch.add, parts)


def gradient_norm(loss: Loss, pred: Tensor | Sequence[Tensor], target: Any, name: str) -> Tensor:
    """Return the norm () of the gradient of `loss` with respect to `pred`, or to all outputs in it.

    Raises:
        ValueError: if the loss, called `name` in the message, gives no single number.
    """
    preds = [pred] if isinstance(pred, Tensor) else pred
    with torch.inference_mode(False), torch.enable_grad():
        # Cloned, because autograd cannot work on tensors that inference_mode made.
        leaves = [image.detach().float().clone().requires_grad_() for image in preds]
        fixed = target.detach().clone() if isinstance(target, Tensor) else target
        value = loss(leaves[0], fixed) if isinstance(pred, Tensor) else multi_output(loss, leaves, fixed)
        if value.dim() != 0:
            raise ValueError(f"{name} must give one number, got shape {tuple(value.shape)}; take reduction='mean'")
        gradients = torch.autograd.grad(value, leaves)
    return _norm(torch.stack([_norm(gradient) for gradient in gradients]))


def _norm(gradient: Tensor) -> Tensor:
    # Squares of small numbers vanish in float32, and Apple's GPUs have no float64.
    largest = gradient.abs().amax().clamp(min=torch.finfo(gradient.dtype).tiny)
    norm: Tensor = torch.linalg.vector_norm(gradient / largest) * largest
    return norm


def _finite_norm(loss: Loss, pred: Tensor | Sequence[Tensor], target: Any, name: str) -> float:
    norm = float(gradient_norm(loss, pred, target, name))
    if not math.isfinite(norm):
        raise ValueError(f"the gradient of {name} must be finite, got a norm of {norm}")
    return norm


def _checked_outputs(preds: Sequence[Tensor], target: Tensor, weights: Sequence[float] | None) -> list[float]:
    if not isinstance(preds, list | tuple):
        raise TypeError(f"preds must be a list or tuple of tensors, got {type(preds).__name__}; wrap one as [pred]")
    if not preds:
        raise ValueError("preds must hold at least one output, got none")
    check_images(target, "target", channels=None)
    for index, pred in enumerate(preds):
        check_images(pred, f"preds[{index}]", channels=None)
        if pred.shape[-2] > target.shape[-2] or pred.shape[-1] > target.shape[-1]:
            raise ValueError(
                f"preds[{index}] must not be larger than target, got {tuple(pred.shape)} and {tuple(target.shape)}"
            )
    if weights is None:
        return [1.0] * len(preds)
    if len(weights) != len(preds):
        raise ValueError(f"weights must hold one number for each of the {len(preds)} outputs, got {len(weights)}")
    return [checked_weight(weight, f"weights[{index}]") for index, weight in enumerate(weights)]


def _target_at(size: torch.Size, target: Tensor, loss: Loss) -> Any:
    target = target.detach()
    if target.shape[-2:] != size:
        target = F.interpolate(target, size, mode="bilinear", align_corners=False, antialias=False)
    features = getattr(loss, "features", None)
    if not callable(features):
        return target
    with torch.no_grad():
        return features(target)
