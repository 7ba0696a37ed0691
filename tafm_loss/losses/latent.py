"""Latent comparison: what an encoder makes of one content must not depend on the quality of the image."""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tafm_loss.losses.distances import NORM_EPS, normalized_l2
from tafm_loss.losses.options import checked_weight

__all__ = ["LatentComparisonLoss"]

FEWEST_PAIRS = 4


class LatentComparisonLoss(nn.Module):
    """Compare the latents of two images of the same content and different quality, pair by pair over a batch.

    The distance d of two latents is `normalized_l2`, averaged over the locations: from 0 to 4, 2 for unrelated
    directions. It does not depend on the scale of the latents, for vectors of a length from 1e-3 to 1e18: an encoder
    cannot lower it by shrinking what it returns.

    - pull: the mean of d(z_i, z'_i), z and z' being the latents of both sides.
    - push: the mean over i and all j != i of max(0, margin + d(z_i, z'_i) - d(z_i, z'_j)). Contents that are far
      enough apart drop out. Without it an encoder that returns a constant is optimal.
    - decorrelation, if statistics are given: the mean squared correlation, over the pairs, of p_i - p'_i and
      s_i - s'_i, p being the latents' directions averaged over the locations, and s what the encoder has set aside as
      interference. Within a pair the content is the same, and its part in the statistics cancels. The statistics count
      as constants: empty ones would be uncorrelated too. Chance alone gives 1 / N; of fewer than 4 pairs the term is 0.

    Unlike the losses that compare images in a frozen backbone, this one trains the encoder of its caller. Gradient
    reaches both sides, and the value depends on the other images of the batch. Use it beside a loss on the restored
    images.

    After BDIRNet (Niu et al., Neurocomputing 466, 2021), of which only the abstract is public: it compares latents of
    two images of different quality, and keeps interference statistics apart. The form of all three terms is ours.

    Args:
        margin: how much farther another content must be than the same content, from 0 to 4.
        push_weight: factor on push; 0 leaves it out, and allows batches of one pair.
        decorrelation_weight: factor on decorrelation; 0 leaves it out.
        weight: what the whole loss is multiplied by.

    Raises:
        ValueError: for a margin beyond 0 to 4, or a weight that is negative or not finite.

    Example:
        >>> import torch
        >>> loss_fn = LatentComparisonLoss()
        >>> latents = torch.eye(4)[:2]  # two contents, as different as can be without being opposite
        >>> loss_fn(latents, 10 * latents)
        tensor(0.)
        >>> {name: round(value.item(), 2) for name, value in loss_fn.terms(latents, latents.flip(0)).items()}
        {'pull': 2.0, 'push': 2.5}
    """

    def __init__(
        self,
        *,
        margin: float = 0.5,
        push_weight: float = 1.0,
        decorrelation_weight: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= margin <= 4:
            raise ValueError(f"margin must be from 0 to 4, the largest distance of two latents, got {margin}")
        self.margin = float(margin)
        self.push_weight = checked_weight(push_weight, "push_weight")
        self.decorrelation_weight = checked_weight(decorrelation_weight, "decorrelation_weight")
        self.weight = checked_weight(weight, "weight")

    def forward(
        self,
        latents: Tensor,
        reference_latents: Tensor,
        statistics: Tensor | None = None,
        reference_statistics: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, () in float32. Gradient reaches both latents, and no statistics.

        Args:
            latents: (N, C, H, W) or (N, C) of the damaged images; float32, float16 or bfloat16.
            reference_latents: of the same contents in better quality, in the same order and shape.
            statistics: (N, K), the interference that the encoder has set aside from the damaged images.
            reference_statistics: (N, K), likewise of the references; needed with `statistics`.

        Raises:
            TypeError: if one of them is no floating-point tensor.
            ValueError: if shapes or devices do not fit, one of the two statistics is missing, or push has a single
                pair to work on.
        """
        terms = self.terms(latents, reference_latents, statistics, reference_statistics)
        return functools.reduce(torch.add, terms.values())

    def terms(
        self,
        latents: Tensor,
        reference_latents: Tensor,
        statistics: Tensor | None = None,
        reference_statistics: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return {"pull", "push", "decorrelation": its part of the loss}, weighted: the parts add up to `forward`."""
        self._check_latents(latents, reference_latents)
        # Half precision would lose small differences of directions, and autocast makes products half precision.
        with torch.autocast(latents.device.type, enabled=False):
            z, reference_z = latents.float(), reference_latents.float()
            same = normalized_l2(z, reference_z).flatten(1).mean(1)
            terms = {"pull": self.weight * same.mean()}
            if self.push_weight:
                terms["push"] = self.weight * self.push_weight * self._push(same, _distances(z, reference_z))
            if statistics is not None or reference_statistics is not None:
                change = _change_of_statistics(latents, statistics, reference_statistics)
                if self.decorrelation_weight:
                    share = _explained_share(_directions(z) - _directions(reference_z), change)
                    terms["decorrelation"] = self.weight * self.decorrelation_weight * share
        return terms

    def extra_repr(self) -> str:
        """Return the options."""
        names = ("margin", "push_weight", "decorrelation_weight", "weight")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def _push(self, same: Tensor, distances: Tensor) -> Tensor:
        pairs = len(same)
        hinges = (self.margin + same[:, None] - distances).clamp(min=0)
        others = hinges.masked_fill(torch.eye(pairs, dtype=torch.bool, device=same.device), 0)
        return others.sum() / (pairs * (pairs - 1))

    def _check_latents(self, latents: Tensor, reference_latents: Tensor) -> None:
        _check_pair({"latents": latents, "reference_latents": reference_latents})
        shape = tuple(latents.shape)
        if len(shape) not in (2, 4) or 0 in shape:
            raise ValueError(f"latents must have shape (N, C, H, W) or (N, C), none of them 0, got {shape}")
        if shape[0] == 1 and self.push_weight:
            raise ValueError(
                "push needs the latents of at least 2 contents, got a batch of one: use larger batches, drop the last "
                "incomplete one (drop_last=True), or leave push out with push_weight=0"
            )


def _change_of_statistics(latents: Tensor, statistics: Tensor | None, reference_statistics: Tensor | None) -> Tensor:
    """Return how the statistics (N, K) change from the references to the damaged images, without graph."""
    if statistics is None or reference_statistics is None:
        missing = "statistics" if statistics is None else "reference_statistics"
        raise ValueError(f"statistics must be given for both sides or for none; {missing} are missing")
    _check_pair({"statistics": statistics, "reference_statistics": reference_statistics})
    if statistics.dim() != 2 or len(statistics) != len(latents) or statistics.shape[1] == 0:
        raise ValueError(
            f"statistics must have shape ({len(latents)}, K) as the latents', got {tuple(statistics.shape)}"
        )
    if statistics.device != latents.device:
        raise ValueError(f"statistics are on {statistics.device}, but latents on {latents.device}; move one of them")
    return statistics.detach().float() - reference_statistics.detach().float()


def _distances(z: Tensor, reference_z: Tensor) -> Tensor:
    """Return the distance (N, N) of every latent from every reference, averaged over the locations.

    From one product of matrices, which spares the memory of all differences.
    """
    locations = z[0, 0].numel()
    a, b = (_unit(latents).flatten(1) for latents in (z, reference_z))
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return (squares - 2 * a @ b.T) / locations


def _explained_share(change: Tensor, change_of_statistics: Tensor) -> Tensor:
    """Return the mean squared correlation of all columns of (N, C) with all of (N, K), about zero."""
    if len(change) < FEWEST_PAIRS:
        return change.new_zeros(())
    return (_unit(change.T) @ _unit(change_of_statistics.T).T).square().mean()


def _directions(z: Tensor) -> Tensor:
    """Return the directions of the latents, averaged over the locations, (N, C)."""
    return _unit(z).flatten(2).mean(2) if z.dim() == 4 else _unit(z)


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors along dimension 1 at unit length; eps inside the root keeps the gradient finite at zeros."""
    return vectors * (vectors.square().sum(1, keepdim=True) + NORM_EPS).rsqrt()


def _check_pair(pair: Mapping[str, Tensor]) -> None:
    """Raise unless both are floating-point tensors of the same shape on the same device."""
    for name, given in pair.items():
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if not given.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {given.dtype}")
    (name_a, a), (name_b, b) = pair.items()
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.device != b.device:
        raise ValueError(f"{name_a} are on {a.device}, but {name_b} on {b.device}; move one of them")
