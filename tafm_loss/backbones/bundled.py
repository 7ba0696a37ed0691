"""Networks of this package whose weights are in the package, and what such networks share."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tafm_loss.backbones.architecture import Architecture, Bundled, measure_taps
from tafm_loss.backbones.config import BackboneConfig, Tap

__all__ = ["BundledArchitecture", "replicate_border", "without_autocast"]


class BundledArchitecture(Architecture):
    """A network that is read at all of its taps, and whose config is written beside its code.

    Args:
        config: of the network with all of its taps.
        weights: the file in the package.
    """

    source = "tafm-loss"

    def __init__(self, config: BackboneConfig, weights: Bundled) -> None:
        self.name = config.architecture
        self.licence = config.licence
        self.training_data = config.training_data
        self.mean = config.mean
        self.std = config.std
        self._config = config
        self._weights = weights

    @property
    def taps(self) -> tuple[str, ...]:
        """Every tap, from shallow to deep."""
        return tuple(self._config.taps)

    @property
    def default_weights(self) -> Bundled:
        """The file in the package."""
        return self._weights

    @property
    def default_weights_name(self) -> str:
        """What that file is called, for `BackboneConfig.base_weights`."""
        return f"{self._weights.file} in the package"

    def default_layers(self) -> tuple[str, ...]:
        """Return every tap."""
        return self.taps

    def measure(self, network: nn.Module) -> tuple[dict[str, Tap], int]:
        """Return the taps of `network` and the smallest image size, in px."""
        return measure_taps(network.eval()), self._config.minimum_size

    def accepts(self, tensor_name: str) -> bool:
        """Whether the network with all of its taps has a tensor of that name."""
        return tensor_name in self.build_empty(self.taps).state_dict()


def without_autocast(images: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast leaves operations on the device of `images` alone."""
    # Tensors without values, on the device "meta", know no autocast.
    kind = images.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def replicate_border(images: Tensor, width: int) -> Tensor:
    """Return images (N, C, H, W) with their outermost pixels repeated `width` times on every side.

    By concatenation, because the gradient of PyTorch's replicating `pad` does not compile for a CPU.
    """
    for axis in (-2, -1):
        first, last = images.narrow(axis, 0, 1), images.narrow(axis, -1, 1)
        images = torch.cat([*[first] * width, images, *[last] * width], axis)
    return images
