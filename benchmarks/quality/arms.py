"""What is added to L1: every loss of this package, its backbones untuned and tuned, and controls without features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _backbones import COMPACT, GEOMETRY, RANDOM, TUNED, UNTUNED, backbones, loss_on_all_taps
from sister_losses import trained as trained_discriminators
from torch import Tensor

from examples.deblurring.training.losses import Fourier
from quality.training import Term
from tafm_loss import (
    ContrastiveFeatureLoss,
    DiscriminativeFeatureLoss,
)

PIXEL = "L1"
STRUCTURE = "tafm-compact, structure"
RANDOM_STRUCTURE = "random features, structure"
SSIM_LOSS = "SSIM"
PATCHES, PATCH_SIZE = 2, 64
STRUCTURE_OPTIONS = {"layers": ["stage1"], "distance": "structure"}
# Attempts at a better loss that validation photographs were asked about.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tafm-compact, stage1": (COMPACT, {"layers": ["stage1"]}),
    "tafm-compact, stage4": (COMPACT, {"layers": ["stage4"]}),
    "tafm-compact, structure of all stages": (COMPACT, {"distance": "structure"}),
    "SqueezeNet, untuned, structure": (UNTUNED, {"distance": "structure"}),
    f"{GEOMETRY}, structure": (GEOMETRY, {"distance": "structure"}),
}


class Places(NamedTuple):
    """Where things are: photographs to train on, given weights, and a folder for what is made once."""

    train: Path
    squeezenet: Path
    mdf: Path
    made: Path


def arms(places: Places, device: torch.device) -> dict[str, Callable[[], Term | None]]:
    """Return {name: what makes its term}; None for L1 alone."""
    sources = backbones(places.made, places.train, places.squeezenet)

    def feature(source: str, **options: Any) -> Callable[[], Term]:
        return lambda: _on_pairs(loss_on_all_taps(sources[source](), **options).to(device))

    def contrast(source: str) -> Callable[[], Term]:
        return lambda: _on_negatives(ContrastiveFeatureLoss(sources[source]()).to(device))

    return {
        PIXEL: lambda: None,
        SSIM_LOSS: lambda: _ssim,
        UNTUNED: feature(UNTUNED),
        COMPACT: feature(COMPACT),
        STRUCTURE: feature(COMPACT, **STRUCTURE_OPTIONS),
        RANDOM_STRUCTURE: feature(RANDOM, **STRUCTURE_OPTIONS),
        "FFT": lambda: _on_pairs(Fourier()),
        **{name: feature(name) for name in (RANDOM, *TUNED)},
        "contrastive, SqueezeNet untuned": contrast(UNTUNED),
        "contrastive, tafm-compact": contrast(COMPACT),
        "MDF, official": lambda: _on_patches(DiscriminativeFeatureLoss(places.mdf).to(device)),
        "MDF, trained on blur": lambda: _on_patches(trained_discriminators(places.made / "mdf-blur").to(device)),
        **{name: feature(source, **options) for name, (source, options) in VARIANTS.items()},
    }


def _on_pairs(loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    return lambda restored, sharp, blurred: loss(restored, sharp)


def _on_patches(loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """Return a loss of the centres of the first images alone: the discriminators take seconds for a whole batch."""

    def term(restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
        cut = (restored.shape[-1] - PATCH_SIZE) // 2
        patches = (images[:PATCHES, :, cut : cut + PATCH_SIZE, cut : cut + PATCH_SIZE] for images in (restored, sharp))
        return loss(*patches)

    return term


def _on_negatives(loss: ContrastiveFeatureLoss) -> Term:
    return lambda restored, sharp, blurred: loss(restored, sharp, negatives=blurred)


def _ssim(restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
    import piq

    return 1 - piq.ssim(restored.clamp(0, 1), sharp, downsample=False)
