"""From runs to tables: means at equal PSNR, contrasts with intervals and corrected p-values, and the ratios chosen."""

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from examples.deblurring.evaluation.statistics import sign_flip_test
from quality.arms import PIXEL
from quality.measuring import METRICS
from quality.plan import INDEPENDENT, PRIMARY, RATIOS, SEEN, STAGES
from quality.runs import Run

RunFigures = Mapping[str, Any]
CONFIDENCE = 0.95
REAL = ("GoPro", "REDS")
CASES = {SEEN: "shake", "linear": "straight motion", "defocus": "defocus"} | {name: name for name in REAL}


class Contrast(NamedTuple):
    """How much better one arm is than another at one price, in per cent of the other's mean.

    Args:
        gain: mean over seeds; above 0 is better.
        interval: 95 % over seeds (Student's t).
        p: of the exact sign-flip test over seeds, two-sided.
        seeds: how many.
    """

    gain: float
    interval: tuple[float, float]
    p: float
    seeds: int


def chosen_ratio(folder: Path, arm: str) -> float:
    """Return the ratio at which an arm is best on validation photographs that chose no mask.

    Best is the least geometric mean of the primary and the independent metric over all prices: one ratio serves all.

    Raises:
        FileNotFoundError: if a trial of the arm is missing, or none reaches all levels.
    """
    tried = {run["ratio"]: run for run in Run.found(folder, "trials") if run["arm"] == arm}
    if missing := sorted({*RATIOS} - tried.keys()):
        raise FileNotFoundError(f"{arm} has not been tried at {missing}: run the stage trials first")
    prices = STAGES["trials"].prices
    values = {
        ratio: math.prod(mean(run, price, SEEN, metric) for price in prices for metric in (PRIMARY, INDEPENDENT))
        for ratio, run in tried.items()
        if all(run["equal"][str(price)][SEEN] for price in prices)
    }
    if not values:
        raise FileNotFoundError(f"no ratio brings {arm} to all prices; leave it out of the confirmation")
    return min(values, key=lambda ratio: values[ratio])


def mean(run: RunFigures, price: float, case: str, metric: str) -> float:
    """Return the mean of a metric over photographs at a price; NaN where no mask gets there."""
    figures = run["equal"][str(price)][case]
    return statistics.fmean(figures[metric]) if figures else math.nan


class Runs:
    """The runs of a tested stage: of each arm those with the ratio that the trials chose."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.found = Run.found(folder, stage)
        self.arms = list(dict.fromkeys(run["arm"] for run in self.found))
        self.ratios = {arm: chosen_ratio(folder, arm) for arm in self.arms if arm != PIXEL}

    def of(self, arm: str) -> list[RunFigures]:
        """Return the runs of an arm in the order of seeds: none of an arm that was not run."""
        ratio = self.ratios.get(arm, 0.0)
        own = [run for run in self.found if run["arm"] == arm and run["ratio"] == ratio]
        return sorted(own, key=lambda run: run["seed"])

    def means(self, arm: str, price: float, case: str, metric: str) -> torch.Tensor:
        """Return a mean over photographs for each seed (S,), float64."""
        return torch.tensor([mean(run, price, case, metric) for run in self.of(arm)], dtype=torch.float64)

    def contrast(self, arm: str, other: str, price: float, case: str, metric: str) -> Contrast | None:
        """Return how much better `arm` is than `other`, or None if one does not get to the price on every seed.

        Seeds on which an arm does badly must not be left out: what remains would flatter it.
        """
        seeds = [[run["seed"] for run in self.of(name)] for name in (arm, other)]
        ours, theirs = (self.means(name, price, case, metric) for name in (arm, other))
        if len(ours) < 2 or seeds[0] != seeds[1] or bool((ours - theirs).isnan().any()):
            return None
        gains = 100 * METRICS[metric].better * (ours - theirs) / theirs.mean()
        return Contrast(float(gains.mean()), students_interval(gains), sign_flip_test(gains), len(gains))


def students_interval(values: torch.Tensor) -> tuple[float, float]:
    """Return the ends of the 95 % interval of the mean of values (S,)."""
    from scipy.stats import t

    count = len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * float(values.std()) / count**0.5
    return float(values.mean()) - half, float(values.mean()) + half
