"""The report on a backbone: all that is measured on it, as plain numbers fit for JSON."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.kernels import KINDS, kernel_size
from tafm_loss.images import check_images, check_unit_range
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.report.measures import (
    RESPONSE_EXTENTS,
    SELECTIVITY_EXTENTS,
    Distance,
    detection_threshold,
    gradient_peak,
    health,
    measure_units,
    ordering_accuracy,
    recovery,
    response,
    selectivity,
)

__all__ = ["Measures", "least_report_size", "measure", "recommended_loss", "report", "spread"]

Measures = dict[str, Any]


def report(backbone: Backbone, images: Tensor, *, seed: int = 0, progress: bool = False) -> Measures:
    """Return what `measure` finds on a backbone as the loss that its config recommends.

    Besides: `backbone`, `distance` and `taps` with their weights, which say what was measured.

    Args:
        backbone: what is measured; without units for the recommended distance it is given those of `images`.
        images: sharp, (N, 3, H, W) in [0, 1]; H and W at least `least_report_size(backbone)`. 30 of 160 px are enough
            and take less than a minute on one core for a bundled backbone.
        seed: of all that is random.
        progress: show a progress bar.

    Raises:
        TypeError: if the backbone is none, or the images are not floating.
        ValueError: if there is no image, or the images are too small, no RGB or not in [0, 1].
    """
    if not isinstance(backbone, Backbone):
        raise TypeError(f"backbone must be a Backbone, got {type(backbone).__name__}; load_backbone(...) returns one")
    check_images(images, "images", minimum_size=least_report_size(backbone))
    check_unit_range(images, "images")
    if not len(images):
        raise ValueError("images must hold at least one image, got none")
    loss = recommended_loss(backbone, images, seed=seed)
    about = {
        "backbone": f"{backbone.config.name}, sha256 {backbone.sha256[:8]}",
        "distance": loss.distance,
        "taps": dict(loss.layers),
    }
    return about | measure(loss, images, seed=seed, progress=progress)


def measure(
    distance: Distance, images: Tensor, *, recovered_images: int = 8, seed: int = 0, progress: bool = False
) -> Measures:
    """Return what is measured on a `distance(pred, target) -> (N,)`, fit for JSON; None where there is no number.

    What has a value per image is given as {"p10", "median", "p90"} over the images: `selectivity` by distractor, kind
    and extent, the ratios of `health`, and `response` by kind and extent. Besides: `ordering_accuracy` by kind;
    `detection_threshold_px` of a shake; `response_slopes`, the log-log slopes of the mean response to a shake between
    neighbours in extent; `ordered_share`, of images whose response to a shake only grows; `gradient_peak`; the mean
    PSNR of `recovery` from a 6 px shake, before and after; the number of `images`.
    """
    from tqdm.auto import tqdm

    parts: dict[str, Callable[[], Measures]] = {
        "selectivity": lambda: {
            "selectivity": {
                distractor: {kind: _by_extent(SELECTIVITY_EXTENTS, rows) for kind, rows in kinds.items()}
                for distractor, kinds in selectivity(distance, images, seed=seed).items()
            }
        },
        "health": lambda: {name: spread(ratios) for name, ratios in health(distance, images, seed=seed).items()},
        "response": lambda: _response(distance, images, seed),
        "detection": lambda: {
            "detection_threshold_px": _plain(detection_threshold(distance, images, seed=seed), digits=2)
        },
        "gradient": lambda: {"gradient_peak": _plain(gradient_peak(distance, images, seed=seed))},
        "recovery": lambda: _recovery(distance, images[:recovered_images], seed),
    }
    measures: Measures = {"images": len(images)}
    bar = tqdm(parts.items(), desc="report", disable=not progress)
    for name, part in bar:
        bar.set_postfix_str(name)
        measures |= part()
    return measures


def least_report_size(backbone: Backbone) -> int:
    """Return the height and width in px that images need for a report on a backbone."""
    # One more than it takes: images are shifted by 1 px.
    return max(kernel_size(RESPONSE_EXTENTS[-1]) // 2 + 1, backbone.config.minimum_size + 1)


def recommended_loss(backbone: Backbone, images: Tensor, *, seed: int = 0) -> TaskAdaptiveFeatureLoss:
    """Return the loss per image that the backbone's config recommends; units that it lacks are those of `images`."""
    if not backbone.config.units.get(backbone.config.recommended_distance):
        # Without units taps of small distances would hardly count.
        backbone = copy.copy(backbone)
        backbone.config = dataclasses.replace(backbone.config, units=measure_units(backbone, images, seed=seed))
    return TaskAdaptiveFeatureLoss(backbone, reduction="none")


def spread(values: Tensor, *, digits: int = 3) -> dict[str, float | None]:
    """Return {"p10", "median", "p90"} of values (N,), rounded, without those that are NaN; None without any other."""
    quantiles = values.cpu().nanquantile(torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype))
    return {name: _plain(value, digits=digits) for name, value in zip(("p10", "median", "p90"), quantiles, strict=True)}


def _response(distance: Distance, images: Tensor, seed: int) -> Measures:
    distances = {kind: response(distance, images, kind=kind, seed=seed).cpu() for kind in KINDS}
    shake = distances["shake"]
    slopes = shake.mean(1).log().diff() / torch.tensor(RESPONSE_EXTENTS).log().diff()
    return {
        "response": {kind: _by_extent(RESPONSE_EXTENTS, rows, digits=5) for kind, rows in distances.items()},
        "response_slopes": [_plain(slope) for slope in slopes],
        "ordering_accuracy": {kind: _plain(ordering_accuracy(rows), digits=4) for kind, rows in distances.items()},
        "ordered_share": _plain((shake.diff(dim=0) > 0).all(0).float().mean(), digits=4),
    }


def _recovery(distance: Distance, images: Tensor, seed: int) -> Measures:
    _, before, after = recovery(distance, images, seed=seed)
    return {
        "recovery_before_db": _plain(before.mean(), digits=2),
        "recovery_after_db": _plain(after.mean(), digits=2),
    }


def _by_extent(extents: Sequence[float], rows: Iterable[Tensor], *, digits: int = 3) -> Measures:
    return {f"{extent:g}": spread(row, digits=digits) for extent, row in zip(extents, rows, strict=True)}


def _plain(value: Tensor | float | None, *, digits: int = 3) -> float | None:
    """Return a rounded number, or None for what is none: JSON has no word for NaN and infinity."""
    return round(float(value), digits) if value is not None and math.isfinite(value) else None
