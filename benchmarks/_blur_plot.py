"""The picture of blur_throughput.json: images/s against the sizes of the kernel and of the image."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _blur_arms import OURS

from examples._common import write_atomically

Rows = list[dict[str, Any]]

BATCH = 8
KERNEL = 31
SIZE = 256
INCHES = (8.0, 4.4)
DOTS_PER_INCH = 150
COLOURS = 128


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the result's throughput on logarithmic axes and write it as PNG; of each peer the fastest arm counts."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator
    from PIL import Image

    rows: Rows = [row for row in result["throughput"] if row["batch"] == BATCH]
    panels = [
        ("kernel", f"kernel, px ({SIZE} px images)", [row for row in rows if row["size"] == SIZE]),
        ("size", f"image, px ({KERNEL} px kernels)", [row for row in rows if row["kernel"] == KERNEL]),
    ]
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (key, label, shown) in zip(axes, panels, strict=True):
        for peer in dict.fromkeys(row["peer"] for row in shown):
            points = fastest_by(key, (row for row in shown if row["peer"] == peer))
            emphasis = {"color": "black", "linewidth": 3, "zorder": 3} if peer == OURS else {"linewidth": 1.5}
            axis.plot(list(points), list(points.values()), marker="o", label=peer, **emphasis)
        ticks = sorted({row[key] for row in shown})
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"images/s, batch {BATCH}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    drawn, encoded = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    # Lines and text need few colours, and the file is a third of the size.
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(encoded, "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encoded.getvalue())


def fastest_by(key: str, rows: Iterable[dict[str, Any]]) -> dict[int, float]:
    """Return the largest images/s for each value of `key`, in rising order."""
    best: dict[int, float] = {}
    for row in rows:
        best[row[key]] = max(best.get(row[key], 0.0), row["images_per_s"])
    return dict(sorted(best.items()))
