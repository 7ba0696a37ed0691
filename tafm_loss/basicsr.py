"""The loss in option files of BasicSR, and of NAFNet and HINet, which carry old copies of BasicSR.

`tafm_loss.basicsr.register()` in the training script makes two types known to option files: `TAFMPerceptualLoss` for
`perceptual_opt`, and `PixelTAFMLoss`, which holds the pixel loss as well, for `pixel_opt`. `examples/README.md` has the
option files.
"""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from tafm_loss.losses.balance import multi_output
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.losses.options import checked_weight, require_one_of

__all__ = ["PIXEL_LOSSES", "PixelTAFMLoss", "TAFMPerceptualLoss", "negative_psnr", "register"]

NEGATIVE_PSNR_EPS = 1e-8


def register(registry: Any = None) -> None:
    """Make `TAFMPerceptualLoss` and `PixelTAFMLoss` known to option files. Calling it again does nothing.

    Args:
        registry: a registry of BasicSR's, or a module in which losses are looked up by name, as `basicsr.models.losses`
            of NAFNet and HINet. None for all of these that the installed basicsr has.

    Raises:
        ModuleNotFoundError: if `registry` is None and there is no basicsr, or it cannot be imported.
        TypeError: if `registry` is neither a registry nor a module.
        ValueError: if one of the names is taken by something else.
    """
    for place in _places_of_basicsr() if registry is None else [registry]:
        is_module = isinstance(place, ModuleType)
        if not is_module and not callable(getattr(place, "register", None)):
            raise TypeError(f"registry must be one of BasicSR's registries or a module, got {type(place).__name__}")
        for loss in (TAFMPerceptualLoss, PixelTAFMLoss):
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
        perceptual_weight: what the loss is multiplied by, under BasicSR's name.
        options: `backbone`, `layers`, `distance` and `input_range`, as for `TaskAdaptiveFeatureLoss`. Where the data
            set's `mean` and `std` are 0.5, the `input_range` is [-1, 1].
    """

    def __init__(self, *, perceptual_weight: float = 1.0, **options: Any) -> None:
        super().__init__()
        self.feature = TaskAdaptiveFeatureLoss(weight=perceptual_weight, reduction="mean", **options)

    def forward(self, pred: Tensor, target: Tensor) -> tuple[Tensor, None]:
        """Return the loss () and None, for restored and sharp images (N, 3, H, W), RGB."""
        return self.feature(pred, target), None


class PixelTAFMLoss(nn.Module):
    """A pixel loss and `TaskAdaptiveFeatureLoss` in one, for trainers that call `pixel_opt` alone, as HINet's does.

    Args:
        pixel: "l1"; "mse"; "charbonnier", with MPRNet's eps of 1e-3, where BasicSR's own has 1e-6; or "psnr", the loss
            of HINet and NAFNet, see `negative_psnr`.
        loss_weight: what the pixel loss is multiplied by, under BasicSR's name: 0.5 in HINet's files, 1 in NAFNet's.
        perceptual_weight: what the feature loss is multiplied by.
        reduction: "mean"; with any other the weights would depend on the size of the crop.
        options: `backbone`, `layers`, `distance` and `input_range`, as for `TaskAdaptiveFeatureLoss`.

    Raises:
        ValueError: for an unknown pixel loss, a weight that is negative or not finite, or another reduction.
    """

    def __init__(
        self,
        pixel: str = "l1",
        *,
        loss_weight: float = 1.0,
        perceptual_weight: float = 1.0,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__()
        require_one_of(pixel, PIXEL_LOSSES, "pixel")
        require_one_of(reduction, ["mean"], "reduction")
        self.pixel = pixel
        self.loss_weight = checked_weight(loss_weight, "loss_weight")
        self.feature = TaskAdaptiveFeatureLoss(weight=perceptual_weight, reduction="mean", **options)

    def forward(self, pred: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the sum of both losses, ().

        Args:
            pred: restored images (N, 3, H, W), RGB; or a list of a network's outputs, whose losses `multi_output` adds.
            target: sharp images of the same shape.
        """
        pixel_loss = PIXEL_LOSSES[self.pixel]
        if isinstance(pred, Tensor):
            feature, pixel = self.feature(pred, target), pixel_loss(pred, target)
        else:
            feature, pixel = multi_output(self.feature, pred, target), multi_output(pixel_loss, pred, target)
        total: Tensor = self.loss_weight * pixel + feature
        return total

    def extra_repr(self) -> str:
        """Return what the child does not say."""
        return f"pixel={self.pixel!r}, loss_weight={self.loss_weight}"


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
