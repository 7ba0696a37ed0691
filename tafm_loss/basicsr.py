"""The loss in option files of BasicSR, of the trainers that carry old copies of it, and of those that grew from it.

`tafm_loss.basicsr.register()` in the training script makes three types known to option files: `TAFMPerceptualLoss` for
`perceptual_opt`; `PixelTAFMLoss`, which holds the pixel loss as well, for `pixel_opt`; and `TAFMLoss`, for trainers
whose losses give one tensor. `examples/README.md` has the option files.
"""

import functools
import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from tafm_loss.losses.balance import Loss, multi_output
from tafm_loss.losses.balanced import BalancedLoss
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.losses.matching import checked_reach, matched_crops
from tafm_loss.losses.options import checked_weight, require_one_of

__all__ = ["PIXEL_LOSSES", "PixelTAFMLoss", "TAFMLoss", "TAFMPerceptualLoss", "negative_psnr", "register"]

NEGATIVE_PSNR_EPS = 1e-8
# What the perceptual losses of BasicSR, neosr and traiNNer-redux are told, and what says it here.
VGG_OPTIONS = {
    "layer_weights": "its taps are called layers here, as in layers: {block1: 1.0}, and have other names; leave it out "
    "for those that the backbone recommends",
    "vgg_type": "the network is called backbone here; leave it out for the default",
    "criterion": "it is called distance here, l1 or l2 as there; leave it out for the one that the backbone recommends",
    "use_input_norm": "leave it out: the backbone normalises",
    "range_norm": "for images in [-1, 1] write input_range: [-1, 1]",
    "style_weight": "leave it out: there is no style term",
    "perceptual_patch_loss": "leave it out: there are no patches",
    "patch_weights": "leave it out: there are no patches",
}


def register(registry: Any = None) -> None:
    """Make `TAFMPerceptualLoss`, `TAFMLoss` and `PixelTAFMLoss` known to option files, again without effect.

    Args:
        registry: a registry of BasicSR's, or a module in which losses are looked up by name, as `basicsr.models.losses`
            of NAFNet and HINet; for neosr and traiNNer-redux the LOSS_REGISTRY in their `utils.registry`. None for all
            of these that the installed basicsr has.

    Raises:
        ModuleNotFoundError: if `registry` is None and there is no basicsr, or it cannot be imported.
        TypeError: if `registry` is neither a registry nor a module.
        ValueError: if one of the names is taken by something else.
    """
    for place in _places_of_basicsr() if registry is None else [registry]:
        is_module = isinstance(place, ModuleType)
        if not is_module and not callable(getattr(place, "register", None)):
            raise TypeError(f"registry must be one of BasicSR's registries or a module, got {type(place).__name__}")
        for loss in (TAFMPerceptualLoss, TAFMLoss, PixelTAFMLoss):
            name = loss.__name__
            held = getattr(place, name, None) if is_module else place.get(name) if name in place else None
            if held not in (None, loss):
                raise ValueError(f"{name} is taken by {held!r}; remove that one, or register in another place")
            if is_module:
                setattr(place, name, loss)
            elif held is None:
                place.register(loss)


