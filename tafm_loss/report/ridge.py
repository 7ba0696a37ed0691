"""Linear prediction from many features of few scenes."""

import torch
from torch import Tensor

__all__ = ["ridge_prediction"]

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(11))


def ridge_prediction(features: Tensor, targets: Tensor, unseen: Tensor) -> Tensor:
    """Return what ridge regression predicts for unseen features.

    Its strength is the one with which each scene is best predicted from the other scenes: the blurred versions of a
    scene are alike, and leaving out one of them alone would choose too little. In closed form, as in Allen's PRESS
    (1974): with a scene g left out, its residual is (I - H_gg)^-1 times the one with it, H being the hat matrix.

    Args:
        features: (S, L, F) of S scenes, each L times.
        targets: (S, L).
        unseen: (T, M, F).

    Returns:
        (T, M), in float64.
    """
    rows, unseen_rows = _standardised(features.double(), unseen.double())
    mean = targets.double().mean()
    residual = (targets.double() - mean).flatten()
    eigenvalues, basis = torch.linalg.eigh(rows @ rows.T)
    eigenvalues = eigenvalues.clamp(min=0)
    errors = [_held_out_error(basis, eigenvalues, residual, ridge, features.shape[1]) for ridge in STRENGTHS]
    best = STRENGTHS[min(range(len(STRENGTHS)), key=errors.__getitem__)]
    weights = rows.T @ (basis @ ((basis.T @ residual) / (eigenvalues + best)))
    guess: Tensor = unseen_rows @ weights + mean
    return guess.view(unseen.shape[:2])


def _held_out_error(basis: Tensor, eigenvalues: Tensor, residual: Tensor, ridge: float, levels: int) -> float:
    """Return the mean squared error of predicting each scene, `levels` rows of `basis`, from all others."""
    left = ridge / (eigenvalues + ridge)
    fitted = (basis @ (left * (basis.T @ residual))).view(-1, levels, 1)
    by_scene = basis.view(-1, levels, basis.shape[1])
    # The mean, which is not penalised, adds 1 / n to every entry of the hat matrix.
    own = (by_scene * left) @ by_scene.transpose(1, 2) - 1 / len(basis)
    return float(torch.linalg.solve(own, fitted).square().mean())


def _standardised(features: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as rows (..., F) with the mean and scale that `features` has; what is constant there becomes 0."""
    rows, unseen_rows = features.flatten(0, 1), unseen.flatten(0, 1)
    mean, deviation = rows.mean(0), rows.std(0)
    varies = deviation > 1e-5 * rows.abs().amax(0)
    scale = torch.where(varies, deviation, torch.inf)
    return (rows - mean) / scale, (unseen_rows - mean) / scale
