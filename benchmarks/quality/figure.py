"""The picture of the benchmark, drawn from the result files alone."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _common import write_figure

from quality.arms import COMPACT, PIXEL, RANDOM_STRUCTURE, UNTUNED
from quality.data import SEEN
from quality.measuring import METRICS
from quality.plan import OURS, PRIMARY
from quality.summary import students_interval

INCHES = (9.0, 12.0)
FRONT_INCHES = (8.0, 2.6)
FRONT_NAMES = {
    OURS: "this loss",
    COMPACT: "this loss over all taps",
    RANDOM_STRUCTURE: "this loss, random weights",
    UNTUNED: "untuned SqueezeNet",
}
OURS_COLOUR, OTHER_COLOUR = "#c0392b", "#666666"
OTHERS = ("tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:brown")


def draw(results: Path, path: Path) -> None:
    """Draw what training gives and costs (above), what masks leave of it (below), and a short form for README."""
    from matplotlib.figure import Figure

    runs = _read(results, "deblurring_quality")["runs"]
    contrasts = _read(results, "deblurring_contrasts")["contrasts"]
    figure = Figure(figsize=INCHES, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(1, 1.5))
    _draw_price(above, runs)
    _draw_gains(below, contrasts)
    write_figure(figure, path)
    front = Figure(figsize=FRONT_INCHES, layout="constrained")
    _draw_front(front.subplots(), runs)
    write_figure(front, path.with_stem(f"{path.stem}_front"))


def _draw_front(axis: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw a bar an arm: what it gains over L1 and its mask at equal PSNR, with 95 % over seeds."""
    equal = {(run["arm"], run["seed"]): run["equal"][SEEN] for run in runs if run["equal"][SEEN] is not None}
    gains: dict[str, list[float]] = {}
    for (arm, seed), own in equal.items():
        if arm != PIXEL:
            gain = METRICS[PRIMARY].better * (own[PRIMARY] - equal[PIXEL, seed][PRIMARY])
            gains.setdefault(arm, []).append(gain)
    arms = sorted(gains, key=lambda arm: statistics.fmean(gains[arm]))
    for height, arm in enumerate(arms):
        mean, (low, high) = statistics.fmean(gains[arm]), students_interval(torch.tensor(gains[arm]))
        axis.barh(height, mean, 0.6, color=OURS_COLOUR if arm == OURS else "#bbbbbb")
        axis.plot([low, high], [height, height], color="black", linewidth=1.2)
        place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"{mean:.4f}", (high, height), **place)
    axis.set_yticks(range(len(arms)), [f"L1 + {FRONT_NAMES.get(arm, arm)}" for arm in arms])
    axis.axvline(0, color="black", linewidth=1)
    axis.margins(x=0.12)
    axis.set_xlabel(f"{METRICS[PRIMARY].heading} gained over L1 with its unsharp mask, all at one PSNR")


def _draw_price(axis: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw an arrow an arm: from the network as it is to the same after its mask."""
    others = iter(OTHERS)
    origin = statistics.fmean(run["raw"][PRIMARY] for run in runs if run["arm"] == PIXEL)
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm and run["equal"][SEEN] is not None]
        if not own:
            continue
        start, end = (
            (
                statistics.fmean(figures["psnr"] for figures in ways),
                METRICS[PRIMARY].better * (statistics.fmean(figures[PRIMARY] for figures in ways) - origin),
            )
            for ways in ([run["raw"] for run in own], [run["equal"][SEEN] for run in own])
        )
        colour = {PIXEL: "black", OURS: OURS_COLOUR}.get(arm) or next(others)
        axis.plot(*start, "o", markersize=8, color=colour, label=arm if arm == PIXEL else f"L1 + {arm}")
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.8})
        axis.plot(*end, alpha=0)
    axis.set_xlabel("PSNR, dB (better to the right)")
    axis.set_ylabel(f"{METRICS[PRIMARY].heading}: how much better than L1 as trained")
    axis.set_title("Dot: as trained\nArrow: after the unsharp mask that brings all to one PSNR")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=2, frameon=False)


def _draw_gains(axis: Any, contrasts: Sequence[Mapping[str, Any]]) -> None:
    """Draw a row a contrast below the name of its case: the gain over seeds, with its interval."""
    labels: list[str] = []
    case = ""
    for row in (row for row in contrasts if "gains" in row):
        if row["case"] != case:
            case = row["case"]
            axis.axhspan(len(labels) - 0.5, len(labels) + 0.5, color="#eeeeee")
            labels.append(case)
        low, high = row["seeds"]
        colour = OURS_COLOUR if row["named"] else OTHER_COLOUR
        axis.plot([low, high], [len(labels)] * 2, color=colour, linewidth=2.5)
        axis.plot([row["gains"][PRIMARY]], [len(labels)], "o", color=colour)
        labels.append(f"against {row['against']}")
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(labels)), labels)
    for label in axis.get_yticklabels():
        label.set_fontweight("normal" if label.get_text().startswith("against") else "bold")
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlabel(f"{METRICS[PRIMARY].heading} gained at equal PSNR (better to the right)")
    axis.set_title(f"What '{OURS}' gains: mean and 95 % over seeds\nRed: the contrasts named beforehand")
    axis.grid(alpha=0.3, axis="x")


def _read(results: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return content
