"""Backbones by name."""

import dataclasses
import importlib.resources
import os
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tafm_loss._text import did_you_mean
from tafm_loss.backbones.architecture import Architecture
from tafm_loss.backbones.backbone import Backbone, BackboneConfig, Tap
from tafm_loss.backbones.clip_towers import CLIP_TOWERS, IMAGE_SIZE, ClipResNetArchitecture, ClipViTArchitecture
from tafm_loss.backbones.compact import COMPACT_CONFIG, CompactNetwork
from tafm_loss.backbones.embedding import EmbeddingArchitecture
from tafm_loss.backbones.tapped import measure_taps
from tafm_loss.backbones.torchvision_networks import TORCHVISION_NAMES, TorchvisionArchitecture
from tafm_loss.weights.errors import WeightsFormatError, WeightsNotFoundError
from tafm_loss.weights.files import WeightFile, fill_network, read_weight_bytes, read_weights

__all__ = [
    "BackboneSummary",
    "create_backbone",
    "describe_backbones",
    "find_architecture",
    "from_weights",
    "list_backbones",
]

COMPACT_FILE = "tafm-compact.safetensors"
COMPACT_SHA256 = "0320c45c6512e2143a539faaef23134650bd67c4ad657b61d5779bd4664cf0c8"


@dataclasses.dataclass(frozen=True)
class BackboneSummary:
    """A line of the list of backbones.

    Args:
        name: what `create_backbone` calls it.
        source: the package that defines the network and provides its weights.
        taps: all that it can be read at, from shallow to deep.
        default_layers: those it is read at if none are asked for.
        parameters: how many weights it has up to the last of `default_layers`.
        licence: SPDX identifier of the licence of its default weights.
        weights: what these are, and where from.
    """

    name: str
    source: str
    taps: Mapping[str, Tap]
    default_layers: tuple[str, ...]
    parameters: int
    licence: str
    weights: str


class CompactArchitecture(Architecture):
    """The bundled network, with the weights in the package."""

    name = COMPACT_CONFIG.architecture
    source = "tafm-loss"
    licence = COMPACT_CONFIG.licence
    training_data = COMPACT_CONFIG.training_data
    mean = COMPACT_CONFIG.mean
    std = COMPACT_CONFIG.std
    taps = tuple(COMPACT_CONFIG.taps)
    default_weights_name = f"{COMPACT_FILE} in the package"

    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the network up to the deepest of `layers`, with PyTorch's random initialisation."""
        return CompactNetwork(layers)

    def build_empty(self, layers: Sequence[str]) -> nn.Module:
        """Return the network; its filters are constants that a network on the meta device would not have."""
        with torch.random.fork_rng(devices=[]):
            return self.build(layers)

    def default_layers(self) -> tuple[str, ...]:
        """Return every tap."""
        return self.taps

    def measure(self, network: nn.Module) -> tuple[dict[str, Tap], int]:
        """Return the taps of `network` and the smallest image size, in px."""
        return measure_taps(network.eval()), COMPACT_CONFIG.minimum_size

    def accepts(self, tensor_name: str) -> bool:
        """Whether the network with all of its taps has a tensor of that name."""
        return tensor_name in self.build_empty(self.taps).state_dict()

    def default_weights(self) -> WeightFile:
        """Return the bundled weights; raises WeightsError if the file in the package is not the one released."""
        asset = importlib.resources.files("tafm_loss.backbones") / "assets" / COMPACT_FILE
        try:
            data = asset.read_bytes()
        except OSError as error:
            raise WeightsNotFoundError(f"{asset} is missing from the installation; install tafm-loss again") from error
        return read_weight_bytes(data, str(asset), sha256=COMPACT_SHA256)


ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        CompactArchitecture(),
        *(TorchvisionArchitecture(name) for name in TORCHVISION_NAMES),
        *((ClipViTArchitecture if CLIP_TOWERS[name].patch else ClipResNetArchitecture)(name) for name in CLIP_TOWERS),
        EmbeddingArchitecture("clip-vit-b16-embedding", IMAGE_SIZE),
        EmbeddingArchitecture("clip-vit-b16-embedding-pooled", None),
    )
}


def list_backbones() -> list[str]:
    """Return the names that `create_backbone` knows, the bundled one first.

    >>> list_backbones()[:2]
    ['tafm-compact', 'alexnet']
    """
    return list(ARCHITECTURES)


