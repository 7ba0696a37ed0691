"""From runs to result files: the tables of the trials, of all arms, of what they gain, and of the named contrasts."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.deblurring.evaluation.statistics import holm
from quality.arms import PIXEL
from quality.measuring import METRICS
from quality.plan import CONTRASTS, INDEPENDENT, PRICES, PRIMARY, SEEN, STAGES, NamedContrast
from quality.runs import Run
from quality.summary import CASES, REAL, RunFigures, Runs, mean

FACTS = ("stage", "seed", "arm", "ratio", "weight", "seconds", "batches", "start", "levels", "masks")


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {name of the result file: its content} of the stages of which there are runs."""
    found = {stage: runs for stage in STAGES if (runs := Run.found(folder, stage))}
    made = {}
    if "trials" in found:
        made["deblurring_trials"] = _result(found["trials"], _trials_table(found["trials"]))
    if "confirmation" in found:
        runs = Runs(folder, "confirmation")
        made["deblurring_quality"] = _result(runs.found, _arms_table(runs)) | {"ratios": runs.ratios}
        made["deblurring_gains"] = {"table": _gains_table(runs), "metadata": runs.found[-1]["metadata"]}
        made["deblurring_contrasts"] = _contrasts_result(runs)
    return made


def _result(runs: Sequence[RunFigures], table: dict[str, Any]) -> dict[str, Any]:
    return {"table": table, "metadata": runs[-1]["metadata"], "runs": [summarised(run, FACTS) for run in runs]}


def summarised(run: RunFigures, facts: Sequence[str]) -> dict[str, Any]:
    """Return some facts about a run, and means in place of the values of every photograph."""

    def means(values: Mapping[str, Any] | None) -> dict[str, float] | None:
        return values and {
            name: round(statistics.fmean(each) if isinstance(each, list) else each, 6) for name, each in values.items()
        }

    return {
        **{key: run[key] for key in facts},
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
    low = PRICES[0]
    columns = [
        *((price, SEEN, metric) for metric in (PRIMARY, INDEPENDENT, "dists", "mdsi") for price in PRICES),
        *((low, case, PRIMARY) for case in REAL),
    ]
    pixel = runs.of(PIXEL)
    counted = ", ".join(f"{case}: {len(pixel[0]['raw'][case]['psnr'])}" for case in REAL)
    arms = sorted(runs.arms, key=lambda arm: float(runs.means(arm, low, SEEN, PRIMARY).mean()))
    return {
        "columns": [
            "arm",
            "ratio",
            *(
                f"{METRICS[metric].heading}, -{price} dB" + (f", real: {case}" if case in REAL else "")
                for price, case, metric in columns
            ),
            "training time",
        ],
        "rows": [
            [
                _title(arm),
                f"{runs.ratios[arm]:g}" if arm != PIXEL else "",
                *(_cell(runs.means(arm, price, case, metric).tolist(), metric) for price, case, metric in columns),
                _relative_time(runs, arm),
            ]
            for arm in arms
        ],
        "caption": f"Means over {len(pixel)} seeds and the test photographs, every arm after the mask that brings it "
        f"so far below the PSNR of L1 as it is. Lower is better throughout. Real: pairs of a camera, {counted}, never "
        "trained on. A dash: no mask gets there on every seed. Training time: over that of L1 alone.",
    }


def _gains_table(runs: Runs) -> dict[str, Any]:
    """Return what every arm gains over L1 and its best mask, in short."""
    price = PRICES[0]
    columns = [
        *((SEEN, metric) for metric in (PRIMARY, "dists", INDEPENDENT, "mdsi")),
        *((case, PRIMARY) for case in REAL),
    ]
    gains = {
        arm: [runs.contrast(arm, PIXEL, price, case, metric) for case, metric in columns]
        for arm in runs.arms
        if arm != PIXEL
    }
    ordered = sorted(gains, key=lambda arm: -(gains[arm][0].gain if gains[arm][0] else math.inf))
    return {
        "columns": [
            "L1 +",
            *(
                f"{METRICS[metric].heading}" + (f", real blur: {case}" if case in REAL else "")
                for case, metric in columns
            ),
            "training time",
        ],
        "rows": [
            [
                arm,
                *("-" if each is None else f"{each.gain:+.1f} %" for each in gains[arm]),
                _relative_time(runs, arm),
            ]
            for arm in ordered
        ],
        "caption": f"What each loss gains over L1 with its best mask, {price} dB below the PSNR of L1 as it is: means "
        f"over {len(runs.of(PIXEL))} seeds; above 0 is better. A dash: not on every seed. Time: over that of "
        "L1.",
    }


def _relative_time(runs: Runs, arm: str) -> str:
    """Return how long the training of an arm takes over that of L1, the median over seeds."""
    pixel = {run["seed"]: run["seconds"] for run in runs.of(PIXEL)}
    return f"{statistics.median(run['seconds'] / pixel[run['seed']] for run in runs.of(arm)):.1f}"


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
