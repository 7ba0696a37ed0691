"""From runs to tables: what each arm makes of each displacement, and what matched crops gain over the others."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from quality.arms import PIXEL
from quality.measuring import METRICS
from quality.runs import Run
from quality.summary import students_interval

from examples.deblurring.evaluation.statistics import sign_flip_test
from misalignment.arms import MATCHED, PLAIN, RIVALS
from tafm_loss.losses import RECOMMENDED_RATIO

JUDGES = ("psnr", "lpips", "dists")
ALIGNED, ORDERED_BY, DECIDING = "aligned", "4 px", ("2 px", "4 px")
# What matched crops may cost where pairs line up: dB, and per cent.
MOST_DB, MOST_PER_CENT = 0.03, 1.0

RunFigures = Mapping[str, Any]


def found_runs(folder: Path, conditions: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the runs of some conditions and seeds, with a mean in place of the values of all photographs."""
    runs = [run for condition in conditions for run in Run.found(folder, condition) if run["seed"] in seeds]
    for run in runs:
        run["figures"] = {name: round(statistics.fmean(values), 6) for name, values in run["figures"].items()}
    return runs


class Means:
    """What the runs of an arm came to, by condition and seed."""

    def __init__(self, runs: Sequence[RunFigures]) -> None:
        self.runs = runs
        self.conditions = list(dict.fromkeys(run["stage"] for run in runs))

    def arms(self) -> list[str]:
        """Return the arms in the order of their LPIPS at 4 px, the best first."""
        names = dict.fromkeys(_title(run) for run in self.runs)
        return sorted(names, key=lambda arm: statistics.fmean(self.values(arm, ORDERED_BY, "lpips").values()))

    def values(self, arm: str, condition: str, metric: str) -> dict[int, float]:
        """Return {seed: mean over photographs}."""
        of_arm = (run for run in self.runs if (_title(run), run["stage"]) == (arm, condition))
        return {run["seed"]: run["figures"][metric] for run in of_arm}

    def cell(self, arm: str, condition: str, metric: str) -> str:
        """Return the mean over seeds as it is printed."""
        values = self.values(arm, condition, metric)
        return f"{statistics.fmean(values.values()):.{METRICS[metric].digits}f}" if values else "-"

    def gain(self, arm: str, other: str, condition: str, metric: str) -> dict[str, Any] | None:
        """Return how much better an arm is than another: dB for PSNR, otherwise per cent of the other's mean."""
        own, others = (self.values(name, condition, metric) for name in (arm, other))
        if len(own) < 2 or own.keys() != others.keys():
            return None
        scale = 1.0 if metric == "psnr" else 100 / statistics.fmean(others.values())
        gains = torch.tensor([METRICS[metric].better * scale * (own[seed] - others[seed]) for seed in sorted(own)])
        interval = students_interval(gains.double())
        return {"gain": float(gains.mean()), "interval": interval, "p": sign_flip_test(gains.double())}


def results(runs: Sequence[RunFigures]) -> dict[str, dict[str, Any]]:
    """Return {name of the result file: its content}."""
    means, origin = Means(runs), runs[-1]["metadata"]
    gains = all_gains(means)
    made = {f"misaligned_{metric}": {"table": _table(means, metric), "metadata": origin} for metric in JUDGES[1:]}
    table = _gains_table(gains)
    made["misaligned_gains"] = {"table": table, "metadata": origin, "verdict": verdict(gains), "gains": gains}
    return {"misaligned": {"table": _table(means, JUDGES[0]), "metadata": origin, "runs": list(runs)}, **made}


def from_nothing_result(runs: Sequence[RunFigures]) -> dict[str, Any]:
    """Return the content of the result file of the networks that began with random weights."""
    means = Means(runs)
    conditions = means.conditions
    names = [each.partition(",")[0] for each in conditions]
    arms = sorted(dict.fromkeys(map(_title, runs)))
    table = {
        "columns": ["arm", *(f"{METRICS[metric].heading}: {name}" for metric in JUDGES for name in names)],
        "rows": [[arm, *(means.cell(arm, each, metric) for metric in JUDGES for each in conditions)] for arm in arms],
        "caption": f"Means over {len({run['seed'] for run in runs})} seeds, the same aligned test photographs, 3,000 "
        "steps from random weights. Columns: how far the targets that were trained on lie beside.",
    }
    return {"table": table, "metadata": runs[-1]["metadata"], "runs": list(runs)}


def all_gains(means: Means) -> list[dict[str, Any]]:
    """Return what matched crops gain over the plain loss and over rivals in every condition, by every judge."""
    rows = []
    for other in (PLAIN, *RIVALS):
        for condition in means.conditions:
            pair = [f"{PIXEL} + {name}" for name in (MATCHED, other)]
            found = {metric: means.gain(*pair, condition, metric) for metric in JUDGES}
            if all(found.values()):
                rows.append({"against": other, "condition": condition, **found})
    return rows


def verdict(gains: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return what of the rule that was named beforehand holds: matched crops cost nothing, and are ahead of all."""
    plain = next(row for row in gains if (row["against"], row["condition"]) == (PLAIN, ALIGNED))
    deciding = [row for row in gains if row["condition"] in DECIDING]
    return {
        "costs nothing where pairs line up": plain["psnr"]["gain"] >= -MOST_DB
        and min(plain["lpips"]["gain"], plain["dists"]["gain"]) >= -MOST_PER_CENT,
        "ahead by PSNR and LPIPS at 2 and 4 px": len(deciding) == len(DECIDING) * (1 + len(RIVALS))
        and all(row[metric]["interval"][0] > 0 for row in deciding for metric in JUDGES[:2]),
    }


def _title(run: RunFigures) -> str:
    name = run["arm"] if run["arm"].startswith(PIXEL) else f"{PIXEL} + {run['arm']}"
    return name if run["ratio"] in (0, RECOMMENDED_RATIO) else f"{name}, ratio {run['ratio']:g}"


def _table(means: Means, metric: str) -> dict[str, Any]:
    seeds = sorted({run["seed"] for run in means.runs})
    wants = "Higher" if METRICS[metric].better > 0 else "Lower"
    return {
        "columns": [f"{METRICS[metric].heading}", *means.conditions],
        "rows": [
            [arm, *(means.cell(arm, condition, metric) for condition in means.conditions)] for arm in means.arms()
        ],
        "caption": f"Means over {len(seeds)} seeds and the same aligned test photographs. {wants} is better. Columns: "
        "how far the targets that were trained on lie beside. A dash: not tried.",
    }


def _gains_table(gains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def cell(found: Mapping[str, Any], digits: int) -> str:
        low, high = found["interval"]
        return f"{found['gain']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"

    return {
        "columns": ["against", "displaced by", "PSNR, dB", "LPIPS (alex), %", "DISTS, %"],
        "rows": [
            [row["against"], row["condition"], cell(row["psnr"], 3), cell(row["lpips"], 1), cell(row["dists"], 1)]
            for row in gains
        ],
        "caption": f"What L1 + {MATCHED} gains over L1 + each other; above 0 is better. In brackets: 95 % over seeds "
        "(Student's t).",
    }
