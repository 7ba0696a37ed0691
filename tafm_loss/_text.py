"""Text for people: tables for the terminal, and names for recipes."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["align", "did_you_mean", "differences", "natural_key", "stable_name"]


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


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the question that helps after a mistyped name; empty if none of the options is near.

    >>> did_you_mean("CLIP_ViT", ["clip-vit", "vgg16"])
    "did you mean 'clip-vit'?"
    """
    keys = {_folded(option): option for option in options}
    near = difflib.get_close_matches(_folded(name), keys)
    return f"did you mean {' or '.join(repr(keys[key]) for key in near)}?" if near else ""


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")


def stable_name(thing: Any) -> str:
    """Return what `thing` is called, the same in every process: its repr, or its name if that has an address in it."""
    text = repr(thing)
    if " at 0x" not in text:
        return text
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words which settings in a file are others than those of now; values as in JSON.

    >>> differences({"seed": 0, "kind": "shake"}, {"seed": 1, "kind": "shake"})
    ['seed is 0 there and 1 now']
    """
    return [
        f"{name} is {json.dumps(there.get(name))} there and {json.dumps(now.get(name))} now"
        for name in {**there, **now}
        if there.get(name) != now.get(name)
    ]


def natural_key(name: str) -> list[tuple[str, int]]:
    """Return a sorting key by which 9 comes before 10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]