def create_backbone(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = "default",
    layers: Sequence[str] | str | None = None,
) -> Backbone:
    """Return the backbone of that name, in evaluation mode.

    Args:
        name: one of `list_backbones()`.
        weights: "default" for the weights in the package (`tafm-compact`), torchvision's ImageNet weights or
            OpenAI's CLIP weights; a path to a .safetensors file or to a pickled state dict (.pth, .pt, .bin, read
            with `weights_only=True`) with the names of torchvision or open_clip, whose parts beyond the last tap
            may be there and are left aside; None for random weights, drawn from PyTorch's global generator as in
            any new module. CLIP's weights have no head for `clip-vit-b16-embedding` and its pooled form: it is drawn
            likewise, and means nothing until `finetune_backbone` has tuned it.
        layers: the taps to read; the network is cut after the deepest. By default the last tap of every resolution
            (so `relu1_2`, `relu2_2`, `relu3_3`, `relu4_3` and `relu5_3` for vgg16), every tap of `tafm-compact`,
            `block3` for CLIP's ViTs, `embedding` where they end in one, and what the file says for a file that this
            package wrote.

    Returns:
        A backbone that takes images (N, 3, H, W), RGB in [0, 1], and normalises them as its weights need.

    Raises:
        ValueError: if the name or a tap is unknown.
        WeightsError: if the weights cannot be had or do not fit.

    Warns:
        UserWarning: if `weights` is None, or a head is drawn.

    >>> create_backbone("tafm-compact").config.licence
    'Apache-2.0'
    """
    architecture = find_architecture(name)
    if layers is not None:
        layers = architecture.choose(layers)
    if weights is None:
        warnings.warn(
            f"the backbone {name} has random weights: its features mean nothing until they are trained; "
            'pass weights="default" for trained ones',
            UserWarning,
            stacklevel=2,
        )
        network = architecture.build(architecture.choose(layers))
        return Backbone(network, architecture.config(network, base_weights="none")).eval()
    file = architecture.default_weights() if weights == "default" else read_weights(weights)
    if isinstance(architecture, EmbeddingArchitecture) and architecture.lacks_head(file):
        warnings.warn(
            f"the head of the backbone {name} is random: its embedding means nothing until finetune_backbone has "
            "tuned it; save the result with save_backbone and load that",
            UserWarning,
            stacklevel=2,
        )
        file = architecture.with_random_head(file)
    return from_weights(architecture, file, layers=layers, default=weights == "default")


def describe_backbones() -> list[BackboneSummary]:
    """Return a line about each backbone, without reading or downloading weights."""
    return [_summary(architecture) for architecture in ARCHITECTURES.values()]


def find_architecture(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises:
        ValueError: if there is none; the message has the names that are near.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    advice = did_you_mean(name, ARCHITECTURES) or f"there are {', '.join(ARCHITECTURES)}"
    raise ValueError(f"no backbone is called {name!r}; {advice}")


def from_weights(
    architecture: Architecture, file: WeightFile, *, layers: Sequence[str] | None = None, default: bool = False
) -> Backbone:
    """Return the backbone that `file` holds, cut after the deepest of `layers`, in evaluation mode.

    Args:
        architecture: what the weights must fit.
        file: the weights, with a config if they were written by this package.
        layers: the taps to read; None for those of the file, or the default ones.
        default: whether the file holds the architecture's default weights.

    Raises:
        ValueError: if a tap is unknown.
        WeightsFormatError: if the weights or the config do not fit the architecture.
    """
    config = file.config
    if config is not None and config.architecture != architecture.name:
        raise WeightsFormatError(f"{file.name} holds a {config.architecture}, not a {architecture.name}")
    try:
        chosen = architecture.choose(layers if config is None or layers is not None else tuple(config.taps))
    except ValueError as error:
        if layers is not None:
            raise
        raise WeightsFormatError(f"the config in {file.name} does not fit: {error}") from error
    network = architecture.build_empty(chosen)
    exact = config is not None and layers is None
    fill_network(network, file, architecture.name, accepts=None if exact else architecture.accepts)
    if config is None:
        known = default or architecture.is_default(file)
        named = None if known else f"{file.name} (sha256 {file.sha256})"
        return Backbone(network, architecture.config(network, base_weights=named)).eval()
    return Backbone(network, _narrowed(config, architecture, network, file.name)).eval()


def _narrowed(config: BackboneConfig, architecture: Architecture, network: nn.Module, where: str) -> BackboneConfig:
    """Return `config` for the taps of `network` alone."""
    taps, minimum_size = architecture.measure(network)
    for name, tap in taps.items():
        if config.taps.get(name, tap) != tap:
            raise WeightsFormatError(
                f"the config in {where} says {name} is {config.taps[name]}, but the network has {tap}"
            )
    if taps == dict(config.taps):
        if config.minimum_size < minimum_size:
            raise WeightsFormatError(
                f"the config in {where} says that {config.minimum_size} px are enough, but {minimum_size} are needed"
            )
        return config
    units = {
        distance: {tap: unit for tap, unit in units_by_tap.items() if tap in taps}
        for distance, units_by_tap in config.units.items()
    }
    recommended = config.recommended_layers if config.recommended_layers.keys() <= taps.keys() else {}
    return dataclasses.replace(
        config, taps=taps, minimum_size=minimum_size, units=units, recommended_layers=recommended
    )


def _summary(architecture: Architecture) -> BackboneSummary:
    whole = architecture.build_empty(architecture.taps)
    taps, _ = architecture.measure(whole)
    default_layers = architecture.default_layers()
    return BackboneSummary(
        name=architecture.name,
        source=architecture.source,
        taps=taps,
        default_layers=default_layers,
        parameters=sum(parameter.numel() for parameter in architecture.build_empty(default_layers).parameters()),
        licence=architecture.licence,
        weights=architecture.default_weights_name,
    )
