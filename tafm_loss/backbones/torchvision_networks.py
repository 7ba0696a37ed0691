"""torchvision's classifiers by name and tap, with torchvision's own ImageNet weights."""

import functools
import re
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
    family = re.match("vgg|squeezenet|alexnet|convnext", name)
    if family is None:
        raise ValueError(f"no taps are defined for {name}")
    taps = {"vgg": _vgg_taps, "squeezenet": _squeezenet_taps, "alexnet": _relu_taps, "convnext": _convnext_taps}[
        family.group()
    ](list(model.get_submodule("features").children()))
    yield from (Step(f"features.{index}", tap) for index, tap in enumerate(taps))


def _vgg_taps(modules: list[nn.Module]) -> Iterator[str | None]:
    stage, convolution = 1, 0
    for module in modules:
        if isinstance(module, nn.MaxPool2d):
            stage, convolution = stage + 1, 0
        convolution += isinstance(module, nn.Conv2d)
        kind = {nn.Conv2d: "conv", nn.ReLU: "relu"}.get(type(module))
        yield f"{kind}{stage}_{convolution}" if kind else None


def _squeezenet_taps(modules: list[nn.Module]) -> Iterator[str | None]:
    fire = 2
    for module in modules:
        if type(module).__name__ == "Fire":
            yield f"fire{fire}"
            fire += 1
        else:
            yield "relu1" if isinstance(module, nn.ReLU) else None


def _relu_taps(modules: list[nn.Module]) -> Iterator[str | None]:
    count = 0
    for module in modules:
        count += isinstance(module, nn.ReLU)
        yield f"relu{count}" if isinstance(module, nn.ReLU) else None


def _convnext_taps(modules: list[nn.Module]) -> Iterator[str | None]:
    # The stem and the stages are at even places, the downsampling before each further stage between them.
    yield "stem"
    for index in range(1, len(modules)):
        yield f"stage{(index + 1) // 2}" if index % 2 else None
