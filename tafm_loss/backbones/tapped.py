"""Networks that are a chain of modules: read at named taps, cut after the last one."""

import bisect
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tafm_loss.backbones.backbone import Tap

__all__ = ["Step", "TappedNetwork", "measure_taps", "smallest_size"]

LARGEST_MINIMUM = 64
PERIOD = 512


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
