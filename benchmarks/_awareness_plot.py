"""The picture of blur_awareness.json and blur_awareness_residuals.json: a line a judge, on blur and on residuals."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _awareness_tables import least_selectivities, rewards
from _common import write_figure
from _residuals import BANDS, DISTRACTORS, MASK, MORE_BLUR, NOISE, SCRAMBLED, STEP_SIZES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arms = Mapping[str, Mapping[str, Any]]

INCHES = (12.0, 5.6)
DOTS_PER_INCH = 100
COLOURS = dict(zip(DISTRACTORS, ("#1f6fb4", "#d9822b"), strict=True))
STEP_MARKS = {MASK: ("^", "#b03030"), MORE_BLUR: ("v", "#777777"), SCRAMBLED: ("x", "#d9822b"), NOISE: ("+", "#1f6fb4")}
BAND_COLOURS = dict(zip(BANDS, ("#9ecae1", "#4292c6", "#08306b"), strict=True))
SELECTIVITY_TICKS = (0.5, 1, 2, 5, 10)


def draw(blur: Arms, residuals: Arms, path: Path) -> None:
    """Draw selectivity, rewards and cosines, the judges from top to bottom, and write them as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    selectivity, reward, cosine = figure.subplots(1, 3, sharey=True)
    _draw_selectivity(selectivity, blur, residuals)
    _draw_rewards(reward, residuals)
    _draw_cosines(cosine, residuals)
    selectivity.set_yticks(range(len(residuals)), [name.replace(" + ", "\n+ ", 1) for name in residuals], fontsize=9)
    selectivity.set_ylim(len(residuals) - 0.5, -0.5)
    for axis in (selectivity, reward, cosine):
        axis.grid(alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path)


def _draw_selectivity(axis: "Axes", blur: Arms, residuals: Arms) -> None:
    for distractor, colour in COLOURS.items():
        on_blur = {name: min(least_selectivities(figures, distractor).values()) for name, figures in blur.items()}
        on_residuals = {name: figures["selectivity"][distractor]["median"] for name, figures in residuals.items()}
        for values, face, of in ((on_blur, colour, "blur"), (on_residuals, "white", "residual")):
            places = [list(residuals).index(name) for name in values]
            style = {"color": colour, "markerfacecolor": face, "label": f"{of} / {distractor}"}
            axis.plot(list(values.values()), places, "o", **style)
    axis.set_xscale("log")
    axis.set_xticks(SELECTIVITY_TICKS, [f"{tick:g}" for tick in SELECTIVITY_TICKS])
    axis.set_xticks([], minor=True)
    axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axis.set_title("Selectivity", fontsize=11)
    axis.set_xlabel("error of the noise / of the blur or residual\nthat is as far; squared error has 1")


def _draw_rewards(axis: "Axes", residuals: Arms) -> None:
    found = [rewards(figures, STEP_SIZES[0]) for figures in residuals.values()]
    for step, (mark, colour) in STEP_MARKS.items():
        axis.plot([row[step] for row in found], range(len(found)), mark, color=colour, label=step)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axis.set_title("Reward for a step from restored images", fontsize=11)
    axis.set_xlabel("fall of the distance / that for true detail;\nsquared error has 0")


def _draw_cosines(axis: "Axes", residuals: Arms) -> None:
    places = range(len(residuals))
    cosines = [figures["cosines"] for figures in residuals.values()]
    axis.barh(places, [row["all"]["median"] for row in cosines], height=0.6, color="#cccccc", label="all frequencies")
    for band, colour in BAND_COLOURS.items():
        axis.plot(
            [row[band]["median"] for row in cosines],
            places,
            "o",
            color=colour,
            markersize=5,
            label=f"{band} frequencies",
        )
    axis.set_title("Direction of the gradient", fontsize=11)
    axis.set_xlabel("cosine with the way to the sharp image")
