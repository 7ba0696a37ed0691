"""The tables of one result, and of several side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from examples._common import count
from examples.deblurring.evaluation.metrics import ECC_FAILED, GAIN, UNSHOWN, column_of
from examples.deblurring.evaluation.statistics import CONFIDENCE, RESAMPLES, Difference, Summary
from examples.deblurring.evaluation.tables import NOTHING, Cell, Table, format_number

__all__ = ["difference_table", "method_table", "result_table", "scene_table"]

INTERVAL = f"{CONFIDENCE:.0%} interval"
SMALLEST_P = 1e-4
# Of fewer scenes, the percentile bootstrap is clearly too narrow.
FEW_SCENES = 10

Row = list[Cell]


def result_table(label: str, summary: Summary, notes: Sequence[str] = ()) -> Table:
    """Return the table of one method: means over images, their intervals, and means of the scenes' means."""
    columns = _columns([summary])
    rows = [
        [Cell(label), *_numbers(summary, summary.mean, columns)],
        [Cell(INTERVAL), *_intervals(summary, columns)],
        [Cell("mean of scenes"), *_numbers(summary, summary.mean_of_scenes, columns)],
    ]
    about = [
        f"Mean over {_size(summary)}.",
        _interval_note(len(summary.scenes)),
        _definitions(columns),
        *notes,
        *_remarks({label: summary}),
    ]
    return Table("Means", ["", *_headings(columns)], rows, about)


def scene_table(summary: Summary) -> Table:
    """Return the table of the means of the scenes."""
    columns = _columns([summary])
    rows = [
        [Cell(scene), Cell(str(summary.rows.scenes.count(scene))), *_numbers(summary, means, columns)]
        for scene, means in summary.scenes.items()
    ]
    return Table("Scenes", ["", "images", *_headings(columns)], rows)


def method_table(summaries: Mapping[str, Summary], notes: Sequence[str] = ()) -> Table:
    """Return the table of methods on the same images, the best of each column marked."""
    columns = _columns(summaries.values())
    rows = [[Cell(label), *_numbers(summary, summary.mean, columns)] for label, summary in summaries.items()]
    for index, column in enumerate(columns, start=1):
        _mark_best(rows, index, [_value(summary, summary.mean, column) for summary in summaries.values()], column)
    some = next(iter(summaries.values()))
    about = [
        f"Mean over {_size(some)}.",
        _definitions(columns),
        *notes,
        *_lacking(summaries, columns),
        *_remarks(summaries),
    ]
    return Table("Methods", ["", *_headings(columns)], rows, about)


def difference_table(first: str, differences: Mapping[str, Mapping[str, Difference]]) -> Table:
    """Return the table of differences from one method, metric by metric.

    Args:
        first: the label of that method.
        differences: {label of another method: {column: difference}}, their p-values adjusted.
    """
    columns = list(dict.fromkeys(column for found in differences.values() for column in found if column not in UNSHOWN))
    if all("psnr" in found for found in differences.values()):
        # The input's PSNR, which it is less, is the same for both.
        columns = [column for column in columns if column != GAIN]
    rows = [
        _difference_row(label, column, found[column])
        for column in columns
        for label, found in differences.items()
        if column in found
    ]
    some = next(iter(next(iter(differences.values())).values()))
    about = [
        f"Mean over images of the method's value less that of {first}.",
        _interval_note(some.scenes),
        *([_p_note(some)] if some.scenes > 1 else []),
    ]
    return Table(
        f"Differences from {first}",
        ["", "metric", "difference", INTERVAL, "p", "p after Holm", "scenes better"],
        rows,
        about,
    )


def _difference_row(label: str, column: str, difference: Difference) -> Row:
    # A digit more than the values have: what a loss changes is about as large as their last one.
    shown = column_of(column)
    digits = shown.digits + 1
    better = {1: difference.scenes_above, -1: difference.scenes_below}.get(shown.better)
    texts = (
        label,
        shown.heading,
        format_number(difference.mean, digits, sign=True),
        _interval_text(difference.interval, digits, sign=True),
        _p_text(difference.p),
        _p_text(difference.p_holm),
        NOTHING if better is None else f"{better} of {difference.scenes}",
    )
    return [Cell(text) for text in texts]


def _columns(summaries: Iterable[Summary]) -> list[str]:
    """The columns that any method has and a table shows."""
    return list(
        dict.fromkeys(column for summary in summaries for column in summary.rows.columns if column not in UNSHOWN)
    )


