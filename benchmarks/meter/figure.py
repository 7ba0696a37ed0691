"""The pictures of the page: what was read and how well, drawn from the result file; and maps of two photographs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _common import write_figure
from torch import Tensor

from meter.features import STRIDE, WINDOW
from meter.images import CONDITIONS, LARGEST
from meter.measuring import CLASSICAL, LEAST_COVERED, OURS, VERDICT_CONDITIONS
from meter.regression import COVERAGE, Readings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES, MAP_INCHES = (12.0, 8.0), (10.0, 4.2)
COLOUR, CONTROL, NETWORK = "#c0392b", "#999999", "#2c6fbb"
SHOWN = ("shake", *VERDICT_CONDITIONS)
SHADES = ("#444444", "#1f77b4", "#2ca02c", "#d62728", "#ff9f1c")
TICKS = (0, 1, 2, 5, 10, 25)
# Windows of a larger spread say next to nothing and are left grey in maps.
SURE = 0.6


def draw(arms: Mapping[str, Any], path: Path) -> None:
    """Draw readings, ranks, coverage and real pairs, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=90, layout="constrained")
    (read, ranks), (covered, pairs) = figure.subplots(2, 2)
    _draw_readings(read, arms[OURS]["conditions"])
    _draw_ranks(ranks, arms)
    _draw_coverage(covered, arms)
    _draw_pairs(pairs, arms[OURS]["pairs"])
    write_figure(figure, path)


def _log1p_axes(axis: "Axes", sides: str = "xy") -> None:
    for side in sides:
        getattr(axis, f"set_{side}ticks")(np.log1p(TICKS), [str(tick) for tick in TICKS])


def _draw_readings(axis: "Axes", conditions: Mapping[str, Any]) -> None:
    for name, colour in zip(SHOWN, SHADES, strict=True):
        found = conditions[name]
        axis.plot(np.log1p(found["extents"]), np.log1p(found["read"]), ".", color=colour, alpha=0.5, label=name)
    axis.axline((0, 0), slope=1, color="black", linewidth=0.8)
    _log1p_axes(axis)
    axis.legend(frameon=False, fontsize=8)
    axis.set(xlabel="true extent, px", ylabel="extent read, px", title=f"Read by {OURS}, one dot a photograph")


def _draw_ranks(axis: "Axes", arms: Mapping[str, Any]) -> None:
    places = {name: place for place, name in enumerate(SHOWN)}
    for index, (arm, found) in enumerate(arms.items()):
        ranks = {places[name]: figures["rank"] for name, figures in found["conditions"].items() if name in places}
        colour = COLOUR if arm == OURS else CONTROL if arm in CLASSICAL else NETWORK
        mark = "osD^v<>P"[index]
        shift = 0.08 * (index - len(arms) / 2)
        axis.plot([place + shift for place in ranks], list(ranks.values()), mark, color=colour, label=arm, markersize=6)
    axis.set_xticks(list(places.values()), [name.replace(" ", "\n") for name in places])
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    axis.set(ylabel="Spearman's rank correlation", title="Order of photographs by extent")


def _draw_coverage(axis: "Axes", arms: Mapping[str, Any]) -> None:
    names = list(CONDITIONS)
    covered = [arms[OURS]["conditions"][name]["covered"] for name in names]
    axis.barh(range(len(names)), covered, color=[COLOUR if name in VERDICT_CONDITIONS else "#e0a8a1" for name in names])
    axis.axvline(COVERAGE, color="black", linewidth=0.8)
    axis.axvline(LEAST_COVERED, color="black", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="share of photographs in the 90 % interval", title="Calibration; dark: asked for by the verdict")


def _draw_pairs(axis: "Axes", pairs: Sequence[Mapping[str, Any]]) -> None:
    for group, colour in (("GoPro", COLOUR), ("REDS", NETWORK)):
        own = [pair for pair in pairs if pair["scene"].startswith(group)]
        sharp, blurred = (np.log1p([pair[side] for pair in own]) for side in ("sharp", "blurred"))
        axis.plot(sharp, blurred, "o", color=colour, alpha=0.6, label=f"{group}, {len(own)} pairs")
    axis.axline((0, 0), slope=1, color="black", linewidth=0.8)
    _log1p_axes(axis)
    axis.legend(frameon=False, fontsize=8)
    axis.set(xlabel="read of the sharp image, px", ylabel="read of the blurred image, px", title="Real pairs")


def draw_maps(photographs: Sequence[Tensor], readings: Sequence[Readings], path: Path) -> None:
    """Draw photographs (3, H, W) above the maps that were read (1, h, w), as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=MAP_INCHES, dpi=90, layout="constrained")
    for column, (photograph, read) in enumerate(zip(photographs, readings, strict=True)):
        above, below = (figure.add_subplot(2, len(photographs), 1 + column + row * len(photographs)) for row in (0, 1))
        picture = photograph.permute(1, 2, 0).numpy()
        height, width = picture.shape[:2]
        above.imshow(picture)
        values = torch.where(read.spreads < SURE, read.values, torch.nan)[0]
        # A window's reading is drawn over the `STRIDE` px at its centre.
        rows, columns = (count * STRIDE for count in values.shape)
        first = (WINDOW - STRIDE) // 2
        below.imshow(np.full((height, width, 3), 0.6))
        extent = (first, first + columns, first + rows, first)
        drawn = below.imshow(values.numpy(), cmap="magma", vmin=0, vmax=np.log1p(LARGEST), extent=extent)
        for axis in (above, below):
            axis.set(xlim=(0, width), ylim=(height, 0))
            axis.set_axis_off()
    bar = figure.colorbar(drawn, ax=figure.axes, shrink=0.5, label="extent read, px; grey: too little detail")
    bar.set_ticks(np.log1p(TICKS), labels=[str(tick) for tick in TICKS])
    write_figure(figure, path)
