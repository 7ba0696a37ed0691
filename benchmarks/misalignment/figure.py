"""What each arm loses as the targets lie farther beside."""

import statistics
from pathlib import Path

from _common import write_figure
from quality.arms import PIXEL
from quality.measuring import METRICS

from misalignment.arms import MATCHED, PLAIN
from misalignment.tables import Means

SIZE = (10.0, 4.2)
# px, on the axis.
DISTANCES = {"aligned": 0, "1 px": 1, "2 px": 2, "4 px": 4}
COLOURS = {f"{PIXEL} + {MATCHED}": "#c0392b", f"{PIXEL} + {PLAIN}": "#2c6fbb", PIXEL: "#000000"}
OTHERS = ("#8d6e63", "#7cb342", "#f39c12", "#8e44ad", "#16a085", "#7f8c8d", "#d35480")


def draw(means: Means, path: Path) -> None:
    """Draw a line an arm over the displacement of the targets: PSNR and LPIPS."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 2)
    arms = [arm for arm in means.arms() if "ratio" not in arm]
    others = iter(OTHERS)
    colours = {arm: COLOURS.get(arm) or next(others) for arm in arms}
    for axis, metric in zip(axes, ("psnr", "lpips"), strict=True):
        for arm in arms:
            found = {px: means.values(arm, condition, metric) for condition, px in DISTANCES.items()}
            points = [(px, statistics.fmean(values.values())) for px, values in found.items() if values]
            style = "--" if arm.endswith("matched crops") else "-"
            axis.plot(*zip(*points, strict=True), style, marker="o", markersize=4, color=colours[arm], label=arm)
        axis.set_xlabel("targets lie beside by up to, px")
        axis.set_ylabel(f"{METRICS[metric].heading} on aligned photographs")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    write_figure(figure, path)
