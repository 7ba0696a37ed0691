"""The backbones that benchmarks compare as losses: ours, untuned ones, tuned ones, and random features."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _photographs import central_crops
from finetuning import OBJECTIVES, SQUEEZENET, random_compact

from tafm_loss import Backbone, TaskAdaptiveFeatureLoss, create_backbone, load_backbone
from tafm_loss.finetune import finetune_backbone
from tafm_loss.report import measure_units

COMPACT, RANDOM, UNTUNED = "tafm-compact", "random features", "SqueezeNet, untuned"
GEOMETRY = "SqueezeNet, graded + distractors + geometry"
TUNED = {
    "SqueezeNet, triplet": "triplet",
    "SqueezeNet, graded": "order alone",
    GEOMETRY: "graded + geometry",
}
UNITS_SIZE = 192
UNITS_EVERY = 10


def loss_on_all_taps(backbone: Backbone, **options: Any) -> TaskAdaptiveFeatureLoss:
    """Return the loss in the form in which backbones are compared, whatever each of them recommends: that of LPIPS."""
    return TaskAdaptiveFeatureLoss(
        backbone, **{"layers": tuple(backbone.config.taps), "distance": "normalized_l2", **options}
    )


def backbones(folder: Path, train: Path, weights: Path) -> dict[str, Callable[[], Backbone]]:
    """Return what makes each backbone; tuned ones are kept in `folder`, and made there in a few minutes each.

    Args:
        folder: where tuned backbones lie or go; an interrupted tuning is taken up.
        train: a folder of photographs, BSDS500's train split.
        weights: ImageNet weights for torchvision's squeezenet1_0, a safetensors file.
    """
    return {
        COMPACT: lambda: create_backbone("tafm-compact"),
        RANDOM: lambda: random_compact(0),
        UNTUNED: lambda: untuned_squeezenet(weights, train),
        **{
            name: lambda objective=objective: tuned_squeezenet(objective, folder, train, weights)
            for name, objective in TUNED.items()
        },
    }


def untuned_squeezenet(weights: Path, photographs: Path) -> Backbone:
    """Return the ImageNet SqueezeNet with the units of photographs."""
    backbone = create_backbone("squeezenet1_0", weights=weights)
    units = measure_units(backbone, central_crops(photographs, UNITS_SIZE, every=UNITS_EVERY))
    backbone.config = dataclasses.replace(backbone.config, units=units)
    return backbone


def tuned_squeezenet(objective: str, folder: Path, train: Path, weights: Path) -> Backbone:
    """Return the ImageNet SqueezeNet, tuned as in `finetuning.py` and kept in a folder named after the objective."""
    out = folder / objective.replace(" ", "-")
    if not (out / "config.json").exists():
        start = create_backbone("squeezenet1_0", weights=weights)
        finetune_backbone(start, train, objective=OBJECTIVES[objective](), out_dir=out, resume=True, **SQUEEZENET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_backbone(out)
