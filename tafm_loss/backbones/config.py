"""The facts about a backbone that its weights do not say, checked wherever they come from."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tafm_loss._files import read_object

__all__ = ["BackboneConfig", "Tap", "narrowed"]

LARGEST_MINIMUM = 512
LONGEST_ECHO = 60


class Tap(NamedTuple):
    """One place where features are read: its number of channels and its stride in px."""

    channels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Everything about a backbone that its weights do not say.

    Args:
        name: what it is called, as in `create_backbone(name)`.
        architecture: which network the weights fit; a name that `list_backbones` knows, or your own.
        taps: the features it returns, from shallow to deep.
        mean: what is subtracted from RGB in [0, 1], per channel.
        std: what the difference is divided by, per channel.
        minimum_size: the smallest image height and width it takes, in px.
        spatial: whether the taps are maps (N, C, H, W); False for embeddings (N, C).
        recommended_layers: {tap: weight}, what the loss compares unless it is told otherwise; if empty, all taps,
            averaged.
        recommended_distance: the distance in which it does.
        licence: SPDX identifier of the licence of the weights.
        base_weights: the weights it was tuned from, or that it is.
        training_data: the images it was tuned on.
        recipe: the command that makes it.
        units: {distance: {tap: value}}, the mean distance between validation images and themselves under a 10 px
            shake. A tap's distance is divided by it, so that 1 means the same for every backbone.
        measurements: what was measured on it when it was made.

    Raises:
        ValueError: if a field is of the wrong kind; the message names it.
    """

    name: str
    architecture: str
    taps: Mapping[str, Tap]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    minimum_size: int
    spatial: bool = True
    recommended_layers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    recommended_distance: str = "normalized_l2"
    licence: str = "unknown"
    base_weights: str = "none"
    training_data: str = "none"
    recipe: str = "none"
    units: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    measurements: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            expected, holds = _KINDS.get(field.name, _TEXT)
            if not holds(value):
                raise ValueError(
                    f"{field.name} in the backbone config must be {expected}, got {str(value)[:LONGEST_ECHO]}"
                )
        if not self.recommended_layers.keys() <= self.taps.keys():
            raise ValueError(f"recommended_layers in the backbone config must be of {', '.join(self.taps)}")
        # What JSON has as lists; a frozen dataclass can only be filled in this way.
        object.__setattr__(self, "taps", {name: Tap(*tap) for name, tap in self.taps.items()})
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    def to_json(self) -> str:
        """Return the config as JSON text, the same text for the same config.

        Raises:
            ValueError: if a number is not finite, for which JSON has no word.
        """
        fields = dataclasses.asdict(self)
        fields["taps"] = {name: list(tap) for name, tap in self.taps.items()}
        return json.dumps(fields, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "BackboneConfig":
        """Read what `to_json` wrote.

        Raises:
            ValueError: if the text is no JSON object, has missing or unknown fields, or one of the wrong kind.
        """
        try:
            fields = read_object(text)
        except ValueError as error:
            raise ValueError(f"a backbone config cannot be read: {error}") from None
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"unknown fields in the backbone config: {', '.join(unknown)}")
        if missing := sorted(_REQUIRED - fields.keys()):
            raise ValueError(f"missing fields in the backbone config: {', '.join(missing)}")
        return cls(**fields)


def narrowed(config: BackboneConfig, taps: Mapping[str, Tap]) -> BackboneConfig:
    """Return the config of the same backbone read at some of its taps alone."""
    units = {
        distance: {tap: unit for tap, unit in by_tap.items() if tap in taps}
        for distance, by_tap in config.units.items()
    }
    recommended = config.recommended_layers if config.recommended_layers.keys() <= taps.keys() else {}
    return dataclasses.replace(config, taps=taps, units=units, recommended_layers=recommended)


_REQUIRED = frozenset(("name", "architecture", "taps", "mean", "std", "minimum_size"))


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are(value: Any, number: int, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) == number and all(map(holds, value))


def _maps(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) and holds(item) for key, item in value.items())


_TEXT = ("text", lambda value: isinstance(value, str))
_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "taps": ("{name: [channels, stride]}", lambda value: bool(value) and _maps(value, lambda t: _are(t, 2, _is_size))),
    "mean": ("three numbers", lambda value: _are(value, 3, _is_number)),
    "std": ("three positive numbers", lambda value: _are(value, 3, _is_positive)),
    "minimum_size": (
        f"an integer from 1 to {LARGEST_MINIMUM}",
        lambda value: _is_size(value) and value <= LARGEST_MINIMUM,
    ),
    "spatial": ("true or false", lambda value: isinstance(value, bool)),
    "recommended_layers": ("{tap: positive number}", lambda value: _maps(value, _is_positive)),
    "units": ("{distance: {tap: positive number}}", lambda value: _maps(value, lambda u: _maps(u, _is_positive))),
    "measurements": ("an object", lambda value: isinstance(value, Mapping)),
}
