"""How far two feature maps are apart, location by location.

Every distance maps features (N, C, H, W) to (N, 1, H, W), or embeddings (N, C) to (N, 1), is zero for equal features
and never negative. Shapes that differ are a ValueError. It computes in float32 whatever it is given: the features are
cast on entry, and only operations that autocast leaves alone follow.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DISTANCES", "charbonnier", "cosine", "l1", "l2", "normalized_l2", "structure"]

CHARBONNIER_EPS = 1e-3
NORM_EPS = 1e-8
STRUCTURE_FLOOR = 1e-3


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference over the channels."""
    a, b = _as_float32(a, b)
    return (a - b).abs().mean(1, keepdim=True)


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference over the channels."""
    a, b = _as_float32(a, b)
    return (a - b).square().mean(1, keepdim=True)


def charbonnier(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of sqrt(d^2 + eps^2) - eps over the channels, d being the difference and eps = 1e-3.

    Charbonnier et al., ICIP 1994, less its eps, so that equal features are at distance zero.
    """
    a, b = _as_float32(a, b)
    difference = a - b
    root = torch.hypot(difference, difference.new_full((), CHARBONNIER_EPS))
    # The same as root - eps, without its cancellation near zero.
    return (difference * (difference / (root + CHARBONNIER_EPS))).mean(1, keepdim=True)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - the cosine similarity of the channel vectors, in [0, 2].

    It is half of `normalized_l2`: for vectors much longer than 1e-4 that is the same number, and unlike the textbook
    form it is accurate near zero and zero for two vectors of zeros.
    """
    return normalized_l2(a, b) / 2


def normalized_l2(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared difference of the channel vectors scaled to unit length, in [0, 4].

    LPIPS (Zhang et al., CVPR 2018, eq. 1) without its learned weights. The length is sqrt(sum of squares + 1e-8): an
    eps inside the root keeps the gradient finite at vectors of zeros.
    """
    a, b = _as_float32(a, b)
    if torch.compiler.is_compiling():  # which chooses by itself what is kept for the gradient
        return _distance_and_lengths(a, b)[0]
    distance: Tensor = _NormalizedL2.apply(a, b)[0]
    return distance


