"""torchvision's classifiers by name and tap, with torchvision's own ImageNet weights."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from tafm_loss.backbones.architecture import Architecture, Download, Step, TappedNetwork

__all__ = ["TORCHVISION_NAMES", "TorchvisionArchitecture"]

TORCHVISION_NAMES = (
    "alexnet",
    "convnext_tiny",
    "resnet18",
    "resnet50",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg16",
    "vgg16_bn",
    "vgg19",
)


class TorchvisionArchitecture(Architecture):
    """A network of `torchvision.models`, its tensors under torchvision's names.

    Taps: `conv1_1`, `relu1_1` ... `relu5_4` for VGG (stage, convolution; the last convolutions before their ReLU
    are the taps of ESRGAN and BasicSR), `relu1` and `layer1` ... `layer4` for ResNet, `relu1` and `fire2` ...
    `fire9` for SqueezeNet, `relu1` ... `relu5` for AlexNet, `stem` and `stage1` ... `stage4` for ConvNeXt.
    """

    source = "torchvision"
    licence = "BSD-3-Clause"
    training_data = "ImageNet-1k"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def taps(self) -> tuple[str, ...]:
        """Every tap, from shallow to deep."""
        return tuple(step.tap for step in self._steps if step.tap is not None)

    @functools.cached_property
    def _steps(self) -> tuple[Step, ...]:
        return tuple(_steps(self.name, self._blueprint))

    @functools.cached_property
    def _blueprint(self) -> nn.Module:
        with torch.device("meta"):
            return _model(self.name)

    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the network up to the deepest of `layers`, with torchvision's random initialisation."""
        return TappedNetwork(_model(self.name), self._steps, layers)

    def accepts(self, tensor_name: str) -> bool:
        """Whether torchvision's network has a tensor of that name."""
        return tensor_name in self._blueprint.state_dict()

    @property
    def default_weights_name(self) -> str:
        """The name and address of torchvision's default weights."""
        weights = self._weights
        return f"torchvision {weights} ({weights.url})"

    @property
    def _weights(self) -> Any:
        from torchvision.models import get_model_weights

        return get_model_weights(self.name).DEFAULT

    @property
    def default_weights(self) -> Download:
        """Where torchvision's default weights are; a name such as `vgg19-dcbb9e9d.pth` has digits of the SHA-256."""
        url: str = self._weights.url
        file = urlsplit(url).path.rpartition("/")[2]
        return Download(file, url, file.removesuffix(".pth").rpartition("-")[2])


def _model(name: str) -> nn.Module:
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None)
    return model


def _steps(name: str, model: nn.Module) -> Iterator[Step]:
    if name.startswith("resnet"):
        yield from (Step("conv1"), Step("bn1"), Step("relu", "relu1"), Step("maxpool"))
        yield from (Step(layer, layer) for layer in ("layer1", "layer2", "layer3", "layer4"))
        return
    tap_of = {"vgg": _vgg_tap, "squ": _squeezenet_tap, "ale": _relu_tap, "con": _convnext_tap}[name[:3]]
    modules = list(model.get_submodule("features").children())
    for index in range(len(modules)):
        yield Step(f"features.{index}", tap_of(modules[: index + 1]))


def _count(modules: list[nn.Module], kind: str) -> int:
    return sum(type(module).__name__ == kind for module in modules)


def _vgg_tap(before: list[nn.Module]) -> str | None:
    """Return what the last of the modules is called: stage, and convolution within it."""
    kind = {nn.Conv2d: "conv", nn.ReLU: "relu"}.get(type(before[-1]))
    pools = [index for index, module in enumerate(before) if isinstance(module, nn.MaxPool2d)]
    within = before[pools[-1] :] if pools else before
    return f"{kind}{1 + len(pools)}_{_count(within, 'Conv2d')}" if kind else None


def _squeezenet_tap(before: list[nn.Module]) -> str | None:
    fires = _count(before, "Fire")
    return f"fire{1 + fires}" if _count(before[-1:], "Fire") else _relu_tap(before)


def _relu_tap(before: list[nn.Module]) -> str | None:
    return f"relu{_count(before, 'ReLU')}" if isinstance(before[-1], nn.ReLU) else None


def _convnext_tap(before: list[nn.Module]) -> str | None:
    # The stem and the stages are at even places, the downsampling before each further stage between them.
    index = len(before) - 1
    return "stem" if index == 0 else f"stage{(index + 1) // 2}" if index % 2 else None
