"""An evaluation from settings to a folder of results, which the same settings go on with after an interruption."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from examples.deblurring.data.files import encode_png
from examples.deblurring.data.pairs import PairDataset
from examples.deblurring.evaluation.columns import ECC_FAILED, GAIN
from examples.deblurring.evaluation.gallery import PLACE, SAVED_IMAGES, make_gallery
from examples.deblurring.evaluation.methods import Method, open_method
from examples.deblurring.evaluation.metrics import Measurement
from examples.deblurring.evaluation.page import render_page
from examples.deblurring.evaluation.pictures import as_pixels
from examples.deblurring.evaluation.result_tables import result_table, scene_table
from examples.deblurring.evaluation.results import Result, describe, open_data, write_summary
from examples.deblurring.evaluation.rows import ROWS_FILE, RowFile, read_rows
from examples.deblurring.evaluation.settings import Settings, claim
from examples.deblurring.evaluation.summary import summarise
from examples.deblurring.evaluation.tables import Table, as_latex, as_markdown
from tafm_loss._files import write_atomically
from tafm_loss._metrics import psnr
from tafm_loss.finetune.prefetch import prefetch

__all__ = ["evaluate"]

RULE = "The images with the greatest, the median and the least gain in PSNR over the input."


def evaluate(settings: Settings, folder: Path, *, device: torch.device, progress: bool = True) -> Table:
    """Restore and measure all images, and return the table of the means.

    Written to `folder`: settings.json, images.csv (a line an image, as they come), summary.json, table.md, table.tex,
    page.html and, if the settings say so, images/NAME.png. Images that are in images.csv are not measured again.

    Args:
        settings: what is evaluated.
        folder: a new folder, or one that the same settings have begun.
        device: where images are restored and measured.
        progress: whether to show a bar.

    Raises:
        ValueError: if `folder` is of other settings; if none of the metrics can be had; if an image cannot be measured.
        FloatingPointError: if a network's output is not finite.
        OSError: if a file is missing or cannot be written.
    """
    pairs = open_data(settings)
    measure = Measurement(settings.metrics, device=device, niqe_parameters=settings.niqe_parameters)
    if not measure.columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in measure.missing.items())
        raise ValueError(f"none of the metrics can be had: {reasons}")
    method = open_method(settings.network, device)
    claim(folder, settings)
    rows = RowFile(folder / ROWS_FILE, [*measure.columns, GAIN])
    images = folder / SAVED_IMAGES if settings.save_images else None
    indices = range(len(pairs))[: settings.limit]
    _check_done(rows, pairs, indices)
    _measure_all(pairs, indices, method, measure, rows, images, device, progress)
    result = Result(folder, settings, read_rows(rows.path), measure.missing, len(pairs))
    return _write_report(result, device)


def _check_done(rows: RowFile, pairs: PairDataset, indices: Sequence[int]) -> None:
    there = {pairs.pairs[index].name: pairs.pairs[index].scene for index in indices}
    if gone := [name for name, scene in rows.done.items() if there.get(name) != scene]:
        raise ValueError(
            f"{rows.path} holds {len(gone)} images that the data set does not have, the first {gone[0]}: name another "
            "folder, or delete this one"
        )


def _measure_all(
    pairs: PairDataset,
    indices: Sequence[int],
    method: Method,
    measure: Measurement,
    rows: RowFile,
    images: Path | None,
    device: torch.device,
    progress: bool,
) -> None:
    if images is not None:
        images.mkdir(exist_ok=True)
    todo = [index for index in indices if pairs.pairs[index].name not in rows.done]
    bar = tqdm(todo, disable=not progress, initial=len(rows.done), total=len(indices), desc="evaluate", unit="image")
    with contextlib.closing(prefetch(pairs.__getitem__, todo)) as samples:
        for index, sample in zip(bar, samples, strict=True):
            pair = pairs.pairs[index]
            blurred, sharp = (image.to(device) / 255 for image in sample)
            restored = method(blurred)
            if not bool(restored.isfinite().all()):
                raise FloatingPointError(f"the network's output for {pair.name} has values that are not finite")
            try:
                values = measure(restored, sharp)
            except ValueError as error:
                raise ValueError(f"{pair.name} cannot be measured: {error}") from error
            if images is not None:
                write_atomically(images / f"{pair.name}.png", encode_png(as_pixels(restored)))
            # Last: an image with a line is done.
            rows.add(pair.name, pair.scene, {**values, GAIN: _gain(restored, blurred, sharp)})


def _gain(restored: Tensor, blurred: Tensor, sharp: Tensor) -> float:
    after, before = (float(psnr(image[None], sharp[None])) for image in (restored, blurred))
    # Not infinity less infinity, where both are the sharp image.
    return 0.0 if after == before else after - before


def _write_report(result: Result, device: torch.device) -> Table:
    summary = summarise(result.rows)
    failures = int(result.rows.column(ECC_FAILED).sum()) if ECC_FAILED in result.rows.columns else None
    write_summary(result, summary, ecc_failures=failures, device=str(device))
    notes = [describe(result), *(f"{name} is missing: {reason}" for name, reason in result.missing.items())]
    table = result_table(result.folder.name, summary, notes)
    tables = [table, *([scene_table(summary)] if len(summary.scenes) < len(result.rows.names) else [])]
    write_atomically(result.folder / "table.md", "\n".join(map(as_markdown, tables)).encode())
    write_atomically(result.folder / "table.tex", "\n".join(map(as_latex, tables)).encode())
    examples = make_gallery({result.folder.name: result}, result.rows.column(GAIN), device)
    page = render_page(result.folder.name, tables, f"{RULE} {PLACE}", examples)
    write_atomically(result.folder / "page.html", page.encode())
    return table
