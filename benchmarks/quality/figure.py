"""The pictures of the benchmark, drawn from the result files alone."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _common import write_figure

from quality.arms import PIXEL
from quality.measuring import METRICS
from quality.plan import BASE, INDEPENDENT, OURS, PRICES, PRIMARY, SEEN, STAGES
from quality.summary import students_interval

INCHES, CURVE_INCHES, FRONT_INCHES = (11.0, 7.0), (8.0, 5.0), (10.0, 2.9)
COLOURS = {OURS: "#c0392b", BASE: "#2c6fbb"}
OTHER_COLOUR = "#bbbbbb"
SHADES = {PRICES[0]: 1.0, PRICES[1]: 0.55}
JUDGES = (PRIMARY, INDEPENDENT, "dists", "mdsi")


def draw(results: Path, path: Path) -> None:
    """Draw what each arm gains by every judge, the same in short for README, and the curves over ratios."""
    from matplotlib.figure import Figure

    confirmed, trials = (_read(results, f"deblurring_{name}") for name in ("quality", "trials"))
    figure = Figure(figsize=INCHES, layout="constrained")
    for axis, metric in zip(figure.subplots(2, 2, sharey=True).flat, JUDGES, strict=True):
        _draw_gains(axis, confirmed, metric, PRICES)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    write_figure(figure, path)
    front = Figure(figsize=FRONT_INCHES, layout="constrained")
    for axis, metric in zip(front.subplots(1, 2, sharey=True), JUDGES[:2], strict=True):
        _draw_gains(axis, confirmed, metric, PRICES[:1])
    write_figure(front, path.with_stem(f"{path.stem}_front"))
    curves = Figure(figsize=CURVE_INCHES, layout="constrained")
    _draw_curves(curves.subplots(), trials["runs"])
    write_figure(curves, path.with_stem(f"{path.stem}_curves"))


def _draw_gains(axis: Any, result: Mapping[str, Any], metric: str, prices: Sequence[float]) -> None:
    """Draw a bar an arm and price: what it gains over L1 and its mask, with 95 % over seeds."""
    arms = sorted(result["ratios"], key=lambda arm: statistics.fmean(_gains(result, arm, PRIMARY, PRICES[0]) or [-99]))
    for place, arm in enumerate(arms):
        for index, price in enumerate(prices):
            gains = _gains(result, arm, metric, price)
            height = place + (0.2 if index == 0 else -0.2) * (len(prices) - 1)
            if gains is None:
                axis.annotate("not reached", (0, height), fontsize=7, va="center")
                continue
            mean, (low, high) = statistics.fmean(gains), students_interval(torch.tensor(gains))
            label = f"{price:g} dB below L1" if place == 0 else None
            style = {"color": COLOURS.get(arm, OTHER_COLOUR), "alpha": SHADES[price], "label": label}
            axis.barh(height, mean, 0.7 / len(prices), **style)
            axis.plot([low, high], [height, height], color="black", linewidth=1.2)
    axis.set_yticks(range(len(arms)), [f"L1 + {arm}" for arm in arms])
    axis.axvline(0, color="black", linewidth=1)
    axis.set_xlabel(f"{METRICS[metric].heading} gained over L1 with its mask, %")


def _gains(result: Mapping[str, Any], arm: str, metric: str, price: float) -> list[float] | None:
    """Return the gain of every seed in per cent, or None if the price is not reached on one of them."""
    ratio = result["ratios"][arm]
    own, pixel = (
        {run["seed"]: run["equal"][str(price)][SEEN] for run in result["runs"] if (run["arm"], run["ratio"]) == which}
        for which in ((arm, ratio), (PIXEL, 0.0))
    )
    if None in own.values():
        return None
    base = statistics.fmean(pixel[seed][metric] for seed in own)
    return [100 * METRICS[metric].better * (own[seed][metric] - pixel[seed][metric]) / base for seed in sorted(own)]


def _draw_curves(axis: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw a line an arm over its ratios, as trained, and L1 with its masks: best is down and right."""
    from matplotlib import colormaps

    colours = colormaps["tab20"]
    (pixel,) = (run for run in runs if run["arm"] == PIXEL)
    level = pixel["levels"][SEEN]
    masked = [(-price, pixel["equal"][str(price)][SEEN][PRIMARY]) for price in STAGES["trials"].prices]
    axis.plot(*zip((0.0, pixel["raw"][SEEN][PRIMARY]), *masked, strict=True), "k--o", label="L1 and its mask")
    axis.set_prop_cycle(color=[colours(index) for index in range(colours.N)])
    for arm in dict.fromkeys(run["arm"] for run in runs if run is not pixel):
        own = sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["ratio"])
        points = [(run["raw"][SEEN]["psnr"] - level, run["raw"][SEEN][PRIMARY]) for run in own]
        axis.plot(*zip(*points, strict=True), "-o", markersize=4, label=f"L1 + {arm}")
    axis.set_xlabel("PSNR against L1 as it is, dB")
    axis.set_ylabel(METRICS[PRIMARY].heading)
    axis.set_title("Each arm over its ratios, as trained\n(one seed, validation photographs)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _read(results: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return content
