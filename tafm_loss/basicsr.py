"""The loss in BasicSR's option files, and in those of NAFNet and HINet, which carry old copies of BasicSR.

    import tafm_loss.basicsr

    tafm_loss.basicsr.register()

in the training script makes two types known to option files: `TAFMPerceptualLoss` for `perceptual_opt`, and
`PixelTAFMLoss`, which holds the pixel loss as well, for `pixel_opt`. Nothing here needs basicsr until `register` is
called without an argument. `examples/README.md` has the option files.
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
        registry: a registry of BasicSR's, or a module in which loss classes are looked up by name, as NAFNet and HINet
            do in `basicsr.models.losses`. None for all of these that the installed basicsr has.

    Raises:
        ModuleNotFoundError: if `registry` is None and there is no basicsr, or it cannot be imported.
        TypeError: if `registry` is neither a registry nor a module.
        ValueError: if one of the names is taken by something else.
    """
    for place in _places_of_basicsr() if registry is None else [registry]:
        for loss in (TAFMPerceptualLoss, PixelTAFMLoss):
            _add(place, loss)


class TAFMPerceptualLoss(nn.Module):
    """`TaskAdaptiveFeatureLoss` for `perceptual_opt`, whose losses give two terms: the second one, style, is None.

    Args:
        perceptual_weight: what the loss is multiplied by, under BasicSR's name.
        options: `backbone`, `layers`, `distance` and `input_range`, as for `TaskAdaptiveFeatureLoss`. Where the data
            set's `mean` and `std` are 0.5, the `input_range` is [-1, 1].

    Raises:
        WeightsError: and the other errors of `TaskAdaptiveFeatureLoss`.

    Example:
        >>> import torch
        >>> loss_fn = TAFMPerceptualLoss(perceptual_weight=0.015)
        >>> sharp = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> loss_fn(sharp, sharp)
        (tensor(0.), None)
    """

    def __init__(self, *, perceptual_weight: float = 1.0, **options: Any) -> None:
        super().__init__()
        self.feature = TaskAdaptiveFeatureLoss(weight=perceptual_weight, reduction="mean", **options)

    def forward(self, pred: Tensor, target: Tensor) -> tuple[Tensor, None]:
        """Return the loss () and None.

        Args:
            pred: restored images (N, 3, H, W), RGB.
            target: sharp images of the same shape.

        Raises:
            TypeError: and ValueError, as `TaskAdaptiveFeatureLoss`.
        """
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
        WeightsError: and the other errors of `TaskAdaptiveFeatureLoss`.
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

        Raises:
            TypeError: and ValueError, as `TaskAdaptiveFeatureLoss` and `multi_output`.
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
    """Return 10 log10(mean squared error of an image + 1e-8), averaged over the batch: minus the PSNR in dB.

    Both are images (N, C, H, W) in [0, 1].
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
    """Return where the installed basicsr looks losses up: its registry, the module of the old copies, or both."""
    places: list[Any] = []
    for name in ("basicsr.utils.registry", "basicsr.models.losses"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ModuleNotFoundError(
                    f"basicsr is there but cannot be imported: {error}; make `import basicsr` work first"
                ) from error
            continue
        places.append(getattr(module, "LOSS_REGISTRY", module))
    if not places:
        raise ModuleNotFoundError(
            "no basicsr was found; install it, put the folder of NAFNet's or HINet's copy on PYTHONPATH, or pass a "
            "registry: register(LOSS_REGISTRY)"
        )
    return places


def _add(place: Any, loss: type[nn.Module]) -> None:
    name = loss.__name__
    if isinstance(place, ModuleType):
        held = getattr(place, name, None)
    elif callable(getattr(place, "register", None)):
        held = place.get(name) if name in place else None
    else:
        raise TypeError(f"registry must be one of BasicSR's registries or a module, got {type(place).__name__}")
    if held is loss:
        return
    if held is not None:
        raise ValueError(f"{name} is taken by {held!r}; remove that one, or register in another place")
    if isinstance(place, ModuleType):
        setattr(place, name, loss)
    else:
        place.register(loss)
