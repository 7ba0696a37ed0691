"""Whether two lists of numbers have the same order."""

from torch import Tensor

__all__ = ["spearman"]


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation (...) of a and b, (..., K) each; NaN where all of one are equal.

    >>> import torch
    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([9.0, 4.0, 1.0]))
    tensor(-1., dtype=torch.float64)
    """
    ranks_a, ranks_b = (_centred_ranks(values) for values in (a, b))
    return (ranks_a * ranks_b).sum(-1) / (ranks_a.square().sum(-1) * ranks_b.square().sum(-1)).sqrt()


def _centred_ranks(values: Tensor) -> Tensor:
    """Return the ranks less their mean; equal values share the mean of their ranks."""
    return (values[..., :, None] - values[..., None, :]).sign().double().sum(-1) / 2
