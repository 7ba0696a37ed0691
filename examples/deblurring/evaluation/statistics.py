"""What the values of images come to, and what they say about others: scenes are drawn or flipped as a whole.

Images of one video are no independent observations: an interval from resampled images would be far too narrow.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from examples.deblurring.evaluation.rows import ImageRows

__all__ = [
    "CONFIDENCE",
    "EXACT_SCENES",
    "RESAMPLES",
    "SEED",
    "Difference",
    "Summary",
    "adjusted",
    "as_json",
    "bootstrap_interval",
    "holm",
    "json_number",
    "paired_difference",
    "scene_means",
    "sign_flip_test",
    "summarise",
]

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0
# All 2^15 patterns of signs are tried; of more scenes, as many are drawn as the bootstrap draws samples.
EXACT_SCENES = 15


class Difference(NamedTuple):
    """How a second method differs from a first one in one metric, on the same images.

    Args:
        mean: over images, second minus first.
        interval: of the mean, from a bootstrap over scenes; None for one scene or values that are not finite.
        p: of the sign-flip test over scenes, two-sided; None as the interval.
        exact: whether all patterns of signs were tried.
        scenes_above: in how many scenes the mean difference is above 0.
        scenes_below: in how many it is below 0.
        scenes: how many there are.
        p_holm: `p`, adjusted for the number of methods that are compared; None before that.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float | None
    exact: bool
    scenes_above: int
    scenes_below: int
    scenes: int
    p_holm: float | None = None


def scene_means(rows: ImageRows) -> dict[str, Tensor]:
    """Return the means (M,) over the images of each scene, in the order in which scenes come first."""
    names, sums, counts = _scene_sums(rows.values, rows.scenes)
    return dict(zip(names, sums / counts[:, None], strict=True))


