"""Several results on the same images side by side: tables, differences from the first, and a page."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from examples._common import write_atomically
from examples.deblurring.evaluation.metrics import GAIN, INPUT_PSNR
from examples.deblurring.evaluation.page import PLACE, Example, make_gallery, render_page
from examples.deblurring.evaluation.result_tables import difference_table, method_table
from examples.deblurring.evaluation.results import Result, describe, read_result
from examples.deblurring.evaluation.settings import SETTINGS_FILE
from examples.deblurring.evaluation.statistics import (
    SEED,
    Difference,
    adjusted,
    as_json,
    json_number,
    paired_difference,
    summarise,
)
from examples.deblurring.evaluation.tables import Table, as_latex, as_markdown

__all__ = ["compare"]

# Only on the same images, made in the same way, is a difference one of methods.
SAME = ("dataset", "split", "dataset_options")
# dB: two devices differ by less in the PSNR of the same input, and other pixels by more.
SAME_INPUT = 1e-3


def compare(folders: Sequence[Path], out: Path, *, device: torch.device) -> list[Table]:
    """Write comparison.json, table.md, table.tex and page.html to `out`, and return the tables.

    Args:
        folders: of two evaluations or more; the first one is what the others are compared with.
        out: a folder; files of an earlier comparison are replaced.
        device: where images that were not saved are restored for the page, which has no crops if they cannot be.

    Raises:
        ValueError: for fewer than two folders, results on other images, files that cannot be read, or an `out` that is
            the folder of an evaluation.
        OSError: if a file is missing or cannot be written.
    """
    if len(folders) < 2:
        raise ValueError(f"a comparison needs two results or more, got {len(folders)}")
    if (out / SETTINGS_FILE).exists():
        raise ValueError(f"{out} holds an evaluation, whose tables the comparison's would replace: name another folder")
    results = {label: read_result(folder) for label, folder in _labelled(folders).items()}
    _check_data(results)
    _check_input(results)
    (first, reference), *others = results.items()
    differences = adjusted(
        {label: paired_difference(reference.rows, result.rows, seed=SEED) for label, result in others}
    )
    for found in differences.values():
        del found[INPUT_PSNR]
    summaries = {label: summarise(result.rows) for label, result in results.items()}
    tables = [method_table(summaries, _notes(results)), difference_table(first, differences)]
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "results": {
            label: {"folder": str(results[label].folder), **as_json(found)} for label, found in summaries.items()
        },
        "differences_from": first,
        "differences": {
            label: {column: _as_json(difference) for column, difference in found.items()}
            for label, found in differences.items()
        },
    }
    write_atomically(out / "comparison.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(out / "table.md", "\n".join(map(as_markdown, tables)).encode())
    write_atomically(out / "table.tex", "\n".join(map(as_latex, tables)).encode())
    write_atomically(out / "page.html", render_page(" / ".join(results), tables, *_crops(results, device)).encode())
    return tables


def _labelled(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folders by their names, or by their paths if two have the same name."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"a result is given twice: {', '.join(map(str, folders))}")
    labelled = {folder.resolve().name: folder for folder in folders}
    return labelled if len(labelled) == len(folders) else {str(folder): folder for folder in folders}


def _check_data(results: Mapping[str, Result]) -> None:
    (first, reference), *others = results.items()
    for label, result in others:
        for field in SAME:
            there, here = (getattr(found.settings, field) for found in (reference, result))
            if there != here:
                raise ValueError(
                    f"{first} and {label} are not of the same images: {field} is {json.dumps(there)} and "
                    f"{json.dumps(here)}; evaluate both on the same"
                )


def _check_input(results: Mapping[str, Result]) -> None:
    """Raise ValueError unless the blurred images are as far from the sharp ones in all results."""
    (first, reference), *others = results.items()
    there = reference.rows.column(INPUT_PSNR)
    for label, result in others:
        here = result.rows.ordered_as(reference.rows).column(INPUT_PSNR)
        if changed := (~torch.isclose(there, here, rtol=0, atol=SAME_INPUT)).nonzero().flatten().tolist():
            place = changed[0]
            raise ValueError(
                f"{first} and {label} are not of the same images: of {len(changed)}, the input has another PSNR, the "
                f"first {reference.rows.names[place]} with {float(there[place]):.3f} and {float(here[place]):.3f} dB; "
                "evaluate both on the same"
            )


def _crops(results: Mapping[str, Result], device: torch.device) -> tuple[str, list[Example]]:
    """Return by which rule images were chosen, and crops of them; without data or weights, why there are none."""
    (first, reference), *others = results.items()
    gains = torch.stack([result.rows.ordered_as(reference.rows).column(GAIN) for _, result in others]).mean(0)
    try:
        examples = make_gallery(results, gains - reference.rows.column(GAIN), device)
    except (OSError, ValueError) as error:
        reason = f"There are no crops, for images cannot be restored again: {error}"
        warnings.warn(reason, stacklevel=2)
        return reason, []
    return (
        f"The images with the greatest, the median and the least gain in PSNR over {first}, mean of the other methods. "
        f"{PLACE}"
    ), examples


def _notes(results: Mapping[str, Result]) -> list[str]:
    notes = [f"{label}: {describe(result)}" for label, result in results.items()]
    if len({result.settings.version for result in results.values()}) > 1:
        notes.append("These results are of different versions of tafm-loss: differences may come from that.")
    return notes + [
        f"{label}: {name} is missing: {reason}"
        for label, result in results.items()
        for name, reason in result.missing.items()
    ]


def _as_json(difference: Difference) -> dict[str, Any]:
    fields = difference._asdict() | {"mean": json_number(difference.mean)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
