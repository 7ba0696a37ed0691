"""An evaluation from settings to a folder of results, which the same settings go on with after an interruption."""

import contextlib
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from examples._common import count, prefetch, write_atomically
from examples.deblurring.data.files import as_pixels, encode_png, named
from examples.deblurring.data.pairs import PairDataset, PairSample
from examples.deblurring.evaluation.methods import Method, open_method
from examples.deblurring.evaluation.metrics import ECC_FAILED, GAIN, INPUT_PSNR, Measurement
from examples.deblurring.evaluation.page import PLACE, SAVED_IMAGES, make_gallery, render_page
from examples.deblurring.evaluation.result_tables import result_table, scene_table
from examples.deblurring.evaluation.results import SUMMARY_FILE, Result, describe, open_data, write_summary
from examples.deblurring.evaluation.rows import ROWS_FILE, RowFile, read_rows
from examples.deblurring.evaluation.settings import Settings, check_folder, claim
from examples.deblurring.evaluation.similarity import psnr
from examples.deblurring.evaluation.statistics import summarise
from examples.deblurring.evaluation.tables import Table, as_latex, as_markdown
from tafm_loss.runs import locked

__all__ = ["evaluate"]


def evaluate(
    settings: Settings, folder: Path, *, device: torch.device, trunks: Path | None = None, progress: bool = True
) -> Table:
    """Restore and measure all images, and return the table of the means.

    Pairs that cannot be read are skipped and named, in a warning, in the table and in summary.json.

    Written to `folder`: settings.json, images.csv (a line an image, as they come), summary.json, table.md, table.tex,
    page.html and, if the settings say so, images/NAME.png. Images that are in images.csv are not measured again.

    Args:
        settings: what is evaluated.
        folder: a new folder, or one that the same settings have begun.
        device: where images are restored and measured.
        trunks: see `load_perceptual`. No setting, for its files can hold one thing only.
        progress: whether to show a bar.

    Raises:
        BlockingIOError: if another evaluation is writing to `folder`.
        ValueError: if `folder` is of other settings; if none of the metrics can be had, or no pair be read; if an image
            cannot be measured.
        FloatingPointError: if a network's output is not finite.
        OSError: if a file is missing or cannot be written.
    """
    pairs = open_data(settings)
    measure = Measurement(settings.metrics, device=device, niqe_parameters=settings.niqe_parameters, trunks=trunks)
    if not measure.columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in measure.missing.items())
        raise ValueError(f"none of the metrics can be had: {reasons}")
    method = open_method(settings.network, device)
    check_folder(folder, settings)
    with locked(folder, SAVED_IMAGES):
        claim(folder, settings)
        rows = RowFile(folder / ROWS_FILE, [*measure.columns, GAIN, INPUT_PSNR])
        images = folder / SAVED_IMAGES if settings.save_images else None
        indices = range(len(pairs))[: settings.limit]
        _check_done(rows, pairs, indices)
        todo = [index for index in indices if pairs.pairs[index].name not in rows.done]
        if todo:
            # Of fewer images, if the limit has grown.
            (folder / SUMMARY_FILE).unlink(missing_ok=True)
        skipped = _measure_all(pairs, todo, method, measure, rows, images, device, progress)
        if not rows.done:
            name, reason = next(iter(skipped.items()))
            raise ValueError(f"none of the {len(skipped)} pairs can be read; {name}: {reason}")
        result = Result(folder, settings, read_rows(rows.path), measure.missing, len(pairs), skipped)
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
    todo: Sequence[int],
    method: Method,
    measure: Measurement,
    rows: RowFile,
    images: Path | None,
    device: torch.device,
    progress: bool,
) -> dict[str, str]:
    """Add the rows of the images, and return the names of those that cannot be read, with the reasons."""
    skipped = {}
    if images is not None:
        images.mkdir(exist_ok=True)
    done = len(rows.done)
    bar = tqdm(todo, disable=not progress, initial=done, total=done + len(todo), desc="evaluate", unit="image")
    with contextlib.closing(prefetch(functools.partial(_read, pairs), todo)) as samples:
        for index, sample in zip(bar, samples, strict=True):
            pair = pairs.pairs[index]
            if isinstance(sample, str):
                warnings.warn(f"skipped {pair.name}: {sample}", stacklevel=3)
                skipped[pair.name] = sample
                continue
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
            rows.add(pair.name, pair.scene, {**values, **_gain(restored, blurred, sharp)})
    return skipped


def _read(pairs: PairDataset, index: int) -> PairSample | str:
    """Return a pair, or why it cannot be read."""
    try:
        return pairs[index]
    except (ValueError, OSError) as error:
        return str(error)


def _gain(restored: Tensor, blurred: Tensor, sharp: Tensor) -> dict[str, float]:
    after, before = (float(psnr(image[None], sharp[None])) for image in (restored, blurred))
    # Not infinity less infinity, where both are the sharp image.
    return {GAIN: 0.0 if after == before else after - before, INPUT_PSNR: before}


def _write_report(result: Result, device: torch.device) -> Table:
    summary = summarise(result.rows)
    failures = int(result.rows.column(ECC_FAILED).sum()) if ECC_FAILED in result.rows.columns else None
    write_summary(result, summary, ecc_failures=failures, device=str(device))
    notes = [describe(result), *(f"{name} is missing: {reason}" for name, reason in result.missing.items())]
    if result.skipped:
        notes.append(f"{count(len(result.skipped), 'pair')} cannot be read and left out: {named(result.skipped)}.")
    table = result_table(result.label, summary, notes)
    tables = [table, *([scene_table(summary)] if len(summary.scenes) < len(result.rows.names) else [])]
    write_atomically(result.folder / "table.md", "\n".join(map(as_markdown, tables)).encode())
    write_atomically(result.folder / "table.tex", "\n".join(map(as_latex, tables)).encode())
    by, quantity, what = (GAIN, "gain", "gain in PSNR over the input")
    if result.settings.network is None:
        by, quantity, what = (INPUT_PSNR, "PSNR", "PSNR")
    examples = make_gallery({result.label: result}, result.rows.column(by), device, quantity=quantity)
    rule = f"The images with the greatest, the median and the least {what}."
    page = render_page(result.label, tables, f"{rule} {PLACE}", examples)
    write_atomically(result.folder / "page.html", page.encode())
    return table
