"""Networks with random weights, which are as good as trained ones to hold two programs together."""

import torch
import torchvision
from torch import nn


def random_features(network: str) -> nn.Sequential:
    """The `features` of a network of torchvision; the same ones in every call."""
    with torch.device("meta"):
        features: nn.Sequential = torchvision.models.get_model(network, weights=None).features
    generator = torch.Generator().manual_seed(0)
    for weights in features.to_empty(device="cpu").parameters():
        scale = (2 / weights[0].numel()) ** 0.5 if weights.ndim == 4 else 0.05
        nn.init.normal_(weights, std=scale, generator=generator)
    return features.requires_grad_(False)
