"""A table of text, and its forms: Markdown, LaTeX and HTML."""

import html
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from examples._common import align

__all__ = ["NOTHING", "Cell", "Table", "as_html", "as_latex", "as_markdown", "as_text", "format_number"]

NOTHING = "-"
INFINITE = "∞"

# In a word an underscore is no mark of Markdown.
MARKDOWN_MARKS = re.compile(r"[\\`*<|]|(?<!\w)_|_(?!\w)")
# Of a number; a hyphen within a name or alone is none.
MINUS = re.compile(r"(?<!\S)-(?=[\d∞])")
LATEX_MARKS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "\N{MINUS SIGN}": "$-$",
    # At the start of a row it would be an option of the line break before.
    "[": "{[}",
    **{mark: f"\\{mark}" for mark in "{}%$&#_"},
}


class Cell(NamedTuple):
    """What stands in a cell, and whether it is the best of its column."""

    text: str
    best: bool = False


class Table(NamedTuple):
    """A table, not yet in any form.

    Args:
        title: what it shows.
        head: of the columns; the first one is of names.
        rows: of as many cells.
        notes: what must be known to read it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def format_number(value: float, digits: int, *, sign: bool = False) -> str:
    """Return a number as text, with its sign in any case if `sign`; ∞ and "not a number" if it is not finite."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}{INFINITE}"
    # Not "-0.00".
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def as_markdown(table: Table) -> str:
    """Return the table in Markdown (GitHub's), with its title above and its notes below."""
    lines = [
        f"**{_markdown(table.title)}**",
        "",
        _markdown_row([_markdown(text) for text in table.head]),
        _markdown_row(["---"] + ["---:"] * (len(table.head) - 1)),
        *(_markdown_row([_markdown_cell(cell) for cell in row]) for row in table.rows),
        "",
    ]
    for note in table.notes:
        lines += [_markdown(note), ""]
    return "\n".join(lines)


def as_latex(table: Table) -> str:
    r"""Return the table as a LaTeX `tabular` for the package booktabs; title and notes are comments."""
    lines = [
        *(f"% {_one_line(text)}" for text in (table.title, *table.notes)),
        f"\\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
        "\\toprule",
        _latex_row([_latex(text) for text in table.head]),
        "\\midrule",
        *(_latex_row([_latex_cell(cell) for cell in row]) for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "",
    ]
    return "\n".join(lines)


def as_text(table: Table) -> str:
    """Return the table for the terminal; what is best is marked with a star."""
    rows = [[f"{cell.text}*" if cell.best else cell.text for cell in row] for row in table.rows]
    return "\n".join([align(table.head, rows, right=range(1, len(table.head))), "", *table.notes])


def as_html(table: Table) -> str:
    """Return the table as HTML, the parts of class "table" and "notes"."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in table.head)
    rows = "\n".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table.rows)
    notes = "\n".join(f'<p class="notes">{html.escape(note)}</p>' for note in table.notes)
    return (
        f"<h2>{html.escape(table.title)}</h2>\n"
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n'
        f"{notes}"
    )


def _markdown(text: str) -> str:
    return MARKDOWN_MARKS.sub(lambda mark: f"\\{mark[0]}", _one_line(text))


def _markdown_cell(cell: Cell) -> str:
    return f"**{_markdown(cell.text)}**" if cell.best else _markdown(cell.text)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex(text: str) -> str:
    return "".join(LATEX_MARKS.get(mark, mark) for mark in MINUS.sub("\N{MINUS SIGN}", _one_line(text)))


def _latex_cell(cell: Cell) -> str:
    return f"\\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text)


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    return f"<td><strong>{text}</strong></td>" if cell.best else f"<td>{text}</td>"


def _one_line(text: str) -> str:
    return " ".join(text.split())
