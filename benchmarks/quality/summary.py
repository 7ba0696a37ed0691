"""From runs to tables: means, contrasts with intervals and corrected p-values, and the ratio that was chosen."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from examples.deblurring.evaluation.statistics import bootstrap_interval, holm, sign_flip_test
from quality.arms import PIXEL
from quality.measuring import METRICS
from quality.plan import CONFIRMED, OURS, PRIMARY, SAME_UNTUNED, SCREENED, SEEN, STAGES
from quality.runs import Run

RunFigures = Mapping[str, Any]
CONFIDENCE = 0.95
NIQE_HEADING, NIQE_DIGITS = "NIQE", 2
RAW, MASKED = "raw", "masked"


class Contrast(NamedTuple):
    """How much better one arm is than another after their masks, over the seeds that both have.

    Args:
        gain: in the primary metric, above 0 is better.
        seeds: 95 % interval over seeds (Student's t).
        photographs: 95 % interval over photographs (bootstrap), of the mean over seeds.
        p: of the exact sign-flip test over seeds, two-sided.
        psnr: dB, the difference that is left.
        count: of seeds.
    """

    gain: float
    seeds: tuple[float, float]
    photographs: tuple[float, float]
    p: float
    psnr: float
    count: int


def best_ratio(folder: Path, arm: str) -> float:
    """Return the ratio at which an arm is best after its mask, on validation photographs that chose no mask.

    Raises:
        FileNotFoundError: if the arm has not been screened.
    """
    tried = [run for stage in ("screening", "curve") for run in Run.found(folder, stage) if run["arm"] == arm]
    values = {run["ratio"]: METRICS[PRIMARY].better * mean(run, SEEN, MASKED, PRIMARY) for run in tried if _fits(run)}
    if not values:
        raise FileNotFoundError(f"no ratio has been tried for {arm}: run the stages screening and curve first")
    return max(values, key=lambda ratio: values[ratio])


def mean(run: RunFigures, kind: str, how: str, metric: str) -> float:
    """Return the mean over the photographs."""
    return statistics.fmean(run["judged"][kind][how][metric])


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {name of the result file: its content} of the stages of which there are runs."""
    found = {stage: runs for stage in STAGES if (runs := Run.found(folder, stage))}
    made = {}
    if "screening" in found:
        screened = [*found["screening"], *found.get("curve", [])]
        made["deblurring_screening"] = _result(screened, _screening_table(screened))
    if "confirmation" in found:
        confirmed = found["confirmation"]
        made["deblurring_quality"] = _result(confirmed, _arms_table(confirmed))
        rows = {stage: found[stage] for stage in ("confirmation", "shifted", "scratch") if stage in found}
        every = [run for runs in rows.values() for run in runs]
        made["deblurring_contrasts"] = _result(every, _contrasts_table(rows), lists=False)
    return made


def contrast(runs: Sequence[RunFigures], arm: str, other: str, kind: str = SEEN) -> Contrast | None:
    """Return how much better `arm` is than `other` after the masks of both, or None for fewer than two seeds."""
    ours, theirs = _by_seed(runs, arm), _by_seed(runs, other)
    shared = [seed for seed in ours if seed in theirs]
    if len(shared) < 2:
        return None
    gains = METRICS[PRIMARY].better * _differences(ours, theirs, shared, kind, PRIMARY)
    over_photographs = bootstrap_interval(gains.mean(0)[:, None], [str(index) for index in range(gains.shape[1])])
    assert over_photographs is not None
    return Contrast(
        gain=float(gains.mean()),
        seeds=_students_interval(gains.mean(1)),
        photographs=(float(over_photographs[0, 0]), float(over_photographs[1, 0])),
        p=sign_flip_test(gains.mean(1)),
        psnr=float(_differences(ours, theirs, shared, kind, "psnr").mean()),
        count=len(shared),
    )


def _fits(run: RunFigures) -> bool:
    return all(judged["mask"] is not None for judged in run["judged"].values())


def _by_seed(runs: Iterable[RunFigures], arm: str) -> dict[int, RunFigures]:
    return {run["seed"]: run for run in runs if run["arm"] == arm and _fits(run)}


def _differences(
    ours: Mapping[int, RunFigures], theirs: Mapping[int, RunFigures], seeds: Sequence[int], kind: str, metric: str
) -> torch.Tensor:
    """Return the differences (seeds, photographs)."""
    first, second = (
        torch.tensor([runs[seed]["judged"][kind][MASKED][metric] for seed in seeds], dtype=torch.float64)
        for runs in (ours, theirs)
    )
    return first - second


def _students_interval(values: torch.Tensor) -> tuple[float, float]:
    from scipy.stats import t

    count = len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * float(values.std()) / count**0.5
    return float(values.mean()) - half, float(values.mean()) + half


def _result(runs: Sequence[RunFigures], table: dict[str, Any], *, lists: bool = True) -> dict[str, Any]:
    kept = [_summarised(run) for run in runs] if lists else []
    return {"table": table, "metadata": runs[-1]["metadata"], "runs": kept}


def _summarised(run: RunFigures) -> dict[str, Any]:
    judged = {
        kind: {
            "mask": figures["mask"],
            **{
                how: {metric: round(statistics.fmean(values), 6) for metric, values in figures[how].items()}
                for how in (RAW, MASKED)
                if how in figures
            },
        }
        for kind, figures in run["judged"].items()
    }
    return {
        **{key: run[key] for key in ("stage", "seed", "arm", "ratio", "weight", "seconds", "batches")},
        "judged": judged,
    }


def _screening_table(runs: Sequence[RunFigures]) -> dict[str, Any]:
    rows = []
    for run in sorted(runs, key=lambda run: (run["arm"] != PIXEL, run["arm"], run["ratio"])):
        if run["stage"] == "curve" and run["arm"] == PIXEL:
            continue
        judged = run["judged"][SEEN]
        name = run["arm"] if run["arm"] == PIXEL else f"{run['arm']}, {run['ratio']:g}"
        raw = [f"{statistics.fmean(judged[RAW][metric]):.{METRICS[metric].digits}f}" for metric in SCREENED]
        rows.append([name, *raw])
        if judged["mask"] is None:
            rows.append(["+ mask", *["-"] * len(SCREENED)])
        else:
            mask = f"+ mask {judged['mask']['sigma']:g} px, {judged['mask']['gain']:.2f}"
            rows.append([mask, *(f"{mean(run, SEEN, MASKED, m):.{METRICS[m].digits}f}" for m in SCREENED)])
    photographs = len(runs[0]["judged"][SEEN][RAW]["psnr"])
    return {
        "columns": ["L1 and ..., gradient ratio", *(METRICS[metric].heading for metric in SCREENED)],
        "rows": rows,
        "caption": f"One seed, {photographs} validation photographs that chose no mask. A dash: no mask brings the arm "
        "to the common PSNR.",
    }


def _arms_table(runs: Sequence[RunFigures]) -> dict[str, Any]:
    metrics = [*CONFIRMED, *(["niqe"] if any("niqe" in run["judged"][SEEN][RAW] for run in runs) else [])]
    names = sorted({run["arm"] for run in runs}, key=lambda arm: (arm != PIXEL, arm != SAME_UNTUNED, arm))
    rows = []
    for name in names:
        own = [run for run in runs if run["arm"] == name]
        for how, title in ((RAW, _titled(own[0])), (MASKED, f"{_titled(own[0])} + its mask")):
            rows.append([title, *(_cell(own, how, metric) for metric in metrics)])
    headings = [METRICS[metric].heading if metric in METRICS else NIQE_HEADING for metric in metrics]
    photographs, seeds = len(runs[0]["judged"][SEEN][RAW]["psnr"]), len({run["seed"] for run in runs})
    return {
        "columns": ["arm, gradient ratio", *headings],
        "rows": rows,
        "caption": f"Means over {photographs} test photographs under shakes of 3 to 13 px, and over {seeds} seeds "
        "(NIQE: one). Masks bring every arm to the same PSNR on validation photographs, 0.05 dB below L1 as it is.",
    }


def _titled(run: RunFigures) -> str:
    return run["arm"] if run["arm"] == PIXEL else f"L1 + {run['arm']}, {run['ratio']:g}"


def _cell(runs: Sequence[RunFigures], how: str, metric: str) -> str:
    values = [
        statistics.fmean(run["judged"][SEEN][how][metric])
        for run in runs
        if how in run["judged"][SEEN] and metric in run["judged"][SEEN][how]
    ]
    digits = METRICS[metric].digits if metric in METRICS else NIQE_DIGITS
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def _contrasts_table(stages: Mapping[str, Sequence[RunFigures]]) -> dict[str, Any]:
    rows = []
    for stage, runs in stages.items():
        for kind in STAGES[stage].kinds:
            rivals = [arm for arm in dict.fromkeys(run["arm"] for run in runs) if arm != OURS]
            found = {rival: contrast(runs, OURS, rival, kind) for rival in rivals}
            # The two that were named beforehand are corrected together; all others are descriptive.
            named = {arm: found[arm].p for arm in (PIXEL, SAME_UNTUNED) if found.get(arm) is not None}
            corrected = holm(named)
            for rival, each in found.items():
                if each is not None:
                    rows.append(_contrast_row(stage, kind, rival, each, corrected.get(rival)))
    heading = METRICS[PRIMARY].heading
    return {
        "columns": [
            "trained, blur",
            f"{OURS} against",
            f"gain in {heading}",
            "95 % over seeds",
            "95 % over photographs",
            "p (Holm)",
            "PSNR left, dB",
            "seeds",
        ],
        "rows": rows,
        "caption": f"How much lower {heading} is, after the masks of both. Holm over the two contrasts named "
        "beforehand, L1 and the untuned SqueezeNet; the others are descriptive.",
    }


def _contrast_row(stage: str, kind: str, rival: str, each: Contrast, p: float | None) -> list[str]:
    digits = METRICS[PRIMARY].digits
    spans = (f"{low:+.{digits}f} to {high:+.{digits}f}" for low, high in (each.seeds, each.photographs))
    name = {"confirmation": "fine-tuned", "shifted": "fine-tuned, targets moved", "scratch": "from random weights"}
    significance = "-" if p is None else f"{p:.3f}"
    return [
        f"{name[stage]}, {kind}",
        rival,
        f"{each.gain:+.{digits}f}",
        *spans,
        significance,
        f"{each.psnr:+.3f}",
        str(each.count),
    ]
