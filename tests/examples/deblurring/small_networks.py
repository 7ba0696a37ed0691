"""Deblurring networks as their names build them, but small."""

import torch
from torch import Tensor, nn

from examples.deblurring.models.networks import create_network

SMALL = {
    "mimo-unet": {"width": 4, "blocks": 1},
    "mimo-unet-plus": {"width": 4, "blocks": 3},
    "hinet": {"width": 4},
    "mprnet": {"width": 24, "blocks": 1},
    "nafnet-32": {"width": 4, "encoder_blocks": [1, 1, 1, 2]},
    "nafnet-64": {"width": 6, "encoder_blocks": [1, 1, 1, 1]},
    "residual-unet": {"width": 4},
    "bdirnet": {"width": 4, "blocks": 1},
}

# The others differ from these in numbers alone.
KINDS = ["mimo-unet-plus", "hinet", "mprnet", "nafnet-32", "residual-unet", "bdirnet"]


def images(height: int = 32, width: int = 48, n: int = 1) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def small(name: str, seed: int = 0) -> nn.Module:
    """A small network, in which what starts at nothing, and would hide the rest, is drawn at random."""
    network = create_network(name, seed=seed, **SMALL[name])
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    return network
