"""What a backbone is: a network with named taps, and the facts that must travel with its weights."""

import copy
import hashlib

import safetensors.torch
import torch
from torch import Tensor, nn

from tafm_loss._ambient import usual_defaults
from tafm_loss.backbones.config import BackboneConfig
from tafm_loss.images import check_images

__all__ = ["Backbone", "came_from", "check_features"]

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    # The SHA-256 of the file, and what the backbone was when it was read.
    _file: tuple[str, BackboneConfig, int] | None = None

    @usual_defaults()
    def __init__(self, network: nn.Module, config: BackboneConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self._state_names = tuple(network.state_dict())
        self._frozen = False
        numbers = (*network.parameters(), *network.buffers())
        like = next((tensor for tensor in numbers if tensor.is_floating_point()), torch.empty(0))
        self.register_buffer("mean", like.new_tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", like.new_tensor(config.std).view(3, 1, 1), persistent=False)

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
        """The SHA-256 of the file that it was loaded from, whether or not it was cut; else of `serialise()`.

        Weights or a config that were changed after loading are no longer those of the file.
        """
        if self._file is not None and self._file[1:] == (self.config, self._checksum()):
            return self._file[0]
        return hashlib.sha256(self.serialise()).hexdigest()

    def _checksum(self) -> int:
        """Return a number that is another after a step of training: a hundredth of the time that a digest takes."""
        bits = (tensor.view(INTEGERS[tensor.dtype.itemsize]) for tensor in self.state().values())
        return int(sum(tensor.sum(dtype=torch.int64).item() for tensor in bits))

    @usual_defaults()
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


def came_from(backbone: Backbone, sha256: str) -> Backbone:
    """Note the SHA-256 of the file that weights and config are from, so that nobody hashes them; return `backbone`."""
    backbone._file = (sha256, backbone.config, backbone._checksum())
    return backbone


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