def bootstrap_interval(
    values: Tensor, scenes: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Tensor | None:
    """Return the ends (2, M) of a 95 % interval of the mean over images, by a cluster bootstrap over scenes.

    As many scenes as there are get drawn with replacement, with all their images; the interval goes between the 2.5 %
    and the 97.5 % quantile of the means over those images (percentile bootstrap). With few scenes, such as the eleven
    of GoPro, such intervals are somewhat too narrow. A column with a value that is not finite has the ends NaN.

    Args:
        values: (N, M).
        scenes: the scene of each image, N.
        resamples: how often scenes are drawn.
        seed: of the draws.

    Returns:
        The ends, or None for a single scene, whose mean says nothing about another one's.
    """
    names, sums, counts = _scene_sums(values, scenes)
    if len(names) < 2:
        return None
    sizes = counts.numpy()
    ends = []
    for column in sums.T.numpy():
        if not np.isfinite(column).all():
            ends.append((math.nan, math.nan))
            continue
        found = stats.bootstrap(
            (column, sizes),
            lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
            paired=True,
            n_resamples=resamples,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
            batch=1000,
        )
        ends.append(tuple(found.confidence_interval))
    return torch.tensor(ends, dtype=torch.float64).T


def paired_difference(
    first: ImageRows, second: ImageRows, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Compare two methods on the same images, in each column that both have.

    Args:
        first: the method to compare with.
        second: the method whose gain is asked for; its images may be in another order.
        resamples: of the bootstrap, and the patterns of signs where there are too many to try all.
        seed: of both.

    Raises:
        ValueError: if the two have not the same images, of the same scenes, or no column in common.
    """
    second = second.ordered_as(first)
    shared = [column for column in first.columns if column in second.columns]
    if not shared:
        raise ValueError(
            f"the two have no metric in common: {', '.join(first.columns)} and {', '.join(second.columns)}"
        )
    values = torch.stack([second.column(column) - first.column(column) for column in shared], 1)
    ends = bootstrap_interval(values, first.scenes, resamples=resamples, seed=seed)
    names, sums, _ = _scene_sums(values, first.scenes)
    differences = {}
    for index, column in enumerate(shared):
        usable = ends is not None and bool(values[:, index].isfinite().all())
        differences[column] = Difference(
            mean=float(values[:, index].mean()),
            interval=(float(ends[0, index]), float(ends[1, index])) if ends is not None and usable else None,
            p=sign_flip_test(sums[:, index], patterns=resamples, seed=seed) if usable else None,
            exact=len(names) <= EXACT_SCENES,
            scenes_above=int((sums[:, index] > 0).sum()),
            scenes_below=int((sums[:, index] < 0).sum()),
            scenes=len(names),
        )
    return differences


def sign_flip_test(sums: Tensor, *, patterns: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p of "the difference of a scene is as likely to be of one sign as of the other".

    The share of all patterns of signs under which the absolute sum is no less than the one that was found. For S
    scenes of one sign it is 2 / 2^S. For more than 15 scenes patterns are drawn, and p is (1 + those) / (1 + all).

    Args:
        sums: (S,), the difference of each scene, summed over its images so that larger scenes count more.
        patterns: how many are drawn, if not all are tried.
        seed: of the draws.
    """
    exact = len(sums) <= EXACT_SCENES
    if not sums.any():
        return 1.0
    found = stats.permutation_test(
        (sums.numpy(),),
        np.sum,
        permutation_type="samples",
        n_resamples=math.inf if exact else patterns,
        rng=np.random.default_rng(seed),
        batch=1000,
    )
    return float(found.pvalue)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p-values adjusted for their number, by the step-down method of Holm (1979); None stays None."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for index, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - index) * p))
        adjusted[name] = highest
    return adjusted


def adjusted(differences: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """Return {method: {column: difference}} with the p-values of each column adjusted over its methods by `holm`."""
    columns = dict.fromkeys(column for found in differences.values() for column in found)
    p_holm = {
        column: holm({label: found[column].p for label, found in differences.items() if column in found})
        for column in columns
    }
    return {
        label: {column: difference._replace(p_holm=p_holm[column][label]) for column, difference in found.items()}
        for label, found in differences.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """The means of M columns over N images of S scenes. Infinite and NaN values stay in: a mean with one is none.

    Args:
        rows: what it is of.
        mean: over images, (M,).
        mean_of_scenes: the mean of the means of the scenes, (M,).
        interval: the ends (2, M) of a 95 % interval of `mean`, see `bootstrap_interval`; None for one scene.
        scenes: the means (M,) of each scene.
    """

    rows: ImageRows
    mean: Tensor
    mean_of_scenes: Tensor
    interval: Tensor | None
    scenes: dict[str, Tensor]


def summarise(rows: ImageRows) -> Summary:
    """Return the means of all columns, and how sure they are."""
    scenes = scene_means(rows)
    return Summary(
        rows=rows,
        mean=rows.values.mean(0),
        mean_of_scenes=sum(scenes.values(), rows.values.new_zeros(())) / len(scenes),
        interval=bootstrap_interval(rows.values, rows.scenes, seed=SEED),
        scenes=scenes,
    )


def as_json(summary: Summary) -> dict[str, Any]:
    """Return the summary as nested dicts that JSON can hold: a value that is not finite is text, "inf" or "nan"."""
    columns = summary.rows.columns

    def named(values: Tensor) -> dict[str, float | str]:
        return {column: json_number(float(value)) for column, value in zip(columns, values, strict=True)}

    intervals = None
    if summary.interval is not None:
        ends = zip(columns, summary.interval.T.tolist(), strict=True)
        intervals = {column: [json_number(end) for end in both] for column, both in ends}
    return {
        "images": len(summary.rows.names),
        "scenes": len(summary.scenes),
        "mean_over_images": named(summary.mean),
        "mean_over_scenes": named(summary.mean_of_scenes),
        "interval": intervals,
        "interval_of": {
            "statistic": "mean over images",
            "method": "cluster bootstrap over scenes, percentiles",
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": SEED,
        },
        "scene_means": {
            scene: {"images": summary.rows.scenes.count(scene), **named(means)}
            for scene, means in summary.scenes.items()
        },
    }


def json_number(value: float) -> float | str:
    """Return the value, or its name where JSON has no number for it."""
    return value if math.isfinite(value) else str(value)


def _scene_sums(values: Tensor, scenes: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
    """Return the S scenes, the sums (S, M) of their images' values and their numbers of images (S,)."""
    numbers: dict[str, int] = {}
    index = torch.tensor([numbers.setdefault(scene, len(numbers)) for scene in scenes])
    sums = values.new_zeros(len(numbers), values.shape[1]).index_add_(0, index, values)
    return list(numbers), sums, index.bincount(minlength=len(numbers)).to(values)
