"""What a backbone is: a network with named taps, and the facts that must travel with its weights."""

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from tafm_loss._files import read_object
from tafm_loss.images import check_images

__all__ = ["Backbone", "BackboneConfig", "Tap", "check_features"]

LARGEST_MINIMUM = 512


class Tap(NamedTuple):
    """One place where features are read: its number of channels and its stride in px."""

    channels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Everything about a backbone that its weights do not say.

    Args:
        name: what it is called, as in `create_backbone(name)`.
        architecture: which network the weights fit; a name that `list_backbones` knows.
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
        required = {"name", "architecture", "taps", "mean", "std", "minimum_size"}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"unknown fields in the backbone config: {', '.join(unknown)}")
        if missing := sorted(required - fields.keys()):
            raise ValueError(f"missing fields in the backbone config: {', '.join(missing)}")
        for name, value in fields.items():
            _check_field(name, value)
        fields["taps"] = {name: Tap(*tap) for name, tap in fields["taps"].items()}
        fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
        if not fields.get("recommended_layers", {}).keys() <= fields["taps"].keys():
            raise ValueError(f"recommended_layers in the backbone config must be of {', '.join(fields['taps'])}")
        return cls(**fields)


def _check_field(name: str, value: Any) -> None:
    expected, holds = _FIELD_KINDS.get(name, ("text", lambda value: isinstance(value, str)))
    if not holds(value):
        raise ValueError(f"{name} in the backbone config must be {expected}, got {str(value)[:60]}")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_tap(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_size, value))


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _maps(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(holds, value.values()))


_FIELD_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "taps": ("{name: [channels, stride]}", lambda value: _maps(value, _is_tap) and bool(value)),
    "mean": ("three numbers", _is_colour),
    "std": ("three positive numbers", lambda value: _is_colour(value) and min(value) > 0),
    "minimum_size": (
        f"an integer from 1 to {LARGEST_MINIMUM}",
        lambda value: _is_size(value) and value <= LARGEST_MINIMUM,
    ),
    "spatial": ("true or false", lambda value: isinstance(value, bool)),
    "recommended_layers": ("{tap: positive number}", lambda value: _maps(value, _is_positive)),
    "units": (
        "{distance: {tap: positive number}}",
        lambda value: _maps(value, lambda units: _maps(units, _is_positive)),
    ),
    "measurements": ("an object", lambda value: isinstance(value, dict)),
}


class Backbone(nn.Module):
    """A network that turns images in [0, 1] into features at named taps.

    Args:
        network: maps normalised images (N, 3, H, W) to a dict that holds one tensor for every tap of
            `config`: (N, C, H', W'), or (N, C) if `config.spatial` is False.
        config: the facts about it.

    Attributes:
        source: "hf-hub:owner/name@commit" if it was loaded from the Hub, else None.
    """

    mean: Tensor
    std: Tensor
    source: str | None = None

    def __init__(self, network: nn.Module, config: BackboneConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self._state_names = tuple(network.state_dict())
        self._frozen = False
        self.register_buffer("mean", torch.tensor(config.mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {tap: features} of images (N, 3, H, W), RGB in [0, 1], of any floating type.

        Raises:
            TypeError: if `images` is no floating-point tensor, or the network returns no dict.
            ValueError: if its shape is another, or smaller than `config.minimum_size`.
        """
        check_images(images, "images", minimum_size=self.config.minimum_size)
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        features = self.network(normalised)
        if not isinstance(features, dict):
            raise TypeError(f"the network must return {{tap: features}}, got {type(features).__name__}")
        return features

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode; a frozen backbone stays in evaluation mode. Returns self."""
        return super().train(mode and not self._frozen)

    def state(self) -> dict[str, Tensor]:
        """Return the network's weights by name, also when the backbone is frozen."""
        tensors: dict[str, Tensor] = dict(self.network.named_parameters(remove_duplicate=False))
        tensors.update(self.network.named_buffers(remove_duplicate=False))
        return {name: tensors[name].detach() for name in self._state_names}

    def serialise(self) -> bytes:
        """Return weights and config as the bytes of a safetensors file, the same bytes for the same backbone.

        Floating-point weights are written in float32, in which they are loaded.
        """
        tensors = {
            name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous().clone()
            for name, tensor in self.state().items()
        }
        return safetensors.torch.save(tensors, metadata={"config": self.config.to_json()})

    @property
    def sha256(self) -> str:
        """The SHA-256 of `serialise()`, that is, of the file that `save_backbone` writes."""
        return hashlib.sha256(self.serialise()).hexdigest()

    def frozen_copy(self) -> "Backbone":
        """Return a copy that holds no parameter and no state, and stays in evaluation mode for good.

        Its weights become non-persistent buffers: they move with the module that holds the copy, but no
        optimiser, checkpoint or gradient sees them.
        """
        frozen = copy.deepcopy(self)
        frozen.requires_grad_(False)
        for module in frozen.network.modules():
            _parameters_to_buffers(module)
        frozen._frozen = True
        return frozen.eval()

    def extra_repr(self) -> str:
        """Return the name and the taps."""
        return f"name={self.config.name!r}, taps={list(self.config.taps)}"


@torch.no_grad()
def check_features(backbone: Backbone) -> None:
    """Try a backbone in evaluation mode on the smallest image, and compare what it returns with its config.

    Raises:
        ValueError: if it does not take the image, or lacks a tap, or one has other channels or dimensions.
    """
    size = backbone.config.minimum_size
    try:
        features = backbone(backbone.mean.new_zeros(1, 3, size, size))
        found = {name: (tensor.dim(), tensor.shape[1]) for name, tensor in features.items()}
    except Exception as error:  # the network may be anybody's, and raise anything
        raise ValueError(f"the network does not take an image of {size} px, as its config says: {error}") from error
    dimensions = 4 if backbone.config.spatial else 2
    expected = {name: (dimensions, tap.channels) for name, tap in backbone.config.taps.items()}
    if not expected.items() <= found.items():
        raise ValueError(f"its config has the {{tap: (dimensions, channels)}} {expected}, the network {found}")


def _parameters_to_buffers(module: nn.Module) -> None:
    # Without `remove_duplicate=False` the second name of a tied parameter would stay a parameter.
    tensors: dict[str, Tensor] = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    tensors.update(module.named_buffers(recurse=False, remove_duplicate=False))
    for name, tensor in tensors.items():
        delattr(module, name)
        module.register_buffer(name, tensor.detach(), persistent=False)
