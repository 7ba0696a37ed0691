"""From runs to result files: the trials, what each arm gains over the frozen default, and the verdict."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from quality.measuring import METRICS
from quality.plan import INDEPENDENT, PRICES, PRIMARY, SEEN
from quality.results import summarised
from quality.runs import Run
from quality.summary import CASES, REAL, RunFigures, mean, students_interval

from refreshing.plan import CONFIRMED, CONTRASTS, DECIDING, FROZEN, GUARDS, LEAST_GAIN, LONGER, MOST_LOSS, PIXEL, STAGES

FACTS = ("stage", "seed", "arm", "ratio", "steps", "seconds", "happened", "batches", "start", "levels", "masks")
JUDGES = (PRIMARY, INDEPENDENT, "dists", "mdsi")


class Confirmed:
    """The runs of the confirmation, by arm and seed."""

    def __init__(self, runs: Sequence[RunFigures]) -> None:
        self.runs = runs
        self.arms = [arm for arm in (PIXEL, *CONFIRMED) if any(run["arm"] == arm for run in runs)]

    def of(self, arm: str) -> dict[int, RunFigures]:
        """Return {seed: run} of an arm."""
        own = sorted((run for run in self.runs if run["arm"] == arm), key=lambda run: run["seed"])
        return {run["seed"]: run for run in own}

    def gains(self, arm: str, price: float, case: str, metric: str) -> list[float] | None:
        """Return what an arm gains over the frozen default, % of its mean, on each seed; None if not on every seed.

        Above 0 is better, whichever way the metric goes.
        """
        ours, frozen = self.of(arm), self.of(FROZEN)
        if not frozen or ours.keys() != frozen.keys():
            return None
        own, theirs = ([mean(runs[seed], price, case, metric) for seed in frozen] for runs in (ours, frozen))
        if any(math.isnan(value) for value in (*own, *theirs)):
            return None
        base = statistics.fmean(theirs)
        return [100 * METRICS[metric].better * (a - b) / base for a, b in zip(own, theirs, strict=True)]


def verdict(gains: Mapping[tuple[str, float], Sequence[float] | None]) -> bool:
    """Return whether gains over seeds, by metric and price, are a win by the rule that was named beforehand."""
    if any(each is None for each in gains.values()):
        return False

    def wins(metric: str) -> bool:
        own = [each for (name, _), each in gains.items() if name == metric and each is not None]
        return all(statistics.fmean(each) >= LEAST_GAIN and _interval(each)[0] > 0 for each in own)

    means = [statistics.fmean(each) for (name, _), each in gains.items() if name in GUARDS and each is not None]
    return any(wins(metric) for metric in DECIDING) and min(means) >= -MOST_LOSS


def results(folder: Path, seconds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return {name of the result file: its content} of the stages of which there are runs."""
    made: dict[str, dict[str, Any]] = {}
    if trials := Run.found(folder, "trials"):
        made["refresh_trials"] = _result(trials, _trials_table(trials), seconds)
    if found := Run.found(folder, "confirmation"):
        confirmed = Confirmed(found)
        contrasts = {arm: _contrast(confirmed, arm) for arm in confirmed.arms if arm not in (PIXEL, FROZEN)}
        made["refresh"] = _result(found, _gains_table(confirmed, seconds), seconds) | {"contrasts": contrasts}
    return made


def _contrast(confirmed: Confirmed, arm: str) -> dict[str, Any]:
    """Return what an arm gains over the frozen default by all judges and in all cases, and whether it wins."""
    every = [(price, SEEN, metric) for price in PRICES for metric in JUDGES]
    every += [(price, case, metric) for price in PRICES for case in CASES if case != SEEN for metric in DECIDING]
    rows = []
    for price, case, metric in every:
        gains = confirmed.gains(arm, price, case, metric)
        row: dict[str, Any] = {"price": price, "case": case, "metric": metric}
        if gains is not None:
            low, high = _interval(gains)
            row |= {"gain": round(statistics.fmean(gains), 3), "interval": [round(low, 3), round(high, 3)]}
            row["seeds"] = [round(each, 3) for each in gains]
        rows.append(row)
    judged = {(metric, price): confirmed.gains(arm, price, SEEN, metric) for metric in GUARDS for price in PRICES}
    return {"named": arm in CONTRASTS, "wins": verdict(judged), "gains": rows}


