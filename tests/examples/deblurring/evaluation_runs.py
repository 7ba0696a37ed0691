"""What tests of evaluations share: a tiny network, and what they are run on."""

from collections.abc import Callable
from pathlib import Path

import torch

from examples.deblurring.models.checkpoints import save_weights
from examples.deblurring.models.networks import create_network

Evaluate = Callable[..., int]
Refused = Callable[..., str]
SCENES, FRAMES = 2, 2
NETWORK = ("--network", "residual-unet", "--network-options", "width=4")


def write_weights(path: Path, shift: float = 0.01) -> Path:
    """Weights of a network that adds a constant: the last layer starts at nothing else."""
    network = create_network("residual-unet", width=4)
    last = [parameter for parameter in network.parameters() if not parameter.any()][-1]
    torch.nn.init.constant_(last, shift)
    save_weights(network, path)
    return path
