"""The report as one picture, before and after in the same panels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tafm_loss.report.table import HEALTH_RATIOS, report_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["plot_report"]

# A report alone has the last colour, that of "after".
COLOURS = ("#777777", "#1f6fb4")
EXTENT_TICKS = (0.5, 1, 2, 5, 10, 25)
RATIO_TICKS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000)
# Wider than this, powers of ten alone are labelled.
NARROW_RANGE = 1000
LINE: Mapping[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.5}

Reports = Mapping[str, Mapping[str, Any]]
Spread = Mapping[str, float | None]


def plot_report(reports: Reports) -> "Figure":
    """Return a figure of one report, or of two side by side, 1200 px wide as a PNG.

    Args:
        reports: {title: figures of `tafm_loss.report.figures.report`}, such as "before" and "after".

    Raises:
        ValueError: if there is no report, or there are more than two.
    """
    from matplotlib.figure import Figure

    if not 1 <= len(reports) <= len(COLOURS):
        raise ValueError(f"reports must be one or two, got {len(reports)}")
    colours = dict(zip(reports, COLOURS[-len(reports) :], strict=True))
    figure = Figure(figsize=(10, 9.6), dpi=120)
    rows: Any = figure.subfigures(3, 1, height_ratios=(2.9, 3.0, 3.7))
    responses, selectivities, rest = rows
    health, table = rest.subfigures(1, 2, width_ratios=(4, 6))
    _draw_responses(responses, reports, colours)
    _draw_selectivities(selectivities, reports, colours)
    _draw_health(health, reports, colours)
    _draw_table(table, reports, colours)
    return figure


def _draw_responses(panel: "SubFigure", reports: Reports, colours: Mapping[str, str]) -> None:
    kinds = list(next(iter(reports.values()))["response"])
    axes = panel.subplots(1, len(kinds), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        for title, figures in reports.items():
            spreads = figures["response"][kind]
            _draw_band(axis, spreads, _row(spreads.values(), "p10"), _row(spreads.values(), "p90"), colours[title])
            axis.plot(_extents(spreads), _row(spreads.values(), "median"), color=colours[title], label=title, **LINE)
        axis.set_title(kind, fontsize=10)
        axis.set_yscale("log")
        _label_extents(axis, spreads)
    axes[0].set_ylabel("loss against sharp")
    axes[0].legend(frameon=False, fontsize=9, loc="lower right")
    panel.suptitle("Response to blur: median and 10th to 90th percentile of the images", fontsize=11, y=0.985)
    panel.subplots_adjust(left=0.09, right=0.985, top=0.83, bottom=0.18, wspace=0.07)


def _draw_selectivities(panel: "SubFigure", reports: Reports, colours: Mapping[str, str]) -> None:
    distractors = list(next(iter(reports.values()))["selectivity"])
    axes = panel.subplots(1, len(distractors), sharey=True)
    for axis, distractor in zip(axes, distractors, strict=True):
        for title, figures in reports.items():
            medians = [_row(spreads.values(), "median") for spreads in figures["selectivity"][distractor].values()]
            extents = next(iter(figures["selectivity"][distractor].values()))
            least, most = ([pick(values) for values in zip(*medians, strict=True)] for pick in (min, max))
            _draw_band(axis, extents, least, most, colours[title])
            axis.plot(_extents(extents), least, color=colours[title], label=title, **LINE)
        axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"against {distractor}", fontsize=10)
        axis.set_yscale("log")
        _label_extents(axis, extents)
    _label_ratios(axes[0].yaxis, axes[0].get_ylim())
    axes[0].set_ylabel("error of the distractor\n/ of the blur that is as far")
    panel.suptitle(
        "Selectivity: medians, from the least (line) to the most of shake, linear and defocus; squared error has 1",
        fontsize=11,
        y=0.985,
    )
    panel.subplots_adjust(left=0.09, right=0.985, top=0.84, bottom=0.17, wspace=0.05)


def _draw_health(panel: "SubFigure", reports: Reports, colours: Mapping[str, str]) -> None:
    axis = panel.subplots()
    for index, (title, figures) in enumerate(reports.items()):
        places = [place + 0.24 * (index - (len(reports) - 1) / 2) for place in range(len(HEALTH_RATIOS))]
        spreads = [figures[name] for name in HEALTH_RATIOS]
        axis.hlines(places, _row(spreads, "p10"), _row(spreads, "p90"), color=colours[title], linewidth=2)
        axis.plot(_row(spreads, "median"), places, "o", color=colours[title], markersize=6)
    axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    labels = [ratio.replace(" / ", "\n/ ") for ratio in HEALTH_RATIOS.values()]
    axis.set_yticks(range(len(labels)), labels, fontsize=9)
    axis.set_ylim(len(HEALTH_RATIOS) - 0.5, -0.5)
    _label_ratios(axis.xaxis, axis.get_xlim())
    axis.set_xlabel("ratio of losses")
    axis.grid(alpha=0.3, axis="x")
    panel.suptitle("Health: median, 10th to 90th percentile", fontsize=11, y=0.985)
    panel.subplots_adjust(left=0.315, right=0.96, top=0.9, bottom=0.13)


def _draw_table(panel: "SubFigure", reports: Reports, colours: Mapping[str, str]) -> None:
    axis = panel.subplots()
    axis.set_axis_off()
    head, rows = report_table(reports)
    places = [0.0, *(1 - 0.28 * column for column in reversed(range(len(reports))))]
    for number, cells in enumerate([head, *rows]):
        height = 1 - (number + 0.5) / (len(rows) + 1)
        for column, (cell, place) in enumerate(zip(cells, places, strict=True)):
            colour = colours[head[column]] if column else "black"
            weight = "bold" if not number else "normal"
            side = "right" if column else "left"
            axis.text(place, height, cell, color=colour, fontsize=8, weight=weight, ha=side, va="center")
        if number:
            axis.axhline(1 - number / (len(rows) + 1), color="#dddddd", linewidth=0.6)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    panel.subplots_adjust(left=0.03, right=0.97, top=0.98, bottom=0.03)


def _draw_band(
    axis: "Axes", by_extent: Mapping[str, Spread], low: Sequence[float], high: Sequence[float], colour: str
) -> None:
    axis.fill_between(_extents(by_extent), low, high, color=colour, alpha=0.15, linewidth=0)


def _extents(by_extent: Mapping[str, Spread]) -> list[float]:
    return [float(extent) for extent in by_extent]


def _row(spreads: Iterable[Spread], name: str) -> list[float]:
    """Return one number of each spread; NaN, which is not drawn, for what a logarithmic axis has no place for."""
    values = (spread[name] for spread in spreads)
    return [value if value is not None and value > 0 else math.nan for value in values]


def _label_extents(axis: "Axes", by_extent: Mapping[str, Spread]) -> None:
    ticks = [tick for tick in EXTENT_TICKS if tick >= _extents(by_extent)[0]]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("blur extent, px")
    axis.grid(alpha=0.3)


def _label_ratios(axis: Any, limits: tuple[float, float]) -> None:
    low, high = limits
    whole = high / low > NARROW_RANGE
    ticks = [t for t in RATIO_TICKS if low <= t <= high and (not whole or math.log10(t).is_integer())]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)
