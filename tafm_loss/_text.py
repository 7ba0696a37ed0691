"""Tables for the terminal."""

from collections.abc import Sequence

__all__ = ["align"]


def align(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return the head, a rule and the rows as text in aligned columns; those numbered in `right` end together.

    >>> print(align(["name", "px"], [["shake", "10"], ["defocus", "5"]], right=[1]))
    name     px
    -----------
    shake    10
    defocus   5
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = []
    for line in lines:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text.append("  ".join(cells).rstrip())
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])
