"""The demo from scenes to table and pictures."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from tafm_loss._files import require_matplotlib, write_figure
from tafm_loss._text import align
from tafm_loss.demo.data import HELD_OUT_SIZE, NOISE, Pairs, generated_pairs, photograph_pairs
from tafm_loss.demo.evaluation import best_mask, count_better, format_table, measure, restore
from tafm_loss.demo.pictures import plot_response, plot_restorations
from tafm_loss.demo.training import GRADIENT_RATIO, train_arms
from tafm_loss.losses import TaskAdaptiveFeatureLoss
from tafm_loss.report.figures import response

__all__ = ["DemoResult", "run_demo"]

RESPONSE_EXTENTS = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.5, 6.5, 10.0, 14.0, 19.0, 25.0)
RESPONSE_SCENES = 6
UNIT_EXTENT = 10.0


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Args:
        head: the table's column headings.
        rows: the table's rows: a name, then means over the held-out scenes.
        notes: what must be known to read the table.
        files: the pictures that were written.
    """

    head: list[str]
    rows: list[list[str]]
    notes: list[str]
    files: list[Path]

    def __str__(self) -> str:
        """Return the table as text, with the notes and files below."""
        table = align(self.head, self.rows, right=range(1, len(self.head)))
        return "\n".join([table, "", *self.notes, "", *(f"wrote {path}" for path in self.files)])


def run_demo(
    *, images: Path | None = None, out: Path = Path("demo-out"), steps: int = 2400, seed: int = 0, progress: bool = True
) -> DemoResult:
    """Train a small deblurring network with L1 and with L1 + `TaskAdaptiveFeatureLoss`, and compare them.

    Writes `demo.png` and `response.png` into `out`, over those of an earlier demo. The same seed gives the same result
    on the same machine; the global random state is left alone.

    Args:
        images: a folder of photographs; None takes generated scenes.
        out: the folder for the pictures; made if need be.
        steps: how long each arm is trained; the first two thirds are shared.
        seed: of the scenes, the blur, the network and the batches.
        progress: whether to show a progress bar.

    Raises:
        ModuleNotFoundError: if matplotlib is missing.
        NotADirectoryError: if `images` is no folder.
        FileExistsError: if `out` is a file.
        ValueError: if `images` holds too few photographs or one that cannot be read, or `steps` is less than 3.
    """
    if steps < 3:
        raise ValueError(f"steps must be at least 3, got {steps}")
    require_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    training, held_out = generated_pairs(generator) if images is None else photograph_pairs(images, generator)
    arms = train_arms(training, TaskAdaptiveFeatureLoss(), steps=steps, seed=seed, progress=progress)
    pixel, feature = (restore(network, held_out.blurred) for network in (arms.pixel, arms.feature))
    mask = best_mask(pixel, held_out.sharp)
    restored = {
        "blurred input": held_out.blurred,
        "L1": pixel,
        "L1 + unsharp mask": mask(pixel),
        "L1 + TAFM": feature,
    }
    values = measure(restored, held_out.sharp)
    head, rows = format_table(values)
    kind = "generated scenes" if images is None else "photographs"
    notes = [
        f"Means over {len(held_out.sharp)} held-out {kind}, blurred by a shake of 5 to 8 px with noise of {NOISE:g}.",
        f"L1 + TAFM is L1 + {arms.weight:.3g} x TAFM: its gradient is {GRADIENT_RATIO:g} x that of L1 at the start.",
        f"The mask (sigma {mask.sigma:g} px, gain {mask.gain:g}) has the lowest GMSD on these very scenes.",
        f"Scenes on which L1 + TAFM is better than L1: {count_better(values['L1 + TAFM'], values['L1'])}; "
        f"than the mask: {count_better(values['L1 + TAFM'], values['L1 + unsharp mask'])}.",
    ]
    files = [
        _draw_restorations(held_out, pixel, feature, kind, out / "demo.png"),
        _draw_response(held_out.sharp, kind, seed, out / "response.png"),
    ]
    return DemoResult(head, rows, notes, files)


def _draw_restorations(held_out: Pairs, pixel: Tensor, feature: Tensor, kind: str, path: Path) -> Path:
    columns = {"blurred": held_out.blurred, "L1": pixel, "L1 + TAFM": feature, "sharp": held_out.sharp}
    caption = (
        f"Held-out {kind}, those of {len(held_out.sharp)} whose blur shows most, {HELD_OUT_SIZE} px wide; framed patch "
        "enlarged. Sharpness: gradient energy relative to the sharp image."
    )
    write_figure(plot_restorations(columns, held_out.sharp, caption), path)
    return path


def _draw_response(sharp: Tensor, kind: str, seed: int, path: Path) -> Path:
    loss = TaskAdaptiveFeatureLoss(reduction="none")
    scenes = sharp[:RESPONSE_SCENES]
    ours = response(loss, scenes, extents=RESPONSE_EXTENTS, seed=seed)
    squared = response(_mean_squared_error, scenes, extents=RESPONSE_EXTENTS, seed=seed)
    unit = squared[RESPONSE_EXTENTS.index(UNIT_EXTENT)].mean()
    curves = {f"TAFM ({loss.backbone.config.name})": ours, f"L2, scaled to 1 at {UNIT_EXTENT:g} px": squared / unit}
    caption = f"One shake of {len(scenes)} held-out {kind}, growing. Lines: mean; bands: all scenes."
    write_figure(plot_response(RESPONSE_EXTENTS, curves, caption), path)
    return path


def _mean_squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean((1, 2, 3))
