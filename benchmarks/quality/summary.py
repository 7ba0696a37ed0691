"""From runs to tables: means at equal PSNR, contrasts with intervals and corrected p-values, and the ratios chosen."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from examples.deblurring.evaluation.statistics import holm, sign_flip_test
from quality.arms import PIXEL
from quality.measuring import METRICS
from quality.plan import CONTRASTS, INDEPENDENT, PRICES, PRIMARY, RATIOS, SEEN, STAGES, NamedContrast
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


def chosen_ratios(folder: Path, arm: str) -> dict[float, float]:
    """Return {price: the ratio at which an arm is best on validation photographs that chose no mask}.

    Best is the least geometric mean of the primary and the independent metric, so that one ratio serves both.

    Raises:
        FileNotFoundError: if a trial of the arm is missing, or none reaches a level.
    """
    tried = {run["ratio"]: run for run in Run.found(folder, "trials") if run["arm"] == arm}
    if missing := sorted({*RATIOS[arm]} - tried.keys()):
        raise FileNotFoundError(f"{arm} has not been tried at {missing}: run the stage trials first")
    found = {}
    for price, tried_price in zip(PRICES, STAGES["trials"].prices, strict=True):
        values = {
            ratio: mean(run, tried_price, SEEN, PRIMARY) * mean(run, tried_price, SEEN, INDEPENDENT)
            for ratio, run in tried.items()
            if run["equal"][str(tried_price)][SEEN]
        }
        if not values:
            raise FileNotFoundError(f"no ratio brings {arm} to a price of {price} dB; leave it out of the confirmation")
        found[price] = min(values, key=lambda ratio: values[ratio])
    return found


def mean(run: RunFigures, price: float, case: str, metric: str) -> float:
    """Return the mean of a metric over photographs at a price; NaN where no mask gets there."""
    figures = run["equal"][str(price)][case]
    return statistics.fmean(figures[metric]) if figures else math.nan


class Runs:
    """The runs of a tested stage: of each arm and price those with the ratio that the trials chose."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.found = Run.found(folder, stage)
        self.arms = list(dict.fromkeys(run["arm"] for run in self.found))
        self.ratios = {arm: chosen_ratios(folder, arm) for arm in self.arms if arm != PIXEL}

    def of(self, arm: str, price: float) -> list[RunFigures]:
        """Return the runs of an arm for a price, in the order of seeds."""
        ratio = 0.0 if arm == PIXEL else self.ratios[arm][price]
        own = [run for run in self.found if run["arm"] == arm and run["ratio"] == ratio]
        return sorted(own, key=lambda run: run["seed"])

    def means(self, arm: str, price: float, case: str, metric: str) -> torch.Tensor:
        """Return a mean over photographs for each seed (S,), float64."""
        return torch.tensor([mean(run, price, case, metric) for run in self.of(arm, price)], dtype=torch.float64)

    def contrast(self, arm: str, other: str, price: float, case: str, metric: str) -> Contrast | None:
        """Return how much better `arm` is than `other`, or None if one does not get to the price on every seed.

        Seeds on which an arm does badly must not be left out: what remains would flatter it.
        """
        seeds = [[run["seed"] for run in self.of(name, price)] for name in (arm, other)]
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


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {name of the result file: its content} of the stages of which there are runs."""
    found = {stage: runs for stage in STAGES if (runs := Run.found(folder, stage))}
    made = {}
    if "trials" in found:
        made["deblurring_trials"] = _result(found["trials"], _trials_table(found["trials"]))
    if "confirmation" in found:
        runs = Runs(folder, "confirmation")
        made["deblurring_quality"] = _result(runs.found, _arms_table(runs)) | {
            "ratios": {arm: {str(price): ratio for price, ratio in own.items()} for arm, own in runs.ratios.items()}
        }
        made["deblurring_contrasts"] = _contrasts_result(runs)
    return made


def _result(runs: Sequence[RunFigures], table: dict[str, Any]) -> dict[str, Any]:
    return {"table": table, "metadata": runs[-1]["metadata"], "runs": [_summarised(run) for run in runs]}


def _summarised(run: RunFigures) -> dict[str, Any]:
    """Return a run with means in place of the values of every photograph."""

    def means(values: Mapping[str, Any] | None) -> dict[str, float] | None:
        return values and {
            name: round(statistics.fmean(each) if isinstance(each, list) else each, 6) for name, each in values.items()
        }

    about = ("stage", "seed", "arm", "ratio", "weight", "seconds", "batches", "start", "levels", "masks")
    return {
        **{key: run[key] for key in about},
        "raw": {case: means(values) for case, values in run["raw"].items()},
        "equal": {price: {case: means(each) for case, each in own.items()} for price, own in run["equal"].items()},
    }


def _trials_table(runs: Sequence[RunFigures]) -> dict[str, Any]:
    metrics = (PRIMARY, INDEPENDENT, "mdsi")
    prices = STAGES["trials"].prices
    level = next(run for run in runs if run["arm"] == PIXEL)["levels"][SEEN]
    ordered = sorted(runs, key=lambda run: (run["arm"] != PIXEL, run["arm"], run["ratio"]))
    return {
        "columns": [
            "arm, gradient ratio",
            "PSNR as trained, dB",
            *(f"{METRICS[metric].heading}, -{price} dB" for metric in metrics for price in prices),
        ],
        "rows": [
            [
                _title(run["arm"]) + (f", {run['ratio']:g}" if run["ratio"] else ""),
                f"{statistics.fmean(run['raw'][SEEN]['psnr']) - level:+.2f}",
                *(_cell([mean(run, price, SEEN, metric)], metric) for metric in metrics for price in prices),
            ]
            for run in ordered
        ],
        "caption": f"One seed, {len(runs[0]['raw'][SEEN]['psnr'])} validation photographs that chose no mask. PSNR "
        "against L1 as it is; the metrics are taken after the mask that brings each arm so far below it. A dash: no "
        "mask does.",
    }


def _title(arm: str) -> str:
    return arm if arm == PIXEL else f"L1 + {arm}"


def _cell(values: Iterable[float], metric: str) -> str:
    value = statistics.fmean(values)
    return "-" if math.isnan(value) else f"{value:.{METRICS[metric].digits}f}"


def _arms_table(runs: Runs) -> dict[str, Any]:
    low, high = PRICES
    columns = [
        *((price, SEEN, metric) for metric in (PRIMARY, INDEPENDENT, "dists", "mdsi") for price in PRICES),
        *((low, case, PRIMARY) for case in REAL),
    ]
    arms = sorted(runs.arms, key=lambda arm: float(runs.means(arm, low, SEEN, PRIMARY).mean()))
    pixel = {run["seed"]: run["seconds"] for run in runs.of(PIXEL, low)}
    return {
        "columns": [
            "arm",
            f"ratio, -{low} / -{high} dB",
            *(
                f"{METRICS[metric].heading}, -{price} dB" + (f", real: {case}" if case in REAL else "")
                for price, case, metric in columns
            ),
            "training time",
        ],
        "rows": [
            [
                _title(arm),
                " / ".join(f"{ratio:g}" for ratio in runs.ratios[arm].values()) if arm != PIXEL else "",
                *(_cell(runs.means(arm, price, case, metric).tolist(), metric) for price, case, metric in columns),
                f"{statistics.median(run['seconds'] / pixel[run['seed']] for run in runs.of(arm, low)):.1f}",
            ]
            for arm in arms
        ],
        "caption": f"Means over {len(pixel)} seeds and the test photographs, every arm after the mask that brings it "
        "so far below the PSNR of L1 as it is. Lower is better throughout. Real: pairs of a camera, never trained on. "
        "A dash: no mask gets there on every seed. Training time: over that of L1 alone.",
    }


def _contrasts_result(runs: Runs) -> dict[str, Any]:
    """Return the contrasts that were named beforehand, corrected together, and what guards and other pairs say."""
    named = {
        (each, price): runs.contrast(each.arm, each.other, price, SEEN, each.metric)
        for each in CONTRASTS
        for price in PRICES
    }
    corrected = holm({key: found.p if found else None for key, found in named.items()})
    rows = [
        {
            "arm": each.arm,
            "against": each.other,
            "price": price,
            "metric": each.metric,
            "case": SEEN,
            "p_holm": corrected[each, price],
            **(found._asdict() if found else {}),
            "guards": _others(runs, each, price),
        }
        for (each, price), found in named.items()
    ]
    guards = [metric for metric in METRICS if metric in (PRIMARY, INDEPENDENT, "dists", "mdsi")]
    cases = [case for case in CASES if case != SEEN]
    return {
        "table": {
            "columns": [
                "arm",
                "against",
                "price, dB",
                "decided by",
                "gain, %",
                "95 %",
                "p (Holm)",
                *(f"{METRICS[metric].heading}, %" for metric in guards),
                *(f"{CASES[case]}, %" for case in cases),
            ],
            "rows": [_contrast_row(row, guards, cases) for row in rows],
            "caption": "What an arm gains over another at equal PSNR, in per cent of the other's; above 0 is better, "
            "whichever way the metric goes. The intervals and the exact sign-flip tests are over seeds. Named "
            "beforehand, and corrected together. The last columns: the same metric under blur that was not trained on, "
            "and on real pairs.",
        },
        "metadata": runs.found[-1]["metadata"],
        "contrasts": rows,
    }


def _others(runs: Runs, each: NamedContrast, price: float) -> dict[str, float | None]:
    """Return the gain in all metrics under the blur that was trained on, and in the deciding one in other cases."""
    asked = {metric: (SEEN, metric) for metric in METRICS if metric != "psnr"}
    asked |= {case: (case, each.metric) for case in CASES if case != SEEN}
    found = {name: runs.contrast(each.arm, each.other, price, case, metric) for name, (case, metric) in asked.items()}
    return {name: contrast and round(contrast.gain, 3) for name, contrast in found.items()}


def _contrast_row(row: Mapping[str, Any], guards: Sequence[str], cases: Sequence[str]) -> list[str]:
    about = [row["arm"], row["against"], f"-{row['price']}", METRICS[row["metric"]].heading]
    if "gain" not in row:
        return [*about, *["-"] * (3 + len(guards) + len(cases))]
    low, high = row["interval"]
    others = (row["guards"][name] for name in (*guards, *cases))
    return [
        *about,
        f"{row['gain']:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        f"{row['p_holm']:.3f}",
        *("-" if each is None else f"{each:+.1f}" for each in others),
    ]
