"""Backbones by name."""

import dataclasses
from collections.abc import Mapping

from tafm_loss.backbones.architecture import Architecture
from tafm_loss.backbones.clip_towers import CLIP_TOWERS, IMAGE_SIZE, ClipResNetArchitecture, ClipViTArchitecture
from tafm_loss.backbones.compact import CompactArchitecture
from tafm_loss.backbones.config import Tap
from tafm_loss.backbones.discriminators import ARCHITECTURE as DISCRIMINATORS
from tafm_loss.backbones.embedding import EmbeddingArchitecture
from tafm_loss.backbones.lite import LiteArchitecture
from tafm_loss.backbones.torchvision_networks import TORCHVISION_NAMES, TorchvisionArchitecture

__all__ = ["ARCHITECTURES", "BackboneSummary", "describe_backbones", "is_ours", "list_backbones"]

ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        LiteArchitecture(),
        CompactArchitecture(),
        *(TorchvisionArchitecture(name) for name in TORCHVISION_NAMES),
        *((ClipViTArchitecture if CLIP_TOWERS[name].patch else ClipResNetArchitecture)(name) for name in CLIP_TOWERS),
        EmbeddingArchitecture("clip-vit-b16-embedding", IMAGE_SIZE),
        EmbeddingArchitecture("clip-vit-b16-embedding-pooled", None),
    )
}


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


def list_backbones() -> list[str]:
    """Return the names that `create_backbone` knows, the bundled ones first.

    >>> list_backbones()[:2]
    ['tafm-lite', 'tafm-compact']
    """
    return list(ARCHITECTURES)


def describe_backbones() -> list[BackboneSummary]:
    """Return a line about each backbone, without reading or downloading weights."""
    return [_summary(architecture) for architecture in ARCHITECTURES.values()]


def is_ours(architecture: str) -> bool:
    """Whether the code of the network that a config calls so is part of this package."""
    return architecture in ARCHITECTURES or architecture == DISCRIMINATORS


def _summary(architecture: Architecture) -> BackboneSummary:
    taps, _ = architecture.measure(architecture.build_empty(architecture.taps))
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
