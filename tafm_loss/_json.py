"""JSON from strangers: what the standard reader lets through is refused here."""

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

__all__ = ["read_object"]


def read_object(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object that `data` holds.

    Raises:
        ValueError: if it is no UTF-8, no JSON, no object, nested too deeply, or holds a key twice or a number that is
            not finite.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"numbers must be finite, got {text}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return fields
