"""The picture of the page: what each arm gains over the frozen default, drawn from the result file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _common import write_figure
from quality.measuring import METRICS
from quality.plan import PRICES, SEEN

from refreshing.plan import GUARDS, LEAST_GAIN, MOST_LOSS

INCHES = (11.0, 3.4)
NAMED, OTHER = "#c0392b", "#999999"
SHADES = {PRICES[0]: 1.0, PRICES[1]: 0.55}


def draw(result: Path, path: Path) -> None:
    """Draw a panel for each judge of the verdict, as PNG."""
    from matplotlib.figure import Figure

    contrasts = json.loads(result.read_text())["contrasts"]
    figure = Figure(figsize=INCHES, dpi=90, layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(GUARDS), sharey=True), GUARDS, strict=True):
        _draw_gains(axis, contrasts, metric)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    write_figure(figure, path)


def _draw_gains(axis: Any, contrasts: Mapping[str, Any], metric: str) -> None:
    for place, contrast in enumerate(reversed(contrasts.values())):
        for index, price in enumerate(PRICES):
            height = place + (0.2 if index == 0 else -0.2)
            (row,) = (
                each
                for each in contrast["gains"]
                if (each["price"], each["case"], each["metric"]) == (price, SEEN, metric)
            )
            if "gain" not in row:
                axis.annotate("not reached", (0, height), fontsize=7, va="center")
                continue
            label = f"{price:g} dB below L1" if place == len(contrasts) - 1 else None
            colour = NAMED if contrast["named"] else OTHER
            axis.barh(height, row["gain"], 0.35, color=colour, alpha=SHADES[price], label=label)
            axis.plot(row["interval"], [height, height], color="black", linewidth=1.2)
    axis.set_yticks(range(len(contrasts)), [f"L1 + {arm}" for arm in reversed(contrasts)])
    axis.axvline(0, color="black", linewidth=1)
    for bound in (LEAST_GAIN, -MOST_LOSS):
        axis.axvline(bound, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlabel(f"{METRICS[metric].heading} gained over frozen, %")