def structure(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean over the channels of the energy of the difference, relative to the energies around it, in [0, 2].

    With E the mean over a window of 3 x 3 locations it is E[(a - b)^2] / (E[a^2] + E[b^2] + c), which is 1 less the
    contrast and structure terms of SSIM (Wang et al., IEEE TIP 2004) of uncentred moments: a difference counts where
    little else is going on. c is a thousandth of the mean of a^2 + b^2 over channels and locations, so that the scale
    of the features does not matter, and no less than 1e-8. Windows end at the border; an embedding's is each of its
    entries.
    """
    a, b = _as_float32(a, b)
    if torch.compiler.is_compiling():
        return _structure_and_energy(a, b)[0]
    distance: Tensor = _Structure.apply(a, b)[0]
    return distance


class _NormalizedL2(torch.autograd.Function):
    """|u - v|^2 with u = s a, s = (|a|^2 + eps)^-1/2, and v = t b likewise.

    Left to autograd this keeps five tensors of the features' size and takes two to three times as long; the gradient
    needs none of them: with p = u.(u - v) it is 2 s ((1 - p) s a - t b).
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _distance_and_lengths(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        distance, s, t = output
        ctx.mark_non_differentiable(s, t)
        ctx.save_for_backward(*inputs, s, t, distance)
        ctx.save_for_forward(*inputs, s, t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, s, t, distance = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A second derivative is asked for, and what forward saved has no history.
            s, t = _inverse_length(a), _inverse_length(b)
            distance = (a * s - b * t).square().sum(1, keepdim=True)
        # |u|^2 = 1 - eps s^2, so that u.(u - v) = (distance + |u|^2 - |v|^2) / 2 needs no pass over the channels.
        excess = NORM_EPS * (t.square() - s.square())
        grad_a = _gradient(a, b, s, t, (distance + excess) / 2, grad) if ctx.needs_input_grad[0] else None
        grad_b = _gradient(b, a, t, s, (distance - excess) / 2, grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b

    @staticmethod
    def jvp(ctx: Any, change_a: Tensor, change_b: Tensor) -> tuple[Tensor, None, None]:
        a, b, s, t = ctx.saved_tensors
        change = _change_of_direction(a, s, change_a) - _change_of_direction(b, t, change_b)
        return 2 * ((a * s - b * t) * change).sum(1, keepdim=True), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> tuple[Any, tuple[int, ...]]:
        return _over_one_batch(_NormalizedL2, info.batch_size, in_dims, a, b)


def _distance_and_lengths(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s, t = _inverse_length(a), _inverse_length(b)
    return _difference(a, s, b, t).square().sum(1, keepdim=True), s, t


def _inverse_length(features: Tensor) -> Tensor:
    return features.square().sum(1, keepdim=True).add_(NORM_EPS).rsqrt_()


def _change_of_direction(features: Tensor, inverse_length: Tensor, change: Tensor) -> Tensor:
    along = (features * change).sum(1, keepdim=True)
    return inverse_length * (change - inverse_length.square() * along * features)


def _gradient(a: Tensor, b: Tensor, s: Tensor, t: Tensor, p: Tensor, grad: Tensor) -> Tensor:
    scale = 2 * grad * s
    return _difference(a, scale * ((1 - p) * s), b, scale * t)


def _difference(a: Tensor, of_a: Tensor, b: Tensor, of_b: Tensor) -> Tensor:
    # Not addcmul: it rounds one product and not the other, so that equal features would not be at zero.
    return (a * of_a).sub_(b * of_b)


class _Structure(torch.autograd.Function):
    """The mean of D / S over the channels, D being W (a - b)^2, S = W (a^2 + b^2 + c), and W the sum over a window.

    Left to autograd this keeps six tensors of the features' size and takes about twice as long; the gradient needs S
    alone. W is its own adjoint: with q = 1 / S and r = W (D / S^2) it is 2 ((a - b) W q - a (r + f)), where f, by way
    of c, is a thousandth of the mean of r.
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return _structure_and_energy(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, energy = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A second derivative is asked for, and what forward saved has no history.
            energy = _window_energy(a, b)
        difference = a - b
        q = (2 / a.shape[1] * grad) / energy
        r = _window_sum(_window_sum(difference.square()) * q / energy)
        of_difference, of_energy = difference * _window_sum(q), r + STRUCTURE_FLOOR * _image_mean(r)
        grad_a = of_difference - of_energy * a if ctx.needs_input_grad[0] else None
        grad_b = -of_difference - of_energy * b if ctx.needs_input_grad[1] else None
        return grad_a, grad_b

    @staticmethod
    def jvp(ctx: Any, change_a: Tensor, change_b: Tensor) -> tuple[Tensor, None]:
        a, b, energy = ctx.saved_tensors
        difference, around = a - b, 2 * (a * change_a + b * change_b)
        of_difference = _window_sum(2 * difference * (change_a - change_b))
        of_energy = _window_sum(around + STRUCTURE_FLOOR * _image_mean(around))
        share = _window_sum(difference.square()) / energy
        return ((of_difference - share * of_energy) / energy).mean(1, keepdim=True), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> tuple[Any, tuple[int, ...]]:
        return _over_one_batch(_Structure, info.batch_size, in_dims, a, b)


def _structure_and_energy(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    energy = _window_energy(a, b)
    return (_window_sum((a - b).square()) / energy).mean(1, keepdim=True), energy


def _window_energy(a: Tensor, b: Tensor) -> Tensor:
    energy = a.square() + b.square()
    floor = STRUCTURE_FLOOR * _image_mean(energy) + NORM_EPS
    return _window_sum(energy.add_(floor))


def _image_mean(features: Tensor) -> Tensor:
    return features.mean(tuple(range(1, features.dim())), keepdim=True)


def _window_sum(features: Tensor) -> Tensor:
    if features.dim() == 2:
        return features
    # Not avg_pool2d: on a processor it takes ten times as long.
    padded = F.pad(features, (1, 1, 1, 1))
    rows = (padded[:, :, :-2] + padded[:, :, 1:-1]).add_(padded[:, :, 2:])
    return (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])


def _over_one_batch(
    function: type[torch.autograd.Function], size: int, in_dims: tuple[int | None, ...], *features: Tensor
) -> tuple[Any, tuple[int, ...]]:
    """Return what `function` gives for features of `size` batches (N, ...) as one, and the axes of the batches."""
    stacked = [
        x.expand(size, *x.shape) if axis is None else x.movedim(axis, 0)
        for x, axis in zip(features, in_dims, strict=True)
    ]
    results: tuple[Tensor, ...] = function.apply(*[x.flatten(0, 1) for x in stacked])
    return tuple(x.unflatten(0, (size, -1)) for x in results), (0,) * len(results)


def _as_float32(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"features must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return a.float(), b.float()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "l2": l2,
    "charbonnier": charbonnier,
    "cosine": cosine,
    "normalized_l2": normalized_l2,
    "structure": structure,
}
