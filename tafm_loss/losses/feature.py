"""The loss: how far two images are apart in the features of a backbone."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss._ambient import usual_defaults
from tafm_loss._version import __version__
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.images import check_images
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.losses.options import Layers, checked_range, checked_weight, layer_names, layer_weights, require_one_of
from tafm_loss.losses.ranges import RangeWatch
from tafm_loss.weights.loading import RECOMMENDED, cut_backbone, load_backbone

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FeatureMaps", "TaskAdaptiveFeatureLoss"]

REDUCTIONS = ("mean", "sum", "none")
LOADING_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "sha256", "module")


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Features of one batch of images, as `TaskAdaptiveFeatureLoss.features` returns them.

    Args:
        maps: {tap: features}, (N, C, H', W') each, or (N, C).
        image_shape: the shape (N, 3, H, W) of the images.
        backbone: the SHA-256 of the backbone that made them.
    """

    maps: Mapping[str, Tensor]
    image_shape: tuple[int, ...]
    backbone: str

    def to(self, device: torch.device | str) -> "FeatureMaps":
        """Return the same features on another device, for targets that are kept off the accelerator."""
        return dataclasses.replace(self, maps={tap: features.to(device) for tap, features in self.maps.items()})


class TaskAdaptiveFeatureLoss(nn.Module):
    """Distance between restored and sharp images in the features of a backbone that knows images, blur, or both.

    Each tap's distance is averaged over the image and divided by its unit: a loss of 1 is as far as a 10 px shake, on
    average over the validation images of the tuning. A backbone that carries no units gives plain distances.
    The backbone is a frozen copy: always in evaluation mode, without parameters, and absent from `state_dict()`. It
    follows the loss to other devices and dtypes, and nothing else that is done to the parent module reaches it.

    After "Task-Adaptive Feature Matching Loss for Image Deblurring" (ICIP 2023), which compares one embedding of the
    whole image: that form is a backbone that ends in an embedding. Others are compared at every location.

    Args:
        backbone: a name that `list_backbones` knows, a folder, "owner/name[@revision]" on the Hugging Face Hub, or a
            `Backbone`, which is copied.
        layers: the taps to compare: a sequence of names, averaged; {name: weight}, summed as given; or None for those
            that the backbone's config recommends.
        distance: "l1", "l2", "charbonnier", "cosine", "normalized_l2" or "structure"; None for the one that the config
            recommends.
        reduction: over the batch: "mean" or "sum", giving (), or "none", giving (N,).
        weight: what the loss is multiplied by; `calibrate_weight` finds it.
        input_range: the values of black and white in the images.

    Raises:
        WeightsError: if the backbone cannot be found or loaded.
        ValueError: for an unknown tap or distance, a weight that is negative or not finite, or an empty range.
        TypeError: for a backbone that is neither a name nor a `Backbone`.

    Example:
        >>> import torch
        >>> loss_fn = TaskAdaptiveFeatureLoss()
        >>> sharp = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> loss_fn(sharp, sharp)
        tensor(0.)
        >>> target = loss_fn.features(sharp)  # once, for as many predictions as there are
        >>> bool(loss_fn(sharp * 0.9, target) == loss_fn(sharp * 0.9, sharp))
        True
    """

    # What is read of a backbone if no layers are given; None for all of its taps.
    _usual_layers: ClassVar[str | None] = RECOMMENDED

    @usual_defaults()
    def __init__(
        self,
        backbone: str | Path | Backbone = "tafm-lite",
        *,
        layers: Layers | None = None,
        distance: str | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        weight: float = 1.0,
        input_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if distance is not None:
            require_one_of(distance, DISTANCES, "distance")
        require_one_of(reduction, REDUCTIONS, "reduction")
        self.reduction = reduction
        self.weight = checked_weight(weight, "weight")
        self.input_range = checked_range(input_range)
        source = self._load(backbone, layers)
        if source.mean.is_meta:
            raise RuntimeError("the backbone has no weights: it is on the device meta; load it anew")
        config = source.config
        self.distance = config.recommended_distance if distance is None else distance
        require_one_of(self.distance, DISTANCES, f"recommended_distance in the config of {config.name}")
        self.backbone: Backbone
        # Not registered: DistributedDataParallel would broadcast a child's buffers at every step, sync-batch-norm
        # conversion and apply() would rewrite it, and older checkpoints would miss its batch counts.
        self.__dict__["backbone"] = source.frozen_copy()
        self.sha256 = source.sha256
        chosen = layers if layers is not None else config.recommended_layers or None
        self.layers = layer_weights(chosen, tuple(config.taps))
        self._range = RangeWatch(*self.input_range)
        self.eval()

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "Self":
        """Return the loss with the backbone that `source` names.

        Args:
            source: as for `load_backbone`.
            options: `revision`, `token`, `cache_dir`, `local_files_only`, `sha256` and `module` go to `load_backbone`,
                all others to the constructor. Without any of those six this is the constructor.

        Raises:
            WeightsError: of the kind that says why the backbone cannot be loaded.
            ValueError: as `load_backbone` and the constructor.
        """
        loading = {name: options.pop(name) for name in LOADING_OPTIONS if name in options}
        return cls(cls._load(source, options.get("layers"), **loading) if loading else source, **options)

    def forward(self, pred: Tensor, target: Tensor | FeatureMaps) -> Tensor:
        """Return the loss in float32: (), or (N,) for reduction="none". Gradient reaches `pred` alone.

        Args:
            pred: restored images (N, 3, H, W), RGB in `input_range`; float32, float16 or bfloat16.
            target: sharp images of the same shape, or their `features`, which are then not computed again.

        Raises:
            TypeError: if an image is no floating-point tensor.
            ValueError: if images or features cannot be compared: by shape, device, size or backbone.
        """
        return functools.reduce(torch.add, self.terms(pred, target).values())

    def terms(self, pred: Tensor, target: Tensor | FeatureMaps) -> dict[str, Tensor]:
        """Return {tap: its part of the loss}, weighted and reduced: the parts add up to `forward`."""
        return {
            tap: self._reduced(distances.flatten(1).mean(1)) * self._scale(tap)
            for tap, distances in self._distances(pred, target).items()
        }

    def distance_map(self, pred: Tensor, target: Tensor | FeatureMaps) -> Tensor:
        """Return where the images differ, (N, 1, H, W) in float32.

        The weighted distances of all taps, bilinearly upsampled to the size of the image and added. The mean of the map
        is the loss, up to what interpolation changes at the borders.

        Raises:
            ValueError: as `forward`, and if the backbone ends in an embedding.
        """
        if not self.backbone.config.spatial:
            name = self.backbone.config.name
            raise ValueError(f"distance_map needs feature maps, but the backbone {name!r} ends in an embedding")
        parts = [
            F.interpolate(distances, pred.shape[-2:], mode="bilinear", align_corners=False) * self._scale(tap)
            for tap, distances in self._distances(pred, target).items()
        ]
        return functools.reduce(torch.add, parts)

    def features(self, images: Tensor) -> FeatureMaps:
        """Return the features of images (N, 3, H, W), reusable as `target`.

        Raises:
            TypeError: if `images` is no floating-point tensor.
            ValueError: if its shape, device or size is not what the backbone takes.
        """
        self._check_images(images, "images")
        self._range.see(images)
        return FeatureMaps(self._maps(images), tuple(images.shape), self.sha256)

    @classmethod
    def _load(cls, source: str | Path | Backbone, layers: Layers | None, **loading: Any) -> Backbone:
        """Return the backbone that `source` names or is, no deeper than the layers or, for None, `_usual_layers`."""
        wanted = cls._usual_layers if layers is None else layer_names(layers)
        if isinstance(source, Backbone):
            return cut_backbone(source, wanted)
        if not isinstance(source, str | Path):
            raise TypeError(f"backbone must be a name, a folder or a Backbone, got {type(source).__name__}")
        return load_backbone(source, layers=wanted, **loading)

    def train(self, mode: bool = True) -> "TaskAdaptiveFeatureLoss":
        """Stay in evaluation mode whatever `mode` is, and return self."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TaskAdaptiveFeatureLoss":
        # Where it goes and in which type is asked with a tensor that may be lost: `to_empty` keeps no values.
        mean = self.backbone.mean
        try:
            moved = fn(mean.new_zeros(1, 2, 2, 2))
        except NotImplementedError:  # from the device meta to another
            moved = torch.empty(1, 2, 2, 2)
        if mean.is_meta and not moved.is_meta:
            raise RuntimeError(f"the weights of {type(self).__name__} were lost on the device meta; make the loss anew")
        self.backbone.to(moved)
        if moved.is_contiguous(memory_format=torch.channels_last):
            self.backbone.to(memory_format=torch.channels_last)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(backbone={self.backbone.config.name!r}, sha256={self.sha256[:8]!r}, "
            f"layers={self.layers}, distance={self.distance!r}, reduction={self.reduction!r}, weight={self.weight}, "
            f"input_range={self.input_range}, version={__version__!r})"
        )

    def _distances(self, pred: Tensor, target: Tensor | FeatureMaps) -> dict[str, Tensor]:
        # The target goes first: without a graph its activations are gone before those of pred are kept.
        target_maps = self._target_maps(pred, target)
        distance = DISTANCES[self.distance]
        return {tap: distance(features, target_maps[tap]) for tap, features in self._maps(pred).items()}

    def _target_maps(self, pred: Tensor, target: Tensor | FeatureMaps, *others: Tensor) -> dict[str, Tensor]:
        """Check what is compared, and return the features of the target without graph."""
        self._check_images(pred, "pred")
        if isinstance(target, FeatureMaps):
            self._check_features(pred, target)
            return {tap: _without_graph(target.maps[tap]) for tap in self.layers}
        self._check_images(target, "target")
        self._range.see(target, *others)
        if target.shape != pred.shape:
            raise ValueError(f"pred and target must have the same shape, got {_shape(pred)} and {_shape(target)}")
        with torch.no_grad():
            return self._maps(target)

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        black, white = self.input_range
        if (black, white) != (0.0, 1.0):
            images = (images.to(self.backbone.mean.dtype) - black) / (white - black)
        features = self.backbone(images)
        return {tap: features[tap] for tap in self.layers}

    def _scale(self, tap: str) -> float:
        unit = self.backbone.config.units.get(self.distance, {}).get(tap, 1.0)
        return self.weight * self.layers[tap] / unit

    def _reduced(self, losses: Tensor) -> Tensor:
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def _check_images(self, images: Tensor, name: str) -> None:
        check_images(images, name, minimum_size=self.backbone.config.minimum_size)
        if images.shape[0] == 0:
            raise ValueError(f"{name} must hold at least one image, got shape {_shape(images)}")
        device = self.backbone.mean.device
        if images.device != device:
            raise ValueError(f"{name} is on {images.device}, but the loss is on {device}; move one of them")

    def _check_features(self, pred: Tensor, target: FeatureMaps) -> None:
        if target.backbone != self.sha256:
            raise ValueError(
                f"target holds features of another backbone: sha256 {target.backbone[:8]}, "
                f"this loss has {self.sha256[:8]} ({self.backbone.config.name})"
            )
        if missing := [tap for tap in self.layers if tap not in target.maps]:
            raise ValueError(f"target holds no features of {', '.join(missing)}, only of {', '.join(target.maps)}")
        if target.image_shape != tuple(pred.shape):
            raise ValueError(f"target holds features of images {target.image_shape}, but pred has shape {_shape(pred)}")
        if elsewhere := {target.maps[tap].device for tap in self.layers} - {pred.device}:
            there = elsewhere.pop()
            raise ValueError(
                f"target holds features on {there}, but pred is on {pred.device}; move them with target.to(pred.device)"
            )


def _without_graph(features: Tensor) -> Tensor:
    # Autograd cannot keep tensors that inference_mode made, but copies of them.
    inference = not torch.compiler.is_compiling() and features.is_inference()
    return features.clone() if inference else features.detach()


def _shape(images: Tensor) -> tuple[int, ...]:
    return tuple(images.shape)
