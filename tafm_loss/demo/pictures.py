"""The demo's two pictures: what the networks restore, and how the loss answers to blur."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_response", "plot_restorations"]

ROWS = 3
ZOOM_SIZE = 44
FRAME_COLOUR = "#ffd21f"


def plot_restorations(
    columns: Mapping[str, Tensor], sharp: Tensor, legend: Callable[[Tensor, Tensor], str], caption: str
) -> "Figure":
    """Return a figure with one column per kind of image and one row per scene, each with its busiest patch enlarged.

    Args:
        columns: {title: images (N, 3, H, W) in [0, 1]}.
        sharp: the sharp images.
        legend: says what stands below a cell, of an image and the sharp one.
        caption: what is written below.
    """
    from matplotlib.figure import Figure

    rows = _telling_scenes(next(iter(columns.values())), sharp)
    cell, margin = 2.35, 0.7
    size = (cell * len(columns), (cell + 0.2) * len(rows) + margin)
    figure = Figure(figsize=size, dpi=120)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, scene in enumerate(rows):
        corner = _busiest_patch(sharp[scene])
        for column, (title, images) in enumerate(columns.items()):
            axis = axes[row, column]
            _draw_cell(axis, images[scene], corner)
            if row == 0:
                axis.set_title(title, fontsize=11)
            axis.set_xlabel(legend(images[scene], sharp[scene]), fontsize=8, labelpad=3)
    top = 1 - 0.3 / size[1]
    figure.subplots_adjust(left=0.005, right=0.995, top=top, bottom=margin / size[1], wspace=0.02, hspace=0.12)
    figure.text(0.5, 0.08 / size[1], caption, ha="center", va="bottom", fontsize=8, color="#444444")
    return figure


def plot_response(extents: Sequence[float], curves: Mapping[str, Tensor], caption: str) -> "Figure":
    """Return a figure of loss against blur extent.

    Args:
        extents: px, (L,).
        curves: {label: values (L, N)}; the line is the mean over N scenes, the band goes from the least to the most.
        caption: what is written below.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=120)
    axis = figure.subplots()
    for (label, values), colour, style in zip(curves.items(), ("#1f6fb4", "#777777"), ("-", "--"), strict=False):
        axis.plot(extents, values.mean(1), style, color=colour, marker="o", markersize=3.5, label=label)
        axis.fill_between(extents, values.amin(1), values.amax(1), color=colour, alpha=0.15, linewidth=0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks = (0.5, 1, 2, 5, 10, 25)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("blur extent, px")
    axis.set_ylabel("distance from the sharp image")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    figure.subplots_adjust(left=0.14, right=0.97, top=0.96, bottom=0.22)
    figure.text(0.5, 0.03, caption, ha="center", va="bottom", fontsize=8, color="#444444")
    return figure


def _telling_scenes(blurred: Tensor, sharp: Tensor) -> Sequence[int]:
    """The scenes whose blur shows most: a calm one looks alike in every column."""
    error = (blurred - sharp).square().mean((1, 2, 3))
    chosen: list[int] = error.topk(min(ROWS, len(error))).indices.tolist()
    return sorted(chosen)


def _busiest_patch(sharp: Tensor) -> tuple[int, int]:
    """The upper left corner of the patch with most gradient, clear of the corner that the inset will cover."""
    energy = sharp.diff(dim=1)[:, :, :-1].square() + sharp.diff(dim=2)[:, :-1].square()
    density = F.avg_pool2d(energy.sum(0)[None, None], ZOOM_SIZE, stride=4)[0, 0]
    height, width = density.shape
    density[height // 4 :, width // 4 :] = -1.0
    top, left = divmod(int(density.argmax()), width)
    return 4 * top, 4 * left


def _draw_cell(axis: "Axes", image: Tensor, corner: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    pixels = image.permute(1, 2, 0).numpy()
    axis.imshow(pixels, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    top, left = corner
    corner_of_frame = (left - 0.5, top - 0.5)
    axis.add_patch(Rectangle(corner_of_frame, ZOOM_SIZE, ZOOM_SIZE, fill=False, edgecolor=FRAME_COLOUR, linewidth=1.2))
    inset = axis.inset_axes((0.42, 0.0, 0.58, 0.58))
    inset.imshow(pixels[top : top + ZOOM_SIZE, left : left + ZOOM_SIZE], interpolation="nearest")
    inset.set_xticks([])
    inset.set_yticks([])
    inset.spines[:].set_color(FRAME_COLOUR)
    inset.spines[:].set_linewidth(1.2)