class TAFMPerceptualLoss(nn.Module):
    """`TaskAdaptiveFeatureLoss` for `perceptual_opt`, whose losses give two terms: the second one, style, is None.

    Args:
        perceptual_weight: what the loss is multiplied by, under BasicSR's name; 1 if None.
        gradient_ratio: instead of a weight: how long the gradient of the loss is kept, relative to that of the pixel
            loss that stands beside it, as by `BalancedLoss`.
        pixel: needed with `gradient_ratio`: the pixel loss in `pixel_opt`, as for `PixelTAFMLoss`.
        pixel_weight: its `loss_weight` there.
        options: `backbone`, `layers`, `distance` and `input_range`, as for `TaskAdaptiveFeatureLoss`. Where the data
            set's `mean` and `std` are 0.5, the `input_range` is [-1, 1].

    Raises:
        TypeError: for an option of BasicSR's `PerceptualLoss` that has another name here, or none.
        ValueError: for an unknown pixel loss, a weight beside a ratio, or a ratio without a pixel loss.
    """

    def __init__(
        self,
        *,
        perceptual_weight: float | None = None,
        gradient_ratio: float | None = None,
        pixel: str | None = None,
        pixel_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if gradient_ratio is not None and pixel is None:
            known = ", ".join(PIXEL_LOSSES)
            raise ValueError(f"gradient_ratio needs pixel: the loss in pixel_opt, one of {known}, and its pixel_weight")
        if gradient_ratio is None and pixel is not None:
            raise ValueError("pixel is for gradient_ratio alone; for both losses in one take PixelTAFMLoss")
        self.feature = _feature_loss(type(self).__name__, perceptual_weight, gradient_ratio, options)
        pixel_loss = _pixel_loss(pixel or "l1", pixel_weight, "pixel_weight")
        self.balanced = _balanced(pixel_loss, self.feature, gradient_ratio)

    def forward(self, pred: Tensor, target: Tensor) -> tuple[Tensor, None]:
        """Return the loss () and None, for restored and sharp images (N, 3, H, W), RGB."""
        if self.balanced is None:
            return self.feature(pred, target), None
        return _balanced_terms(self.balanced, pred, target)["feature"], None


class TAFMLoss(TAFMPerceptualLoss):
    """`TaskAdaptiveFeatureLoss` for trainers whose losses give one tensor, as those of neosr and traiNNer-redux.

    Args:
        loss_weight: what the loss is multiplied by, under their name; 1 if None. With `gradient_ratio` it may be 1, as
            traiNNer-redux demands one.
        gradient_ratio: as for `TAFMPerceptualLoss`, and so are `pixel`, `pixel_weight` and `options`.

    It raises what `TAFMPerceptualLoss` raises.
    """

    def __init__(
        self,
        *,
        loss_weight: float | None = None,
        gradient_ratio: float | None = None,
        **options: Any,
    ) -> None:
        weight = None if gradient_ratio is not None and loss_weight == 1 else loss_weight
        super().__init__(perceptual_weight=weight, gradient_ratio=gradient_ratio, **options)
        self.loss_weight = 1.0 if loss_weight is None else loss_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss (), for restored and sharp images (N, 3, H, W), RGB."""
        return super().forward(pred, target)[0]


class PixelTAFMLoss(nn.Module):
    """A pixel loss and `TaskAdaptiveFeatureLoss` in one, for trainers that call `pixel_opt` alone, as HINet's does.

    Args:
        pixel: "l1"; "mse"; "charbonnier", with MPRNet's eps of 1e-3, where BasicSR's own has 1e-6; or "psnr", the loss
            of HINet and NAFNet, see `negative_psnr`.
        loss_weight: what the pixel loss is multiplied by, under BasicSR's name: 0.5 in HINet's files, 1 in NAFNet's.
        perceptual_weight: what the feature loss is multiplied by; 1 if None.
        gradient_ratio: instead of `perceptual_weight`: how long the gradient of the feature loss is kept, relative to
            that of the pixel loss, as by `BalancedLoss`.
        reach: for pairs that do not line up: both losses compare `matched_crops`, which look so many px around; None
            for pairs as they are.
        reduction: "mean"; with any other the weights would depend on the size of the crop.
        options: `backbone`, `layers`, `distance` and `input_range`, as for `TaskAdaptiveFeatureLoss`.

    Raises:
        TypeError: for an option of BasicSR's `PerceptualLoss` that has another name here, or none.
        ValueError: for an unknown pixel loss, a weight that is negative or not finite, or beside a ratio, or another
            reduction.
    """

    def __init__(
        self,
        pixel: str = "l1",
        *,
        loss_weight: float = 1.0,
        perceptual_weight: float | None = None,
        gradient_ratio: float | None = None,
        reach: int | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__()
        require_one_of(reduction, ["mean"], "reduction")
        self.feature = _feature_loss(type(self).__name__, perceptual_weight, gradient_ratio, options)
        pixel_loss = _pixel_loss(pixel, loss_weight, "loss_weight")
        # In a tuple, so that the feature loss is not registered twice.
        self.losses = _on_matched_crops(pixel_loss, reach), _on_matched_crops(self.feature, reach)
        self.balanced = _balanced(*self.losses, gradient_ratio)

    def forward(self, pred: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the sum of both losses, ().

        Args:
            pred: restored images (N, 3, H, W), RGB; or a list of a network's outputs, whose losses `multi_output` adds.
            target: sharp images of the same shape.
        """
        if self.balanced is not None:
            terms = _balanced_terms(self.balanced, pred, target)
            return terms["pixel"] + terms["feature"]
        pixel, feature = (
            loss(pred, target) if isinstance(pred, Tensor) else multi_output(loss, pred, target) for loss in self.losses
        )
        return pixel + feature


def negative_psnr(pred: Tensor, target: Tensor) -> Tensor:
    """Return 10 log10(mean squared error + 1e-8), averaged over images (N, C, H, W) in [0, 1]: minus the PSNR in dB.

    The `PSNRLoss` of HINet (Chen et al., CVPRW 2021) and NAFNet at a weight of 1.
    """
    errors = DISTANCES["l2"](pred, target).flatten(1).mean(1)
    return (errors + NEGATIVE_PSNR_EPS).log().mean() * (10 / math.log(10))


def _mean_distance(name: str, pred: Tensor, target: Tensor) -> Tensor:
    return DISTANCES[name](pred, target).mean()


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functools.partial(_mean_distance, "l1"),
    "mse": functools.partial(_mean_distance, "l2"),
    "charbonnier": functools.partial(_mean_distance, "charbonnier"),
    "psnr": negative_psnr,
}


