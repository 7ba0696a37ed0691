"""The picture of the benchmark, drawn from the result files alone."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _common import write_figure

from quality.arms import PIXEL
from quality.data import SEEN
from quality.measuring import METRICS
from quality.plan import OURS, PRIMARY

INCHES = (10.0, 6.4)
COLOURS = {"against": "#888888", "ours": "#c0392b"}
OTHERS = ("tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:brown")


def draw(results: Path, path: Path) -> None:
    """Draw what training gives and costs (left), and what is left of it after masks, case by case (right)."""
    from matplotlib.figure import Figure

    runs = _read(results, "deblurring_quality")["runs"]
    contrasts = _read(results, "deblurring_contrasts")["contrasts"]
    figure = Figure(figsize=INCHES, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_price(left, runs)
    _draw_gains(right, contrasts)
    write_figure(figure, path)


def _draw_price(axis: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw an arrow an arm: from the network as it is to the same after its mask."""
    others = iter(OTHERS)
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm and run["equal"][SEEN] is not None]
        if not own:
            continue
        (x, y), (x_masked, y_masked) = (
            [statistics.fmean(figures[metric] for figures in ways) for metric in ("psnr", PRIMARY)]
            for ways in ([run["raw"] for run in own], [run["equal"][SEEN] for run in own])
        )
        colour = {PIXEL: "black", OURS: COLOURS["ours"]}.get(arm) or next(others)
        (line,) = axis.plot([x], [y], "o", color=colour, label=arm if arm == PIXEL else f"L1 + {arm}")
        arrow = {"arrowstyle": "->", "color": line.get_color(), "linewidth": 1.5}
        axis.annotate("", (x_masked, y_masked), (x, y), arrowprops=arrow)
        axis.plot([x_masked], [y_masked], marker="", alpha=0)
    axis.invert_xaxis()
    axis.invert_yaxis()
    axis.set(xlabel="PSNR, dB (worse to the right)", ylabel=f"{METRICS[PRIMARY].heading} (better upwards)")
    axis.set_title("as trained (dot), and after the unsharp mask\nthat brings all to one PSNR (arrow)", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="best")


def _draw_gains(axis: Any, contrasts: Sequence[Mapping[str, Any]]) -> None:
    """Draw a row a contrast: the gain over seeds, with its interval."""
    rows = [row for row in reversed(contrasts) if "gains" in row]
    for height, row in enumerate(rows):
        low, high = row["seeds"]
        colour = COLOURS["ours"] if row["named"] else COLOURS["against"]
        axis.plot([low, high], [height, height], color=colour, linewidth=2)
        axis.plot([row["gains"][PRIMARY]], [height], "o", color=colour)
    axis.axvline(0, color="black", linewidth=1)
    labels = [f"{row['case']}\nagainst {row['against']}" for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=6)
    axis.set_xlabel(f"{METRICS[PRIMARY].heading} gained at equal PSNR")
    axis.set_title(f"{OURS}: mean and 95 % over seeds\nred: the contrasts named beforehand", fontsize=10)
    axis.grid(alpha=0.3, axis="x")


def _read(results: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return content
