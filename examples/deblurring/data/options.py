"""Options of data sets and networks as they are written on a command line."""

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["key_values"]

# What JSON does not know: the words of Python, YAML and people.
WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None}


def key_values(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Return the values of "width=32", "blur=blur_gamma" and "complete=False" by their keys.

    Numbers, lists and the like are written as in JSON, truth as true or false, yes or no in any case; the rest is text.

    Args:
        texts: KEY=VALUE each.
        option: what the command line calls them, for the error.

    Raises:
        ValueError: for a text that is no KEY=VALUE, or a key that comes twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"{option} takes KEY=VALUE, got {text}")
        if key in values:
            raise ValueError(f"{option} names {key} twice")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = WORDS.get(value.lower(), value)
    return values
