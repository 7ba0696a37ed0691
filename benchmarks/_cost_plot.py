"""The picture of loss_cost.json: time against pixels and beside VGG19's, and the loss's share of a training step."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import write_figure
from _cost_arms import VARIED, VGG19, title
from _cost_timing import Case, median_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figures = dict[str, Any]

COLOURS = dict(zip(VARIED, ("tab:blue", "tab:cyan", "tab:green", "tab:orange", "black"), strict=True))
GOAL_SHARE = 10
RATIO_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


def draw(result: Figures, path: Path) -> None:
    """Draw the result and write it as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.6), dpi=110, layout="constrained")
    growth, relative, ways, shares = figure.subplots(2, 2).flatten()
    _draw_growth(growth, result)
    _draw_relative(relative, result)
    _draw_ways(ways, result)
    _draw_shares(shares, result["training"])
    handles = [handle for axis in (growth, ways) for handle in axis.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path)


def plain_cases(rows: list[Figures]) -> list[Case]:
    """Return the cases in float32 that are not compiled, by their pixels."""
    cases = {Case(row["batch"], row["size"], device=row["device"]) for row in rows if _is_plain(row)}
    return sorted(cases, key=lambda case: (case.pixels, case.size))


def _is_plain(row: Figures) -> bool:
    return row["dtype"] == "float32" and not row["compiled"]


def _draw_growth(axis: "Axes", result: Figures) -> None:
    cases = plain_cases(result["cases"])
    for name, colour in COLOURS.items():
        points = [
            (case.pixels, 1e3 * seconds[name])
            for case in cases
            if name in (seconds := median_seconds(result["cases"], case))
        ]
        axis.plot(*zip(*points, strict=True), marker="o", color=colour, label=title(name, result))
    axis.set(xscale="log", yscale="log", ylabel="ms a step")
    axis.set_title("Forward and backward to the prediction, float32", fontsize=10)
    _label_pixels(axis, cases)


def _draw_relative(axis: "Axes", result: Figures) -> None:
    from matplotlib.ticker import NullLocator

    cases = [case for case in plain_cases(result["cases"]) if VGG19 in median_seconds(result["cases"], case)]
    for name, colour in COLOURS.items():
        ratios = [(seconds := median_seconds(result["cases"], case))[name] / seconds[VGG19] for case in cases]
        axis.plot([case.pixels for case in cases], ratios, marker="o", color=colour)
    axis.set(xscale="log", yscale="log", ylabel="time / VGG19 conv5_4")
    axis.set_yticks(RATIO_TICKS, [f"{ratio:g}" for ratio in RATIO_TICKS])
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_title("The same, beside VGG19 in the same rounds", fontsize=10)
    _label_pixels(axis, cases)


def _label_pixels(axis: "Axes", cases: list[Case]) -> None:
    from matplotlib.ticker import NullLocator

    # Cases of as many pixels share a label.
    labels: dict[int, list[str]] = {}
    for case in cases:
        labels.setdefault(case.pixels, []).append(f"{case.batch} x {case.size}²")
    axis.set_xticks(list(labels), ["\n".join(names) for names in labels.values()], fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("batch x pixels")
    axis.grid(alpha=0.3)


def _draw_ways(axis: "Axes", result: Figures) -> None:
    base = Case(**result["base"])
    eager = median_seconds(result["cases"], base)
    ways = {
        "bfloat16, autocast": median_seconds(result["cases"], dataclasses.replace(base, dtype="bfloat16")),
        "float32, compiled": median_seconds(result["cases"], dataclasses.replace(base, compiled=True)),
    }
    for index, (way, seconds) in enumerate(ways.items()):
        names = [name for name in COLOURS if name in seconds]
        places = [list(COLOURS).index(name) + 0.38 * (index - 0.5) for name in names]
        ratios = [seconds[name] / eager[name] for name in names]
        bars = axis.barh(places, ratios, 0.36, color=("#777777", "#bbbbbb")[index], label=way)
        axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axis.axvline(1, color="black", linewidth=0.8)
    names = [title(name, result).replace(", ", ",\n") for name in COLOURS]
    axis.set_yticks(range(len(COLOURS)), names, fontsize=7.5)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("time / time in float32, eager")
    axis.set_title(f"Other ways to compute it, {base.batch} x {base.size}²", fontsize=10)


def _draw_shares(axis: "Axes", trainings: list[Figures]) -> None:
    labels = [f"{row['network']}\n{row['batch']} x {row['size']}², {row['dtype']}" for row in trainings]
    bars = axis.barh(labels, [100 * row["share"] for row in trainings], 0.6, color=COLOURS[VARIED[0]])
    axis.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.axvline(GOAL_SHARE, color="black", linewidth=0.8, linestyle="--")
    axis.tick_params(axis="y", labelsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    label = "% of a step with L1 and the loss; dashed: the goal\nbelow 0: less than the clock can tell"
    axis.set_xlabel(label, fontsize=9)
    axis.set_title("The share of a step, loss of the blue line", fontsize=10)
