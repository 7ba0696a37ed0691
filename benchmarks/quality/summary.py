"""From runs to tables: means, contrasts with intervals and corrected p-values, and the ratio that was chosen."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from examples.deblurring.evaluation.statistics import bootstrap_interval, holm, sign_flip_test
from quality.arms import PIXEL
from quality.judging import EQUAL
from quality.measuring import METRICS
from quality.plan import NAMED, OURS, PRICE, PRIMARY, SCREENED, SEEN, STAGES, TRIAL_PRICE
from quality.runs import Run

RunFigures = Mapping[str, Any]
CONFIDENCE = 0.95
NIQE_HEADING, NIQE_DIGITS = "NIQE", 2
TRIALS = ("screening", "curve", "variants")
CASES = {
    "confirmation": "fine-tuned",
    "shifted": "fine-tuned, targets moved",
    "scratch": "300 steps from random weights",
}
KINDS = {SEEN: "shake", "linear": "straight motion", "defocus": "defocus"}


class Contrast(NamedTuple):
    """How much better one arm is than another at one PSNR.

    Args:
        gains: by metric, above 0 is better, means over seeds and photographs.
        seeds: 95 % interval of the gain in the primary metric over seeds (Student's t).
        photographs: 95 % interval of it over photographs (bootstrap), of the mean over seeds.
        p: of the exact sign-flip test of it over seeds, two-sided.
        psnr: dB, the difference that is left.
        count: of seeds.
    """

    gains: dict[str, float]
    seeds: tuple[float, float]
    photographs: tuple[float, float]
    p: float
    psnr: float
    count: int


def best_ratio(folder: Path, arm: str) -> float:
    """Return the ratio at which an arm is best at the common PSNR, on validation photographs that chose no mask.

    Raises:
        FileNotFoundError: if a trial of the arm is missing, or none reaches the common PSNR.
    """
    tried = {run["ratio"]: run for stage in TRIALS for run in Run.found(folder, stage) if run["arm"] == arm}
    wanted = {*(STAGES["screening"].ratios or ()), *(STAGES["curve"].ratios or ())}
    if missing := sorted(wanted - tried.keys()):
        raise FileNotFoundError(f"{arm} has not been tried at {missing}: run the stages screening and curve first")
    values = {
        ratio: METRICS[PRIMARY].better * statistics.fmean(run["equal"][SEEN][PRIMARY])
        for ratio, run in tried.items()
        if reaches(run, SEEN)
    }
    if not values:
        raise FileNotFoundError(f"no ratio brings {arm} to the common PSNR; leave it out of the confirmation")
    return max(values, key=lambda ratio: values[ratio])


def reaches(run: RunFigures, kind: str) -> bool:
    """Return whether a mask brings the arm to the common PSNR."""
    return run["equal"].get(kind) is not None


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {name of the result file: its content} of the stages of which there are runs."""
    found = {stage: runs for stage in STAGES if (runs := Run.found(folder, stage))}
    made = {}
    if "screening" in found:
        screened = [run for stage in TRIALS for run in found.get(stage, [])]
        made["deblurring_screening"] = _result(screened, _screening_table(screened))
    if "confirmation" in found:
        confirmed = found["confirmation"]
        made["deblurring_quality"] = _result(confirmed, _arms_table(confirmed))
        rows = {stage: found[stage] for stage in ("confirmation", "shifted", "scratch") if stage in found}
        made["deblurring_contrasts"] = _contrasts_result(rows)
    return made


def contrast(runs: Sequence[RunFigures], arm: str, other: str, kind: str = SEEN) -> Contrast | None:
    """Return how much better `arm` is than `other` at one PSNR, or None if one does not get there on every seed.

    Seeds on which an arm does badly must not be left out: what remains would flatter it.
    """
    ours, theirs = ({run["seed"]: run for run in runs if run["arm"] == name} for name in (arm, other))
    seeds = sorted(ours)
    if len(seeds) < 2 or ours.keys() != theirs.keys():
        return None
    if not all(reaches(run, kind) for run in (*ours.values(), *theirs.values())):
        return None

    def differences(metric: str) -> torch.Tensor:
        values = [torch.tensor([each[seed]["equal"][kind][metric] for seed in seeds]) for each in (ours, theirs)]
        return (values[0] - values[1]).double()

    gains = {metric: METRICS[metric].better * differences(metric) for metric in EQUAL if metric != "psnr"}
    primary = gains[PRIMARY]
    over_photographs = bootstrap_interval(primary.mean(0)[:, None], [str(index) for index in range(primary.shape[1])])
    if over_photographs is None:
        return None
    return Contrast(
        gains={metric: float(values.mean()) for metric, values in gains.items()},
        seeds=students_interval(primary.mean(1)),
        photographs=(float(over_photographs[0, 0]), float(over_photographs[1, 0])),
        p=sign_flip_test(primary.mean(1)),
        psnr=float(differences("psnr").mean()),
        count=len(seeds),
    )


def students_interval(values: torch.Tensor) -> tuple[float, float]:
    from scipy.stats import t

    count = len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * float(values.std()) / count**0.5
    return float(values.mean()) - half, float(values.mean()) + half


def _result(runs: Sequence[RunFigures], table: dict[str, Any]) -> dict[str, Any]:
    return {"table": table, "metadata": runs[-1]["metadata"], "runs": [_summarised(run) for run in runs]}


def _summarised(run: RunFigures) -> dict[str, Any]:
    """Return a run with means in place of the values of every photograph."""

    def means(values: Mapping[str, Any] | None) -> dict[str, float] | None:
        if values is None:
            return None
        return {
            name: round(statistics.fmean(each) if isinstance(each, list) else each, 6) for name, each in values.items()
        }

    about = ("stage", "seed", "arm", "ratio", "weight", "seconds", "batches", "level", "mask")
    return {
        **{key: run[key] for key in about},
        "raw": means(run["raw"]),
        "masked": means(run["masked"]),
        "equal": {kind: means(values) for kind, values in run["equal"].items()},
    }


def _rows(runs: Sequence[RunFigures], title: str, metrics: Sequence[str]) -> list[list[str]]:
    """Return the rows of an arm: as it is, after the mask that was chosen, and at the common PSNR."""
    ways: dict[str, list[Mapping[str, Any] | None]] = {
        title: [run["raw"] for run in runs],
        "... and its mask": [run["masked"] for run in runs],
        "... at equal PSNR": [run["equal"][SEEN] for run in runs],
    }
    return [[name, *(_cell(figures, metric) for metric in metrics)] for name, figures in ways.items()]


def _cell(figures: Sequence[Mapping[str, Any] | None], metric: str) -> str:
    if None in figures:
        return "-"
    values = [statistics.fmean(each[metric]) for each in figures if each is not None and metric in each]
    digits = METRICS[metric].digits if metric in METRICS else NIQE_DIGITS
    return f"{statistics.fmean(values):.{digits}f}" if values else ""


def _relative_time(runs: Sequence[RunFigures], pixel: Sequence[RunFigures]) -> str:
    alone = {run["seed"]: run["seconds"] for run in pixel}
    return f"{statistics.median(run['seconds'] / alone[run['seed']] for run in runs):.2f}"


def _titled(run: RunFigures) -> str:
    return "L1" if run["arm"] == PIXEL else f"L1 + {run['arm']}, {run['ratio']:g}"


def _screening_table(runs: Sequence[RunFigures]) -> dict[str, Any]:
    ordered = sorted(runs, key=lambda run: (run["arm"] != PIXEL, run["arm"], run["ratio"]))
    shown = [run for run in ordered if run["arm"] != PIXEL or run["stage"] == "screening"]
    return {
        "columns": ["arm, gradient ratio", *(METRICS[metric].heading for metric in SCREENED)],
        "rows": [row for run in shown for row in _rows([run], _titled(run), SCREENED)],
        "caption": f"One seed, {len(runs[0]['raw']['psnr'])} validation photographs that chose no mask. A dash: no "
        f"mask brings the arm to the common PSNR, {TRIAL_PRICE:g} dB below that of L1 as it is.",
    }


def _arms_table(runs: Sequence[RunFigures]) -> dict[str, Any]:
    metrics = [*SCREENED, *STAGES["confirmation"].slow_metrics, "niqe"]
    names = sorted({run["arm"] for run in runs}, key=lambda arm: (arm != PIXEL, arm not in NAMED, arm))
    by_arm = {name: [run for run in runs if run["arm"] == name] for name in names}
    headings = [METRICS[metric].heading if metric in METRICS else NIQE_HEADING for metric in metrics]
    return {
        "columns": ["arm, gradient ratio", *headings, "training time"],
        "rows": [
            [*row, time if number == 0 else ""]
            for name, own in by_arm.items()
            for time in [_relative_time(own, by_arm[PIXEL])]
            for number, row in enumerate(_rows(own, _titled(own[0]), metrics))
        ],
        "caption": f"Means over {len(runs[0]['raw']['psnr'])} test photographs under shakes of 3 to 13 px, and over "
        f"{len({run['seed'] for run in runs})} seeds (FSIM and NIQE: one). Its mask: sigma and gain as chosen on "
        f"validation photographs. Equal PSNR: that sigma, and the gain that costs {PRICE:g} dB of L1's PSNR on the "
        "test photographs themselves. A dash: no mask gets there on every seed. Training time: over that of L1 alone.",
    }


def _contrasts_result(stages: Mapping[str, Sequence[RunFigures]]) -> dict[str, Any]:
    """Return ours against every other arm, in every stage and under every kind of blur, and the table of it."""
    contrasts = []
    for stage, runs in stages.items():
        for kind in STAGES[stage].kinds:
            rivals = sorted({run["arm"] for run in runs} - {OURS}, key=lambda arm: (arm not in NAMED, arm))
            found = {rival: contrast(runs, OURS, rival, kind) for rival in rivals}
            primary = stage == "confirmation" and kind == SEEN and all(found.get(arm) for arm in NAMED)
            # The two that were named beforehand are corrected together; all others are descriptive.
            named = {arm: found[arm].p for arm in NAMED} if primary else {}
            corrected = holm(named)
            contrasts += [
                {
                    "case": f"{CASES[stage]}, {KINDS[kind]}",
                    "against": rival,
                    "named": rival in named,
                    "p_holm": corrected.get(rival),
                    **(each._asdict() if each else {}),
                }
                for rival, each in found.items()
            ]
    metrics = [metric for metric in EQUAL if metric not in ("psnr", PRIMARY)]
    heading = METRICS[PRIMARY].heading
    table = {
        "columns": [
            "trained, blur",
            "against",
            f"{heading} gained",
            "95 % over seeds",
            "95 % over photographs",
            "p (Holm)",
            *(f"{METRICS[metric].heading} gained" for metric in metrics),
            "PSNR left, dB",
            "seeds",
        ],
        "rows": [_contrast_row(each, metrics) for each in contrasts],
        "caption": f"What `{OURS}` gains at equal PSNR, its own mask and that of the other arm included; above 0 is "
        "better for it, whichever way the metric goes. Seeds are other batches from one start; from random weights "
        "they are other first weights too. A dash: an arm does not get to the common PSNR on every seed.",
    }
    return {"table": table, "metadata": next(iter(stages.values()))[-1]["metadata"], "contrasts": contrasts}


def _contrast_row(each: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    if "gains" not in each:
        return [each["case"], each["against"], *["-"] * (6 + len(metrics))]
    digits = METRICS[PRIMARY].digits
    spans = (f"{low:+.{digits}f} to {high:+.{digits}f}" for low, high in (each["seeds"], each["photographs"]))
    significance = "" if each["p_holm"] is None else f"{each['p_holm']:.3f}"
    gains = [f"{each['gains'][metric]:+.{METRICS[metric].digits}f}" for metric in (PRIMARY, *metrics)]
    return [
        each["case"],
        each["against"],
        gains[0],
        *spans,
        significance,
        *gains[1:],
        f"{each['psnr']:+.3f}",
        str(each["count"]),
    ]