def _pixel_loss(name: str, weight: float, weight_name: str) -> Loss:
    require_one_of(name, PIXEL_LOSSES, "pixel")
    return functools.partial(_weighted, name, checked_weight(weight, weight_name))


def _weighted(name: str, weight: float, pred: Tensor, target: Tensor) -> Tensor:
    return weight * PIXEL_LOSSES[name](pred, target)


def _feature_loss(
    who: str, weight: float | None, ratio: float | None, options: Mapping[str, Any]
) -> TaskAdaptiveFeatureLoss:
    if ratio is not None and weight is not None:
        raise ValueError(f"{who} takes a weight or a gradient_ratio, and got both; leave out the weight")
    if foreign := [name for name in options if name in VGG_OPTIONS]:
        advice = "; ".join(f"{name}: {VGG_OPTIONS[name]}" for name in foreign)
        raise TypeError(f"{who} does not take the options of a VGG perceptual loss. {advice}")
    return TaskAdaptiveFeatureLoss(weight=1.0 if weight is None else weight, reduction="mean", **options)


def _on_matched_crops(loss: Loss, reach: int | None) -> Loss:
    return loss if reach is None else functools.partial(_of_matched_crops, loss, checked_reach(reach))


def _of_matched_crops(loss: Loss, reach: int, pred: Tensor, target: Tensor) -> Tensor:
    return loss(*matched_crops(pred, target, reach=reach))


def _balanced(pixel: Loss, feature: Loss, ratio: float | None) -> BalancedLoss | None:
    return None if ratio is None else BalancedLoss(pixel, feature, ratio=ratio)


def _balanced_terms(balanced: BalancedLoss, pred: Tensor | Sequence[Tensor], target: Tensor) -> Mapping[str, Tensor]:
    """Return the terms of a balanced loss; what it has measured goes into the trainer's log."""
    terms = balanced.terms(pred, target)
    if balanced.just_measured:
        logging.getLogger("basicsr").info(
            "pixel loss %(pixel).4g, feature loss %(feature).4g with weight %(weight).4g, gradient ratio %(ratio).3g",
            balanced.log(),
        )
    return terms


def _places_of_basicsr() -> list[Any]:
    places: list[Any] = []
    for name in ("basicsr.utils.registry", "basicsr.models.losses"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                continue
            advice = "make `import basicsr` work first"
            raise ModuleNotFoundError(f"basicsr is there but cannot be imported: {error}; {advice}") from error
        places.append(getattr(module, "LOSS_REGISTRY", module))
    if not places:
        advice = "put the folder of NAFNet's or HINet's copy on PYTHONPATH, or pass a registry: register(LOSS_REGISTRY)"
        raise ModuleNotFoundError(f"no basicsr was found; install it, {advice}")
    return places
