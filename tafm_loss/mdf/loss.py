"""MDF: the distance between images in the features of discriminators, and the official files that hold some.

These files are pickles, so only bytes that are known are unpickled.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from tafm_loss._files import open_regular
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.discriminators import ARCHITECTURE, discriminator_backbone
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.weights.errors import WeightsError, WeightsFormatError, WeightsNotFoundError
from tafm_loss.weights.files import WeightFile, discriminators_in
from tafm_loss.weights.loading import load_backbone

__all__ = ["DiscriminativeFeatureLoss", "read_discriminators"]

PICKLED = ".pth"
# The files of gfxdisp/mdf by their SHA-256.
OFFICIAL = {
    "69ff954e399176a4869cbc27019df02a32b6600f0f4458f5580c1a7cae8c50b1": "Ds_SISR.pth and Ds_Denoising.pth",
    "6eee1fbf452c7789db78cfd70de6ff375ed15efa9e48be34eb0bb88ed511ca46": "Ds_JPEG.pth",
}
# More than any of them has; of a larger file no more is read.
MAXIMUM_FILE = 2**23


class DiscriminativeFeatureLoss(TaskAdaptiveFeatureLoss):
    """Distance between restored and sharp images in the features of discriminators trained on one image and one task.

    The sum, over all discriminators and the three taps of each, of the mean squared difference of the features. The
    discriminators were trained on ever larger versions of the image; all of them look at both images in full size.

    Mustafa et al., "Training a Task-Specific Image Reconstruction Loss" (WACV 2022). With the first eight
    discriminators of an official file, as `read_discriminators` takes them, this is the published loss.

    Args:
        discriminators: an official file of MDF (a path that ends in ".pth"); or a folder, "owner/name[@revision]" on
            the Hugging Face Hub, or a `Backbone` that holds discriminators, which is copied.
        reduction: over the batch: "mean" or "sum", giving (), or "none", giving (N,).
        weight: what the loss is multiplied by.
        input_range: the values of black and white in the images.

    Raises:
        ValueError: if the backbone is not one of discriminators, for a weight that is negative or not finite, or an
            empty range.
        TypeError: if `discriminators` is neither a path nor a `Backbone`.
        WeightsError: if the weights cannot be had.

    Example:
        >>> from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
        >>> loss_fn = DiscriminativeFeatureLoss(discriminator_backbone(PatchDiscriminators([4]), "random"))
        >>> list(loss_fn.layers)
        ['scale1.head', 'scale1.body', 'scale1.tail']
    """

    def __init__(
        self,
        discriminators: str | Path | Backbone,
        *,
        reduction: Literal["mean", "sum", "none"] = "mean",
        weight: float = 1.0,
        input_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not isinstance(discriminators, str | Path | Backbone):
            raise TypeError(f"discriminators must be a path, a name or a Backbone, got {type(discriminators).__name__}")
        if isinstance(discriminators, Backbone):
            backbone = discriminators
        else:
            pickled = Path(discriminators).suffix == PICKLED
            backbone = read_discriminators(discriminators) if pickled else load_backbone(discriminators)
        if backbone.config.architecture != ARCHITECTURE:
            raise ValueError(
                f"discriminators must be {ARCHITECTURE}, got the backbone {backbone.config.name!r}, which is "
                f"{backbone.config.architecture}; TaskAdaptiveFeatureLoss takes it"
            )
        super().__init__(
            backbone,
            layers=dict.fromkeys(backbone.config.taps, 1.0),
            distance="l2",
            reduction=reduction,
            weight=weight,
            input_range=input_range,
        )


def read_discriminators(path: str | os.PathLike[str], *, scales: int = 8) -> Backbone:
    """Return the first discriminators of an official file of MDF as a backbone.

    The files are those in the folder weights/ of github.com/gfxdisp/mdf: `Ds_SISR.pth`, `Ds_Denoising.pth` (the same
    bytes as `Ds_SISR.pth`, so both are the same discriminators) and `Ds_JPEG.pth`. They are known by their SHA-256.
    No other file is unpickled, since a pickle can run code. Images are RGB in [0, 1], as in that repository's examples.

    Args:
        path: the file.
        scales: how many of its discriminators to take, from the first; the published loss takes 8.

    Raises:
        ValueError: if `scales` is not positive, or larger than the number of discriminators that are there.
        WeightsError: of the kind that says what is wrong: there is no such file, or it is none of the official ones.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            data = file.read(MAXIMUM_FILE)
    except OSError as error:
        kind = WeightsNotFoundError if isinstance(error, FileNotFoundError) else WeightsError
        raise kind(f"cannot read the discriminators {path}: {error.strerror}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 not in OFFICIAL:
        known = "; ".join(f"{names}, sha256 {digest}" for digest, names in OFFICIAL.items())
        raise WeightsFormatError(
            f"{path} is no official file of MDF, or it is damaged: its sha256 is {sha256}. Known are: {known}. Nothing "
            "else is unpickled, since a pickle can run code; discriminators of your own are safetensors, in a folder "
            "that train_discriminators(out_dir=...) or save_backbone writes and DiscriminativeFeatureLoss takes"
        )
    modules = _unpickle(data)
    if not 1 <= scales <= len(modules):
        raise ValueError(f"scales must be 1 to {len(modules)}, the number of discriminators in {path}, got {scales}")
    tensors = {
        f"scale{index}.{name}": tensor
        for index, module in enumerate(modules[:scales], 1)
        for name, tensor in _named_tensors(module)
    }
    which = f"{path.name} (sha256 {sha256}), discriminators 1 to {scales} of {len(modules)}"
    return discriminator_backbone(
        discriminators_in(WeightFile(path.name, sha256, tensors)),
        f"mdf-{path.stem.removeprefix('Ds_').lower()}",
        licence="BSD-3-Clause",
        base_weights=f"official {which} of gfxdisp/mdf",
        training_data="one natural image and its degraded form",
    )


class _Module(SimpleNamespace):
    """Stands for a module: its attributes, without its code."""


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


STAND_INS: Mapping[str, Any] = {
    "SinGAN.models.WDiscriminator": _Module,
    "SinGAN.models.ConvBlock": _Module,
    "torch.nn.modules.container.Sequential": _Module,
    "torch.nn.modules.conv.Conv2d": _Module,
    "torch.nn.modules.batchnorm.BatchNorm2d": _Module,
    "torch.nn.modules.activation.LeakyReLU": _Module,
    "collections.OrderedDict": dict,
    "torch.FloatStorage": torch.float32,
    "torch.LongStorage": torch.int64,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}


def _unpickle(data: bytes) -> list[_Module]:
    """Return the modules in a file of the form that torch.save wrote before PyTorch 1.6: five pickles and numbers."""
    stream, storages = io.BytesIO(data), dict[str, Tensor]()

    class Unpickler(pickle.Unpickler):
        """Knows the names in the official files alone, and puts stand-ins in their place."""

        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in STAND_INS:
                raise pickle.UnpicklingError(f"{module}.{name} is in no official file of MDF")
            return STAND_INS[f"{module}.{name}"]

        def persistent_load(self, saved: Any) -> Any:
            if saved[0] == "module":  # a class, and the source that it was saved with
                return saved[1]
            _, dtype, key, _, count, _ = saved
            return storages.setdefault(key, torch.empty(count, dtype=dtype))

    _magic, _version, _system, modules, keys = (Unpickler(stream).load() for _ in range(5))
    for key in keys:
        stream.seek(8, os.SEEK_CUR)  # how many numbers, which is known
        stream.readinto(storages[key].numpy().data.cast("B"))
    result: list[_Module] = modules
    return result


def _named_tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name, as `torch.nn.Module.state_dict` does."""
    for name, tensor in {**module._parameters, **module._buffers}.items():
        yield prefix + name, tensor
    for name, child in module._modules.items():
        yield from _named_tensors(child, f"{prefix}{name}.")
