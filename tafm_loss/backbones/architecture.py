"""What the registry asks of every architecture that it can name."""

import abc
from collections.abc import Sequence

import torch
from torch import nn

from tafm_loss.backbones.backbone import BackboneConfig, Tap
from tafm_loss.backbones.tapped import measure_taps, smallest_size
from tafm_loss.weights.files import WeightFile

__all__ = ["Architecture"]


class Architecture(abc.ABC):
    """A network that can be cut after any of its taps, and the default weights for it.

    Attributes:
        name: what it is called in `create_backbone`.
        source: the package that defines it.
        licence: SPDX identifier of the licence of the default weights.
        training_data: the images that the default weights were trained on.
        mean: what the default weights subtract from RGB in [0, 1].
        std: what they divide the difference by.
    """

    name: str
    source: str
    licence: str
    training_data: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    @abc.abstractmethod
    def taps(self) -> tuple[str, ...]:
        """Every tap, from shallow to deep."""

    @abc.abstractmethod
    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the network up to the deepest of `layers`, with random weights, on the default device."""

    @abc.abstractmethod
    def accepts(self, tensor_name: str) -> bool:
        """Whether the whole network, classifier included, has a tensor of that name."""

    @abc.abstractmethod
    def default_weights(self) -> WeightFile:
        """Return the default weights; raises WeightsError where they cannot be had."""

    @property
    @abc.abstractmethod
    def default_weights_name(self) -> str:
        """What the default weights are called, for `BackboneConfig.base_weights`."""

    def is_default(self, file: WeightFile) -> bool:
        """Whether `file`, read from a path, is known to hold the default weights."""
        return False

    def measure(self, network: nn.Module) -> tuple[dict[str, Tap], int]:
        """Return the taps of `network` and the smallest image size that it takes, in px."""
        return measure_taps(network.eval()), smallest_size(network.eval())

    def build_empty(self, layers: Sequence[str]) -> nn.Module:
        """Return the network with weights that are still to be filled in, leaving the random state alone."""
        with torch.device("meta"):
            return self.build(layers)

    def default_layers(self) -> tuple[str, ...]:
        """Return the taps that are read if none are asked for: the last one of every resolution."""
        network = self.build_empty(self.taps)
        last_of_stride = {tap.stride: name for name, tap in measure_taps(network.eval()).items()}
        return tuple(last_of_stride.values())

    def choose(self, layers: Sequence[str] | str | None) -> tuple[str, ...]:
        """Return the taps that are asked for, from shallow to deep, each once.

        Raises:
            ValueError: if a tap is unknown or none is left.
        """
        if layers is None:
            return self.default_layers()
        wanted = {layers} if isinstance(layers, str) else set(layers)
        if unknown := sorted(wanted - set(self.taps)):
            raise ValueError(f"{self.name} has no tap {', '.join(map(repr, unknown))}; it has {', '.join(self.taps)}")
        if not wanted:
            raise ValueError(f"layers must name at least one tap of {self.name}; it has {', '.join(self.taps)}")
        return tuple(tap for tap in self.taps if tap in wanted)

    def config(self, network: nn.Module, *, base_weights: str | None) -> BackboneConfig:
        """Return the config of `network` filled with the default weights, or with others if they are named."""
        taps, minimum_size = self.measure(network)
        return BackboneConfig(
            name=self.name,
            architecture=self.name,
            taps=taps,
            mean=self.mean,
            std=self.std,
            minimum_size=minimum_size,
            licence="unknown" if base_weights else self.licence,
            base_weights=base_weights or self.default_weights_name,
            training_data="unknown" if base_weights else self.training_data,
        )
