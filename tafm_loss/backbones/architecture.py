"""What is asked of every architecture that has a name, and networks that are a chain of modules."""

import abc
import bisect
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tafm_loss.backbones.config import BackboneConfig, Tap

__all__ = ["Architecture", "Bundled", "Download", "HubFile", "Step", "TappedNetwork", "measure_taps", "smallest_size"]

LARGEST_MINIMUM = 64
PERIOD = 512


class Bundled(NamedTuple):
    """Weights in the package `tafm_loss.backbones.assets`, and their SHA-256."""

    file: str
    sha256: str


class Download(NamedTuple):
    """Weights in torchvision's cache: file name, address, and the digits that their SHA-256 begins with."""

    file: str
    url: str
    digits: str


class HubFile(NamedTuple):
    """Weights in a public repository on the Hugging Face Hub."""

    file: str
    repo_id: str


class Architecture(abc.ABC):
    """A network that can be cut after any of its taps, and where its default weights are.

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

    @property
    @abc.abstractmethod
    def default_weights(self) -> Bundled | Download | HubFile:
        """Where the default weights are."""

    @property
    @abc.abstractmethod
    def default_weights_name(self) -> str:
        """What the default weights are called, for `BackboneConfig.base_weights`."""

    def random_part(self, tensor_names: Iterable[str]) -> dict[str, Tensor]:
        """Return weights, drawn from PyTorch's global generator, for a part that a file of default weights lacks."""
        return {}

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


class Step(NamedTuple):
    """One module of a chain: where it is in the model, and the tap that its output is, if any."""

    path: str
    tap: str | None = None


class TappedNetwork(nn.Module):
    """The modules of `model` at `steps`, in that order, up to the deepest of `layers`.

    The modules keep the names that they have in `model`, so that a state dict of `model` fits. Activations that
    would overwrite their input are told not to: a tap before one would change after it was read.
    """

    def __init__(self, model: nn.Module, steps: Sequence[Step], layers: Iterable[str]) -> None:
        super().__init__()
        wanted = set(layers)
        last = max(index for index, step in enumerate(steps) if step.tap in wanted)
        self.steps = tuple(Step(path, tap if tap in wanted else None) for path, tap in steps[: last + 1])
        for path, _ in self.steps:
            self._place(path, model.get_submodule(path))
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def _place(self, path: str, module: nn.Module) -> None:
        parent: nn.Module = self
        *parents, leaf = path.split(".")
        for name in parents:
            if not hasattr(parent, name):
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        parent.add_module(leaf, module)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {tap: features} of normalised images (N, 3, H, W)."""
        features: dict[str, Tensor] = {}
        x = images
        for path, tap in self.steps:
            x = self.get_submodule(path)(x)
            if tap is not None:
                features[tap] = x
        return features


def measure_taps(network: nn.Module) -> dict[str, Tap]:
    """Return channels and stride of every tap of `network`, which must be in evaluation mode.

    An image that is larger by a multiple of the stride gives a map that is larger by exactly that multiple,
    whatever the padding, so the stride follows from two sizes.
    """
    small, large = _shapes(network, PERIOD), _shapes(network, 2 * PERIOD)
    return {tap: Tap(small[tap][1], PERIOD // (large[tap][3] - small[tap][3])) for tap in small}


def smallest_size(network: nn.Module) -> int:
    """Return the smallest image height and width, in px, that `network` takes."""
    sizes = range(1, LARGEST_MINIMUM + 1)
    index = bisect.bisect_left(sizes, True, key=lambda size: _takes(network, size))
    if index == len(sizes):
        raise ValueError(f"the network does not take an image of {LARGEST_MINIMUM} x {LARGEST_MINIMUM} px")
    return sizes[index]


def _takes(network: nn.Module, size: int) -> bool:
    try:
        _shapes(network, size)
    except RuntimeError:
        return False
    return True


@torch.no_grad()
def _shapes(network: nn.Module, size: int) -> dict[str, torch.Size]:
    # A batch of no image goes through every check of sizes and through no arithmetic.
    like = next(network.parameters())
    features: dict[str, Tensor] = network(like.new_empty(0, 3, size, size))
    return {tap: tensor.shape for tap, tensor in features.items()}
