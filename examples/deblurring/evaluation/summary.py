"""What the values of all images come to."""

import dataclasses
import math
from typing import Any

from torch import Tensor

from examples.deblurring.evaluation.rows import ImageRows
from examples.deblurring.evaluation.statistics import CONFIDENCE, RESAMPLES, bootstrap_interval, scene_means

__all__ = ["SEED", "Summary", "as_json", "json_number", "summarise"]

SEED = 0


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