def _result(runs: Sequence[RunFigures], table: dict[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    means = [summarised(run, FACTS) for run in runs]
    # Several processes may have shared the seeds: the first run stands for all.
    return {"table": table, "metadata": runs[0]["metadata"], "seconds": dict(seconds), "runs": means}


def _trials_table(runs: Sequence[RunFigures]) -> dict[str, Any]:
    metrics, prices = (PRIMARY, INDEPENDENT, "dists"), STAGES["trials"].prices
    level = next(run for run in runs if run["arm"] == PIXEL)["levels"][SEEN]
    ordered = sorted(runs, key=lambda run: (run["arm"] != PIXEL, run["arm"] != FROZEN, run["arm"], run["ratio"]))
    return {
        "columns": [
            "L1 + arm, ratio",
            "steps",
            "PSNR as trained, dB",
            *(f"{METRICS[metric].heading}, -{price} dB" for metric in metrics for price in prices),
        ],
        "rows": [
            [
                run["arm"] + (f", {run['ratio']:g}" if run["ratio"] else " alone"),
                str(run["steps"]),
                f"{statistics.fmean(run['raw'][SEEN]['psnr']) - level:+.2f}",
                *(_cell(mean(run, price, SEEN, metric), metric) for metric in metrics for price in prices),
            ]
            for run in ordered
        ],
        "caption": f"One seed, {len(runs[0]['raw'][SEEN]['psnr'])} validation photographs that chose no mask. All arms "
        "but L1 train for the same time. The ratio is that of the tuned distance or of the adversary; beside an "
        "adversary tafm-lite has 2. PSNR against L1 as it is; the metrics are taken after the mask that brings each "
        "arm so far below it. A dash: no mask does.",
    }


def _gains_table(confirmed: Confirmed, seconds: Mapping[str, float]) -> dict[str, Any]:
    columns = [*((price, SEEN, metric) for metric in (*GUARDS, "mdsi") for price in PRICES)]
    columns += [(PRICES[0], case, PRIMARY) for case in REAL]
    rows = []
    for arm in confirmed.arms:
        runs = list(confirmed.of(arm).values())
        cells = [_gain_cell(confirmed.gains(arm, *column)) if arm != FROZEN else "" for column in columns]
        wins = verdict({(m, p): confirmed.gains(arm, p, SEEN, m) for m in GUARDS for p in PRICES})
        said = "" if arm in (PIXEL, FROZEN) else "yes" if wins else "no"
        time = f"{1e3 * seconds[FROZEN if arm == LONGER else arm]:.0f}"
        rows.append([_title(arm, runs[0]["ratio"]), time, str(runs[0]["steps"]), *cells, said])
    return {
        "columns": [
            "L1 + arm, ratio",
            "step, ms",
            "steps",
            *(
                f"{METRICS[metric].heading}, -{price} dB" + (f", real: {case}" if case in REAL else "")
                for price, case, metric in columns
            ),
            "wins",
        ],
        "rows": rows,
        "caption": f"What each arm gains over L1 + the frozen default, %, at equal PSNR: means over "
        f"{len(confirmed.of(FROZEN))} seeds, with the 95 % interval over seeds; above 0 is better. The prices are "
        "counted from L1 alone, whose 300 steps are a third of that time. Wins: by the rule.",
    }


def _title(arm: str, ratio: float) -> str:
    return "nothing" if arm == PIXEL else f"{arm}, {ratio:g}"


def _gain_cell(gains: Sequence[float] | None) -> str:
    if gains is None:
        return "-"
    low, high = _interval(gains)
    return f"{statistics.fmean(gains):+.1f} ({low:+.1f} to {high:+.1f})"


def _interval(gains: Sequence[float]) -> tuple[float, float]:
    return students_interval(torch.tensor(gains, dtype=torch.float64))


def _cell(value: float, metric: str) -> str:
    return "-" if math.isnan(value) else f"{value:.{METRICS[metric].digits}f}"
