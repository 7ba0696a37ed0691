"""Whether a backbone knows how far blur reaches: a linear probe of its features on unseen scenes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.kernels import KINDS
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.report.comparison import blurred_chunks
from tafm_loss.report.rank_correlation import spearman
from tafm_loss.report.ridge import ridge_prediction

__all__ = ["ExtentProbe", "extent_probe"]

LEAST_SCENES = 4
# Extents from 1 to 25 px, one in each of four ranges of equal ratio.
LEVELS = 4
RATIO = 25 ** (1 / LEVELS)
JITTER = (RATIO - 1) / (RATIO + 1)
EXTENTS = tuple(RATIO**level / (1 - JITTER) for level in range(LEVELS))
# Of a tap's mean activity: a channel that is less active counts as hardly active, not as endlessly small.
FLOOR = 0.1


class ExtentProbe(NamedTuple):
    """How well a probe tells the extent on unseen scenes, by kind of blur.

    Args:
        r2: the share of the variance of log1p(extent) that it explains, trained on that kind.
        rank_correlation: Spearman's, of extents predicted by a probe that was trained on all other kinds.
    """

    r2: dict[str, float]
    rank_correlation: dict[str, float]


class _Samples(NamedTuple):
    """Pooled features (S, L, F) of S scenes, each blurred to L extents, and log1p of these extents, (S, L)."""

    features: Tensor
    extents: Tensor


@torch.no_grad()
def extent_probe(backbone: Backbone, images: Tensor, *, seed: int = 0) -> ExtentProbe:
    """Predict log1p of the extent of blur from pooled features by ridge regression.

    Half of the scenes train the probe, the other half test it. Every scene is blurred to four extents from 1 to 25 px,
    drawn one from each of four ranges of equal ratio. A map is pooled to the logarithms of the mean and of the
    largest activity of each channel: the mean tells how much detail is left, the largest how sharp the sharpest edge
    is, which depends less on the scene. An embedding is taken as it is.

    Args:
        backbone: what is probed.
        images: sharp scenes, (N, 3, H, W) in [0, 1], N >= 4.
        seed: of the split and of the blur.

    Raises:
        ValueError: if there are fewer than 4 scenes.
    """
    if len(images) < LEAST_SCENES:
        raise ValueError(
            f"images must hold at least {LEAST_SCENES} scenes, two to train and two to test a probe on, "
            f"got {len(images)}"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    samples = {kind: _samples(backbone, images[order], kind, seed) for kind in KINDS}
    half = len(images) // 2
    train = {kind: _Samples(*(part[:half] for part in drawn)) for kind, drawn in samples.items()}
    test = {kind: _Samples(*(part[half:] for part in drawn)) for kind, drawn in samples.items()}
    r2, rank_correlation = {}, {}
    for kind in KINDS:
        unseen, extents = test[kind]
        r2[kind] = _explained(ridge_prediction(*train[kind], unseen), extents)
        others = [train[other] for other in KINDS if other != kind]
        features, targets = (torch.cat(parts, dim=1) for parts in zip(*others, strict=True))
        guess = ridge_prediction(features, targets, unseen)
        rank_correlation[kind] = float(spearman(guess.flatten(), extents.flatten()))
    return ExtentProbe(r2, rank_correlation)


def _explained(guess: Tensor, extents: Tensor) -> float:
    return float(1 - (guess - extents).square().sum() / (extents - extents.mean()).square().sum())


def _samples(backbone: Backbone, images: Tensor, kind: str, seed: int) -> _Samples:
    features, extents = [], []
    synthesizer = BlurSynthesizer(EXTENTS, kind=kind, extent_jitter=JITTER)
    for _, levels, drawn in blurred_chunks(images, synthesizer, torch.Generator().manual_seed(seed)):
        features.append(torch.stack([_pooled(backbone(level)) for level in levels], dim=1))
        extents.append(drawn.T.log1p())
    return _Samples(torch.cat(features), torch.cat(extents))


def _pooled(features: Mapping[str, Tensor]) -> Tensor:
    """Return features of all taps as one vector an image, (N, F)."""
    return torch.cat([part for tap in features.values() for part in _pooled_tap(tap)], dim=1)


def _pooled_tap(features: Tensor) -> Sequence[Tensor]:
    if features.dim() == 2:
        return (features,)
    activity = features.abs()
    floor = FLOOR * activity.mean((1, 2, 3)).clamp(min=1e-12)[:, None]
    return (activity.mean((2, 3)) + floor).log(), (activity.amax((2, 3)) + floor).log()
