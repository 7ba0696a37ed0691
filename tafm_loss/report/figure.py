"""The report as one figure, before and after in the same panels, and on disk."""

import importlib.util
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tafm_loss._files import write_atomically, write_figure
from tafm_loss.report.table import HEALTH_RATIOS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["FIGURE_FILE", "REPORT_FILE", "plot_report", "write_reports"]

REPORT_FILE = "report.json"
FIGURE_FILE = "report.png"

# A report alone has the last colour, that of "after".
COLOURS = ("#777777", "#1f6fb4")
LINE: Mapping[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.5}

Reports = Mapping[str, Mapping[str, Any]]
Spread = Mapping[str, float | None]


def write_reports(reports: Reports, folder: Path) -> None:
    """Write reports by title to `report.json` in a folder and, where matplotlib is installed, `report.png`."""
    write_atomically(folder / REPORT_FILE, (json.dumps(reports, indent=1, allow_nan=False) + "\n").encode())
    if importlib.util.find_spec("matplotlib") is not None:
        write_figure(plot_report(reports), folder / FIGURE_FILE)


def plot_report(reports: Reports) -> "Figure":
    """Return a figure of one report, or of two in the same panels, 1200 px wide as a PNG.

    Args:
        reports: {title: what `tafm_loss.report.report` returns}, such as "before" and "after".

    Raises:
        ValueError: if there is no report, or there are more than two.
    """
    from matplotlib.figure import Figure

    if not 1 <= len(reports) <= len(COLOURS):
        raise ValueError(f"reports must be one or two, got {len(reports)}")
    coloured = [
        (title, measures, colour)
        for (title, measures), colour in zip(reports.items(), COLOURS[-len(reports) :], strict=True)
    ]
    figure = Figure(figsize=(10, 9), dpi=120, layout="constrained")
    rows: Any = figure.subfigures(3, 1, height_ratios=(3.1, 3.1, 2.6))
    for draw, panel in zip((_draw_responses, _draw_selectivities, _draw_health), rows, strict=True):
        draw(panel, coloured)
    return figure


def _draw_responses(panel: "SubFigure", coloured: Sequence[tuple[str, Mapping[str, Any], str]]) -> None:
    kinds = list(coloured[0][1]["response"])
    axes = panel.subplots(1, len(kinds), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        for title, measures, colour in coloured:
            spreads = measures["response"][kind]
            low, median, high = (_row(spreads.values(), name) for name in ("p10", "median", "p90"))
            _draw_curve(axis, spreads, median, (low, high), label=title, color=colour)
        axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"blur: {kind}", fontsize=10)
    axes[0].set_ylabel("loss against sharp\n(1: a 10 px shake)")
    axes[0].legend(frameon=False, fontsize=9, loc="lower right")
    panel.suptitle("Response to blur: median, and 10th to 90th percentile of the images", fontsize=11)


def _draw_selectivities(panel: "SubFigure", coloured: Sequence[tuple[str, Mapping[str, Any], str]]) -> None:
    distractors = list(coloured[0][1]["selectivity"])
    axes = panel.subplots(1, len(distractors), sharey=True)
    for axis, distractor in zip(axes, distractors, strict=True):
        for title, measures, colour in coloured:
            kinds = measures["selectivity"][distractor]
            medians = list(zip(*(_row(spreads.values(), "median") for spreads in kinds.values()), strict=True))
            least, most = (list(map(pick, medians)) for pick in (min, max))
            _draw_curve(axis, next(iter(kinds.values())), least, (least, most), label=title, color=colour)
        axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"blur against {distractor}; dashed: squared error", fontsize=10)
    _label(axes[0].yaxis)
    axes[0].set_ylabel("error of the distractor\n/ of the blur that is as far")
    panel.suptitle(
        f"Selectivity: medians of the images, from the least (line) to the most of {', '.join(kinds)}", fontsize=11
    )


def _draw_health(panel: "SubFigure", coloured: Sequence[tuple[str, Mapping[str, Any], str]]) -> None:
    axis = panel.subplots()
    for index, (_, measures, colour) in enumerate(coloured):
        places = [place + 0.24 * (index - (len(coloured) - 1) / 2) for place in range(len(HEALTH_RATIOS))]
        spreads = [measures[name] for name in HEALTH_RATIOS]
        axis.hlines(places, _row(spreads, "p10"), _row(spreads, "p90"), color=colour, linewidth=2)
        axis.plot(_row(spreads, "median"), places, "o", color=colour, markersize=6)
    axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.set_yticks(range(len(HEALTH_RATIOS)), HEALTH_RATIOS.values(), fontsize=9)
    axis.set_ylim(len(HEALTH_RATIOS) - 0.5, -0.5)
    _label(axis.xaxis)
    axis.set_xlabel("ratio of losses")
    axis.grid(alpha=0.3, axis="x")
    panel.suptitle("Health: what other changes cost; median, and 10th to 90th percentile of the images", fontsize=11)


def _draw_curve(
    axis: "Axes",
    by_extent: Mapping[str, Spread],
    values: Sequence[float],
    band: tuple[Sequence[float], Sequence[float]],
    **style: Any,
) -> None:
    extents = [float(extent) for extent in by_extent]
    axis.fill_between(extents, *band, color=style["color"], alpha=0.15, linewidth=0)
    axis.plot(extents, values, **style, **LINE)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.minorticks_off()
    axis.yaxis.set_major_formatter("{x:g}")
    _label(axis.xaxis)
    axis.set_xlabel("blur extent, px")
    axis.grid(visible=True, alpha=0.3)


def _row(spreads: Iterable[Spread], name: str) -> list[float]:
    """Return one number of each spread; NaN, which is not drawn, for what a logarithmic axis has no place for."""
    values = (spread[name] for spread in spreads)
    return [value if value is not None and value > 0 else math.nan for value in values]


def _label(axis: Any) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")
