"""What is added to L1: losses of this package with backbones untuned and tuned, what others use, and controls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from _backbones import random_compact
from torch import Tensor, nn

from examples.bundled.base import base_backbone
from examples.deblurring.evaluation.perceptual import load_perceptual
from quality.training import Term, Trainer
from quality.tuned import TUNINGS, tuned
from tafm_loss import Backbone, TaskAdaptiveFeatureLoss, create_backbone

PIXEL = "L1"
STRUCTURE = {"layers": ["stage1"], "distance": "structure"}
LPIPS_FORM = {"distance": "normalized_l2"}


class Places(NamedTuple):
    """Where things are: photographs to train on, given weights, and a folder for backbones that are made once."""

    train: Path
    weights: Path
    made: Path

    @property
    def trunks(self) -> Path:
        """The folder of ImageNet trunks that LPIPS and DISTS use."""
        return self.weights / "metrics"

    @property
    def squeezenet(self) -> Path:
        """ImageNet weights for torchvision's squeezenet1_0."""
        return self.weights / "squeezenet1_0-imagenet.safetensors"


def arms(places: Places, trainer: Trainer, start: Callable[[], nn.Module]) -> dict[str, Callable[[], Term | None]]:
    """Return {name: what makes its term}; None for L1 alone.

    Args:
        places: where things are.
        trainer: where losses compute.
        start: returns the network that all arms start from.
    """
    device = trainer.device

    def feature(backbone: Callable[[], Backbone], **options: Any) -> Callable[[], Term]:
        return lambda: _on_pairs(TaskAdaptiveFeatureLoss(backbone(), **options).to(device))

    def trunk(name: str) -> Callable[[], Backbone]:
        return lambda: create_backbone(name, weights=places.trunks / f"{name}-features.safetensors")

    def vgg16() -> Callable[[], Term]:
        make = feature(trunk("vgg16"), distance="l1")
        # It takes ten times as long as the others, and its gradient in bfloat16 has a cosine of 0.997 with this one.
        return lambda: _in_precision(make(), trainer)

    def squeezenet() -> Backbone:
        return create_backbone("squeezenet1_0", weights=places.squeezenet)

    return {
        PIXEL: lambda: None,
        "SSIM": lambda: _ssim,
        "tafm-lite": feature(lambda: create_backbone("tafm-lite")),
        "tafm-compact, structure": feature(lambda: create_backbone("tafm-compact"), **STRUCTURE),
        "random features, structure": feature(lambda: random_compact(0), **STRUCTURE),
        "VGG16 relu3_3": vgg16(),
        "LPIPS squeeze": lambda: _on_pairs(load_perceptual("lpips_squeeze", trunks=places.trunks, device=device)),
        "AlexNet": feature(trunk("alexnet"), **LPIPS_FORM),
        "SqueezeNet 1.1": feature(trunk("squeezenet1_1"), **LPIPS_FORM),
        "SqueezeNet 1.0": feature(squeezenet, **LPIPS_FORM),
        "EfficientNet-Lite0": feature(base_backbone, **LPIPS_FORM),
        **{
            f"{title}, {name}": feature(
                lambda untuned=untuned, name=name: tuned(untuned, name, places.made, places.train, start), **LPIPS_FORM
            )
            for title, untuned in (("SqueezeNet 1.0", squeezenet), ("EfficientNet-Lite0", base_backbone))
            for name in TUNINGS
        },
    }


def _on_pairs(loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    return lambda restored, sharp, blurred: loss(restored, sharp).mean()


def _in_precision(term: Term, trainer: Trainer) -> Term:
    def in_precision(restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
        with trainer.autocast():
            return term(restored, sharp, blurred)

    return in_precision


def _ssim(restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
    import piq

    return 1 - piq.ssim(restored.clamp(0, 1), sharp, downsample=False)
