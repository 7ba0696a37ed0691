"""The picture of balance.json: the ratio of gradients over training, and what the wanted ratio does at its end."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _balance_arms import ALONE, FIXED, RATIO, READINGS, START, SWEPT, WARM
from _common import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figures = dict[str, Any]
Runs = Sequence[Figures]

COLOURS = ("tab:blue", "tab:orange", "tab:green")
STYLES = {START: "-", WARM: "--", FIXED: ":"}
RATIO_TICKS = (0.003, 0.01, 0.03, 0.1, RATIO, 1, 3)


def draw(result: Figures, path: Path) -> None:
    """Draw the result and write it as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    runs = list(result["runs"].values())
    pixels = list(dict.fromkeys(run["pixel"] for run in runs))
    colours = dict(zip(dict.fromkeys(run["network"] for run in runs), COLOURS, strict=False))
    figure = Figure(figsize=(10, 7.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    for axis, pixel in zip(axes, pixels, strict=False):
        own = [run for run in runs if run["pixel"] == pixel and run["ratio"] == RATIO]
        _draw_ratios(axis, own, colours)
        axis.set_title(pixel)
    _draw_sweep(axes[-1], runs)
    handles = [
        *(Line2D([], [], color=colour, label=name) for name, colour in colours.items()),
        *(Line2D([], [], color="black", linestyle=style, label=_label(name)) for name, style in STYLES.items()),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path)


def _label(calibration: str) -> str:
    return calibration if calibration == FIXED else f"calibrated {calibration}"


def _draw_ratios(axis: "Axes", runs: Runs, colours: dict[str, str]) -> None:
    axis.axhline(RATIO, color="grey", linewidth=0.8)
    for run in runs:
        if run["calibration"] in STYLES:
            weighed = [reading for reading in run["readings"] if reading["weight"] > 0]
            ratios = running_medians([reading["weight"] * reading["unit"] for reading in weighed], READINGS)
            steps = [reading["step"] for reading in weighed]
            axis.plot(steps, ratios, color=colours[run["network"]], linestyle=STYLES[run["calibration"]])
    axis.set(xlabel="step", ylabel="gradient, feature loss / pixel loss", yscale="log")
    axis.set_ylim(RATIO_TICKS[0], 2 * RATIO_TICKS[-1])
    axis.set_yticks(RATIO_TICKS, [f"{tick:g}" for tick in RATIO_TICKS])
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def _draw_sweep(axis: "Axes", runs: Runs) -> None:
    """Draw PSNR and GMSD at the end of training by wanted ratio; the pixel loss alone is at zero."""
    network, pixel, calibration = SWEPT
    own = [run for run in runs if (run["network"], run["pixel"]) == (network, pixel)]
    alone = [{**run, "ratio": 0} for run in own if run["calibration"] == ALONE]
    points = sorted(alone + [run for run in own if run["calibration"] == calibration], key=lambda run: run["ratio"])
    psnr, gmsd = ([run["figures"][metric] for run in points] for metric in ("psnr", "gmsd"))
    axis.plot(psnr, gmsd, color="black", marker="o")
    for run, x, y in zip(points, psnr, gmsd, strict=True):
        axis.annotate(f"{run['ratio']:g}", (x, y), xytext=(5, 5), textcoords="offset points")
    axis.set(xlabel="PSNR, dB (right is better)", ylabel="GMSD (down is better)")
    axis.set_title(f"{network}, {pixel}: by wanted ratio")
    # Room for the labels.
    axis.margins(0.1)
    axis.grid(alpha=0.3)


def running_medians(values: Sequence[float], width: int) -> list[float]:
    """Return the median of the `width` values around each, of fewer at the ends."""
    reach = width // 2
    return [statistics.median(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
