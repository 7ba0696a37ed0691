"""Deblurring networks by name."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from examples.deblurring.models.bdirnet import BDIRNet
from examples.deblurring.models.hinet import HINet
from examples.deblurring.models.mimo_unet import MIMOUNet
from examples.deblurring.models.mprnet import MPRNet
from examples.deblurring.models.nafnet import NAFNet
from tafm_loss.demo import ResidualUNet

__all__ = ["SingleOutput", "create_network", "list_networks"]


class SingleOutput(nn.Module):
    """Make a list of the one output of a network that works at any H and W.

    Args:
        network: takes and returns images (N, 3, H, W).
    """

    multiple = 1

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the restored images, the only output."""
        return [self.network(images)]


def create_network(name: str, *, seed: int = 0, **options: Any) -> nn.Module:
    """Return the network of that name, with random weights.

    `forward` takes images (N, 3, H, W), RGB in [0, 1], and returns a list of restored images, the final ones last. The
    attribute `multiple` says what H and W must be multiples of.

    Args:
        name: one of `list_networks()`.
        seed: determines the weights; PyTorch's global random state is left as it is.
        options: of the network's class, in place of the published values that belong to the name.

    Raises:
        ValueError: for a name or an option that is not known, or an option out of range.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), NETWORKS, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(NETWORKS)}"
        raise ValueError(f"no network is called {name!r}; {advice}")
    build = NETWORKS[name]
    known = list(inspect.signature(build).parameters)
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reach the generators of the GPUs too.
        torch.default_generator.manual_seed(seed)
        network = build(**options)
    return SingleOutput(network) if isinstance(network, BDIRNet | ResidualUNet) else network


def list_networks() -> list[str]:
    """Return the names that `create_network` knows."""
    return list(NETWORKS)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "mimo-unet": MIMOUNet,
    "mimo-unet-plus": functools.partial(MIMOUNet, blocks=20, dropout=0.1),
    "hinet": HINet,
    "mprnet": MPRNet,
    "nafnet-32": NAFNet,
    "nafnet-64": functools.partial(NAFNet, width=64),
    "residual-unet": functools.partial(ResidualUNet, width=32),
    "bdirnet": BDIRNet,
}