def _headings(columns: Iterable[str]) -> list[str]:
    return [column_of(column).heading for column in columns]


def _definitions(columns: Iterable[str]) -> str:
    shown = [column_of(column) for column in columns]
    texts = [f"{column.title}: {column.description}" for column in shown if column.description != column.title]
    return f"{'; '.join(texts)}. Restored images are not rounded, unless that is said."


def _value(summary: Summary, values: Tensor, column: str) -> float | None:
    return float(values[summary.rows.columns.index(column)]) if column in summary.rows.columns else None


def _numbers(summary: Summary, values: Tensor, columns: Iterable[str]) -> Row:
    numbers = {column: _value(summary, values, column) for column in columns}
    return [
        Cell(NOTHING if value is None else format_number(value, column_of(column).digits))
        for column, value in numbers.items()
    ]


def _intervals(summary: Summary, columns: Iterable[str]) -> Row:
    if summary.interval is None:
        return [Cell(NOTHING) for _ in columns]
    ends = dict(zip(summary.rows.columns, summary.interval.T.tolist(), strict=True))
    return [Cell(_interval_text(ends[column], column_of(column).digits)) for column in columns]


def _interval_text(ends: Sequence[float] | None, digits: int, *, sign: bool = False) -> str:
    if ends is None or any(math.isnan(end) for end in ends):
        return NOTHING
    return " to ".join(format_number(end, digits, sign=sign) for end in ends)


def _p_text(p: float | None) -> str:
    if p is None:
        return NOTHING
    return f"below {SMALLEST_P:g}" if p < SMALLEST_P else f"{p:.4f}"


def _mark_best(rows: list[Row], index: int, values: Sequence[float | None], column: str) -> None:
    """Mark the cells that show what the best of the values shows."""
    better = column_of(column).better
    known = {row: value for row, value in enumerate(values) if value is not None and not math.isnan(value)}
    if not better or len(known) < 2:
        return
    best = rows[max(known, key=lambda row: better * known[row])][index].text
    for row in rows:
        if row[index].text == best:
            row[index] = Cell(best, best=True)


def _interval_note(scenes: int) -> str:
    if scenes < 2:
        return "One scene only: no interval, for its mean does not say how the mean of another scene would differ."
    how = f"{INTERVAL}: bootstrap over the {scenes} scenes, with all their images, {RESAMPLES:,} resamples."
    return f"{how} Of fewer than {FEW_SCENES} scenes, it is too narrow." if scenes < FEW_SCENES else how


def _p_note(some: Difference) -> str:
    how = "all patterns of signs" if some.exact else f"{RESAMPLES:,} random patterns of signs"
    return (
        f"p: sign-flip test over the scenes, two-sided, {how}; adjusted for the number of methods, in each metric, by "
        "Holm's method. Intervals and p tell how these weights would do on other scenes; they do not tell what another "
        "training, from another seed, would come to."
    )


def _lacking(summaries: Mapping[str, Summary], columns: Iterable[str]) -> list[str]:
    """Say which metrics not all methods have."""
    without = {
        column: [label for label, summary in summaries.items() if column not in summary.rows.columns]
        for column in columns
    }
    return [
        f"{column_of(column).title} was not measured of {', '.join(labels)}."
        for column, labels in without.items()
        if labels
    ]


def _remarks(summaries: Mapping[str, Summary]) -> list[str]:
    """Say what a mean hides: values that are not finite, and images that could not be aligned."""
    remarks = []
    for label, summary in summaries.items():
        for column in summary.rows.columns:
            values = summary.rows.column(column)
            if column == ECC_FAILED and (failed := int(values.sum())):
                remarks.append(f"{label}: ECC did not converge on {count(failed, 'image')}, measured unaligned.")
            if column in UNSHOWN:
                continue
            title = column_of(column).title
            if infinite := int(values.isinf().sum()):
                remarks.append(f"{label}: {title} is infinite on {count(infinite, 'image')}, and so is its mean.")
            if undefined := torch.isnan(values).nonzero().flatten().tolist():
                first = summary.rows.names[undefined[0]]
                remarks.append(
                    f"{label}: {title} is not a number on {count(len(undefined), 'image')}, the first {first}, and so "
                    "is its mean."
                )
    return remarks


def _size(summary: Summary) -> str:
    return f"{count(len(summary.rows.names), 'image')} of {count(len(summary.scenes), 'scene')}"
