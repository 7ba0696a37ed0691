"""The report on a backbone: all that is measured on it, as plain numbers."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.kernels import KINDS, kernel_size
from tafm_loss.images import check_images, check_unit_range
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.report.comparison import Distance
from tafm_loss.report.extent_probe import LEAST_SCENES, extent_probe
from tafm_loss.report.forgetting import agreement
from tafm_loss.report.health import gradient_peak, health, recovery
from tafm_loss.report.response import (
    RESPONSE_EXTENTS,
    SELECTIVITY_EXTENTS,
    detection_threshold,
    ordering_accuracy,
    response,
    selectivity,
)
from tafm_loss.report.units import measure_units

__all__ = [
    "RESPONSE_EXTENTS",
    "SELECTIVITY_EXTENTS",
    "gradient_peak",
    "health",
    "least_report_size",
    "measure",
    "measure_units",
    "recovery",
    "report",
    "response",
    "selectivity",
]

Figures = dict[str, Any]


def report(
    backbone: Backbone,
    images: Tensor,
    *,
    untuned: Backbone | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Figures:
    """Return all that is known about a backbone as the default loss, fit for JSON; what has no value is None.

    To the figures of `measure` come `backbone` and `distance`, which say what was measured; `extent_probe`, the figures
    of that function, None for fewer than four images; and `agreement` with the untuned backbone, over the images.

    Args:
        backbone: what is measured, with the distance `normalized_l2`, or `l2` if it ends in an embedding;
            without units it is given those of `images`.
        images: sharp, (N, 3, H, W) in [0, 1]; H and W at least `least_report_size(backbone)`. 30 of 160 px take less
            than a minute on one core for the bundled backbone, and are enough but for the extent probe, whose figures
            still rise beyond 100.
        untuned: the backbone that it was tuned from, whose ranking of distortions should have been kept.
        seed: of all that is random.
        progress: show a progress bar.

    Raises:
        TypeError: if a backbone is none, or the images are not floating.
        ValueError: if there is no image, or the images are too small, no RGB or not in [0, 1].
    """
    _check_backbones(backbone, untuned)
    check_images(images, "images", minimum_size=least_report_size(backbone))
    check_unit_range(images, "images")
    if not len(images):
        raise ValueError("images must hold at least one image, got none")
    distance = _default_loss(backbone, images, seed)
    reference = None if untuned is None else _default_loss(untuned, images, seed)
    parts = _parts(distance, images, recovered_images=8, seed=seed)
    parts["extent probe"] = lambda: {"extent_probe": _probe_figures(backbone, images, seed)}
    parts["agreement"] = lambda: {
        "agreement": None if reference is None else _spread(agreement(distance, reference, images, seed=seed))
    }
    about = {"backbone": f"{backbone.config.name}, sha256 {backbone.sha256[:8]}", "distance": distance.distance}
    return {**about, "images": len(images), **_collected(parts, progress=progress)}


def measure(distance: Distance, images: Tensor, *, recovered_images: int = 8, seed: int = 0) -> Figures:
    """Return what is known about a `distance(pred, target) -> (N,)`, as plain numbers; None where there is no number.

    What has a value per image is given as {"p10", "median", "p90"} over the images: `selectivity` by distractor, kind
    and extent, the ratios of `health`, and `response` by kind and extent. Besides: `ordering_accuracy` by kind;
    `detection_threshold_px` of a shake; `response_slopes`, the log-log slopes of the mean response to a shake between
    neighbours in extent; `ordered_share`, of images whose response to a shake only grows; `gradient_peak`; the mean
    PSNR of `recovery` from a 6 px shake, before and after.
    """
    parts = _parts(distance, images, recovered_images=recovered_images, seed=seed)
    return {"images": len(images), **_collected(parts, progress=False)}


def least_report_size(backbone: Backbone) -> int:
    """Return the height and width in px that images need for a report on a backbone."""
    # One more than it takes: images are shifted by 1 px.
    return max(kernel_size(RESPONSE_EXTENTS[-1]) // 2 + 1, backbone.config.minimum_size + 1)


def _check_backbones(backbone: Backbone, untuned: Backbone | None) -> None:
    for name, given in (("backbone", backbone), ("untuned", untuned)):
        if not isinstance(given, Backbone) and not (given is None and name == "untuned"):
            raise TypeError(f"{name} must be a Backbone, got {type(given).__name__}; load_backbone(...) returns one")


def _default_loss(backbone: Backbone, images: Tensor, seed: int) -> TaskAdaptiveFeatureLoss:
    if not backbone.config.units:
        # An untuned backbone has none, and without them taps of small distances would hardly count.
        backbone = copy.copy(backbone)
        backbone.config = dataclasses.replace(backbone.config, units=measure_units(backbone, images, seed=seed))
    return TaskAdaptiveFeatureLoss(
        backbone,
        layers=tuple(backbone.config.taps),
        distance="normalized_l2" if backbone.config.spatial else "l2",
        reduction="none",
    )


def _parts(distance: Distance, images: Tensor, *, recovered_images: int, seed: int) -> dict[str, Callable[[], Figures]]:
    """Return, by name, what gives each part of the figures."""
    return {
        "selectivity": lambda: {"selectivity": _selectivity_figures(distance, images, seed)},
        "health": lambda: _spreads(health(distance, images, seed=seed)),
        "response": lambda: _response_figures(distance, images, seed),
        "detection": lambda: {
            "detection_threshold_px": _plain(detection_threshold(distance, images, seed=seed), digits=2)
        },
        "gradient": lambda: {"gradient_peak": _plain(gradient_peak(distance, images, seed=seed))},
        "recovery": lambda: _recovery_figures(distance, images[:recovered_images], seed),
    }


def _collected(parts: Mapping[str, Callable[[], Figures]], *, progress: bool) -> Figures:
    from tqdm.auto import tqdm

    figures: Figures = {}
    bar = tqdm(parts.items(), desc="report", disable=not progress)
    for name, part in bar:
        bar.set_postfix_str(name)
        figures |= part()
    return figures


def _selectivity_figures(distance: Distance, images: Tensor, seed: int) -> Figures:
    return {
        distractor: {kind: _by_extent(SELECTIVITY_EXTENTS, rows) for kind, rows in kinds.items()}
        for distractor, kinds in selectivity(distance, images, seed=seed).items()
    }


def _response_figures(distance: Distance, images: Tensor, seed: int) -> Figures:
    distances = {kind: response(distance, images, kind=kind, seed=seed) for kind in KINDS}
    shake = distances["shake"]
    slopes = shake.mean(1).log().diff() / torch.tensor(RESPONSE_EXTENTS).log().diff()
    return {
        "response": {kind: _by_extent(RESPONSE_EXTENTS, rows, digits=5) for kind, rows in distances.items()},
        "response_slopes": [_plain(slope) for slope in slopes],
        "ordering_accuracy": {kind: _plain(ordering_accuracy(rows), digits=4) for kind, rows in distances.items()},
        "ordered_share": _plain((shake.diff(dim=0) > 0).all(0).float().mean(), digits=4),
    }


def _recovery_figures(distance: Distance, images: Tensor, seed: int) -> Figures:
    _, before, after = recovery(distance, images, seed=seed)
    return {
        "recovery_before_db": _plain(before.mean(), digits=2),
        "recovery_after_db": _plain(after.mean(), digits=2),
    }


def _probe_figures(backbone: Backbone, images: Tensor, seed: int) -> Figures | None:
    if len(images) < LEAST_SCENES:
        return None
    probe = extent_probe(backbone, images, seed=seed)
    return {name: {kind: _plain(value) for kind, value in by_kind.items()} for name, by_kind in probe._asdict().items()}


def _by_extent(extents: Sequence[float], rows: Iterable[Tensor], *, digits: int = 3) -> Figures:
    return {f"{extent:g}": _spread(row, digits=digits) for extent, row in zip(extents, rows, strict=True)}


def _spreads(values: Mapping[str, Tensor]) -> Figures:
    return {name: _spread(value) for name, value in values.items()}


def _spread(values: Tensor, *, digits: int = 3) -> dict[str, float | None]:
    quantiles = values.nanquantile(torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype))
    return {name: _plain(value, digits=digits) for name, value in zip(("p10", "median", "p90"), quantiles, strict=True)}


def _plain(value: Tensor | float | None, *, digits: int = 3) -> float | None:
    """Return a rounded number, or None for what is none: JSON has no word for NaN and infinity."""
    return round(float(value), digits) if value is not None and math.isfinite(value) else None
