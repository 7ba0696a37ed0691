"""What is asked of features besides the report: how far blur reaches, and whether a distance still ranks distortions.

The first is a linear probe of a backbone's features on unseen scenes; the second is the agreement of two distances,
such as those of a tuned and of an untuned backbone, over distortions that are no blur.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from tafm_loss import Backbone, BlurSynthesizer
from tafm_loss.blur import KINDS
from tafm_loss.distractors import grey, jpeg, shifted
from tafm_loss.report import Distance, as_target

CHUNK = 20
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
    r2, across_kinds = {}, {}
    for kind in KINDS:
        unseen, extents = test[kind]
        r2[kind] = _explained(ridge_prediction(*train[kind], unseen), extents)
        others = [train[other] for other in KINDS if other != kind]
        features, targets = (torch.cat(parts, dim=1) for parts in zip(*others, strict=True))
        guess = ridge_prediction(features, targets, unseen)
        across_kinds[kind] = float(rank_correlation(guess.flatten(), extents.flatten()))
    return ExtentProbe(r2, across_kinds)


def _explained(guess: Tensor, extents: Tensor) -> float:
    return float(1 - (guess - extents).square().sum() / (extents - extents.mean()).square().sum())


def _samples(backbone: Backbone, images: Tensor, kind: str, seed: int) -> _Samples:
    features, extents = [], []
    synthesizer = BlurSynthesizer(EXTENTS, kind=kind, extent_jitter=JITTER)
    drawn = synthesizer.sample(len(images), generator=torch.Generator().manual_seed(seed))
    for start in range(0, len(images), CHUNK):
        kernels = drawn.of_scenes(slice(start, start + CHUNK))
        levels = synthesizer(images[start : start + CHUNK], kernels=kernels)
        features.append(torch.stack([_pooled(backbone(level)) for level in levels], dim=1))
        extents.append(kernels.extents.T.log1p())
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


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation of values (K,) each."""
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)


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


class Distortion(NamedTuple):
    """A change of images (N, 3, H, W) that is no blur: `apply(images, strength, generator)` at several strengths."""

    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    strengths: tuple[float, ...]


@torch.no_grad()
def agreement(distance: Distance, reference: Distance, images: Tensor, *, seed: int = 0) -> Tensor:
    """Return, per image (N,), Spearman's rank correlation between two distances over distortions that are no blur.

    The strengths of all distortions span about the same mean squared errors, so that it is their kind more than their
    strength that decides the ranking.

    Args:
        distance: `distance(pred, target) -> (N,)`.
        reference: another, such as that of the untuned backbone.
        images: sharp, (N, 3, H, W) in [0, 1].
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    correlations = []
    for sharp in images.split(CHUNK):
        judges = [(judge, as_target(judge, sharp)) for judge in (distance, reference)]
        rows = [
            torch.stack([judge(image, target) for judge, target in judges]) for _, image in distorted(sharp, generator)
        ]
        ours, theirs = torch.stack(rows, dim=1)
        correlations += [rank_correlation(a, b) for a, b in zip(ours.T, theirs.T, strict=True)]
    return torch.tensor(correlations)


def distorted(images: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each distortion, and images (N, 3, H, W) in [0, 1] with it, strength by strength."""
    for name, distortion in DISTORTIONS.items():
        for strength in distortion.strengths:
            yield name, distortion.apply(images, strength, generator).clamp(0, 1)


def _white_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return images + deviation * torch.randn(images.shape, generator=generator).to(images)


def _row_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return images + deviation * torch.randn(*images.shape[:1], 1, images.shape[2], 1, generator=generator).to(images)


def _salt_and_pepper(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    draws = torch.rand(len(images), 1, *images.shape[2:], generator=generator).to(images)
    return torch.where(draws < share, (draws < share / 2).to(images), images)


def _compressed(images: Tensor, quality: float, _: torch.Generator) -> Tensor:
    return jpeg(images, int(quality))


def _brighter(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    return images + amount


def _less_contrast(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    return images.lerp(grey(images).mean((1, 2, 3), keepdim=True), share)


def _less_colour(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    return images.lerp(grey(images), share)


def _colour_cast(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    return images + amount * images.new_tensor([1.0, 0.0, -1.0]).view(3, 1, 1)


def _shift(images: Tensor, pixels: float, _: torch.Generator) -> Tensor:
    return shifted(images, int(pixels))


def _posterised(images: Tensor, levels: float, _: torch.Generator) -> Tensor:
    return (images * (levels - 1)).round() / (levels - 1)


# Root mean squared errors of about 3, 6, 12 and 24 of 255 on photographs; a shift of 1 px has the 24 already.
DISTORTIONS: Mapping[str, Distortion] = {
    "white noise": Distortion(_white_noise, (0.012, 0.024, 0.047, 0.094)),
    "row noise": Distortion(_row_noise, (0.012, 0.024, 0.047, 0.094)),
    "salt and pepper": Distortion(_salt_and_pepper, (0.0005, 0.002, 0.008, 0.032)),
    "JPEG": Distortion(_compressed, (80, 40, 15, 5)),
    "brightness": Distortion(_brighter, (0.012, 0.024, 0.047, 0.094)),
    "contrast": Distortion(_less_contrast, (0.06, 0.12, 0.24, 0.48)),
    "saturation": Distortion(_less_colour, (0.12, 0.25, 0.5, 1.0)),
    "colour cast": Distortion(_colour_cast, (0.014, 0.029, 0.058, 0.115)),
    "shift": Distortion(_shift, (1, 2, 3)),
    "posterisation": Distortion(_posterised, (24, 12, 6, 3)),
}
