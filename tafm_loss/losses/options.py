"""Checks of what a loss is constructed with."""

import math
from collections.abc import Iterable, Mapping, Sequence

from tafm_loss._text import did_you_mean

__all__ = ["Layers", "checked_range", "checked_weight", "layer_names", "layer_weights", "require_one_of"]

Layers = str | Sequence[str] | Mapping[str, float]


def layer_names(layers: Layers) -> list[str]:
    """Return the taps that `layers` names."""
    return [layers] if isinstance(layers, str) else list(layers)


def layer_weights(layers: Layers | None, taps: Sequence[str]) -> dict[str, float]:
    """Return {tap: weight}: a mapping as it is, a sequence of names averaged, None for all of `taps` averaged.

    Raises:
        ValueError: if nothing is named, a name is not in `taps` or comes twice, or a weight is wrong.
    """
    names = list(taps) if layers is None else layer_names(layers)
    if not names:
        raise ValueError(f"layers must name at least one tap of {', '.join(taps)}")
    for name in names:
        require_one_of(name, taps, "layers")
    if len(set(names)) != len(names):
        raise ValueError(f"layers must name each tap once, got {', '.join(names)}")
    if isinstance(layers, Mapping):
        return {name: checked_weight(weight, f"the weight of layer {name}") for name, weight in layers.items()}
    return {name: 1 / len(names) for name in names}


def checked_weight(weight: float, name: str) -> float:
    """Return `weight` as a float; raise a ValueError if it is negative or not finite."""
    weight = float(weight)
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f"{name} must be finite and not negative, got {weight}")
    return weight


def checked_range(input_range: Sequence[float]) -> tuple[float, float]:
    """Return (black, white) as floats; raise a ValueError unless they are finite and black < white."""
    bounds = tuple(float(bound) for bound in input_range)
    if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
        raise ValueError(f"input_range must be two finite numbers (black, white) with black < white, got {input_range}")
    return bounds[0], bounds[1]


def require_one_of(value: str, options: Iterable[str], name: str) -> None:
    """Raise a ValueError that says which are near unless `value` is one of `options`."""
    options = list(options)
    if value not in options:
        near = did_you_mean(str(value), options)
        known = ", ".join(map(repr, options))
        raise ValueError(f"{name} must be one of {known}, got {value!r}{f'; {near}' if near else ''}")
