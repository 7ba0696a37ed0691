"""MDF: the distance between images in the features of discriminators, and the official files that hold some.

These files are pickles, so only bytes that are known are unpickled.
"""

import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from tafm_loss._ambient import usual_defaults
from tafm_loss._files import user_path
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.discriminators import ARCHITECTURE, discriminator_backbone
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.weights.errors import WeightsFormatError
from tafm_loss.weights.files import WeightFile, discriminators_in, read_bytes
from tafm_loss.weights.loading import load_backbone

__all__ = ["DiscriminativeFeatureLoss", "read_discriminators"]

# The files of gfxdisp/mdf by their SHA-256.
OFFICIAL = {
    "69ff954e399176a4869cbc27019df02a32b6600f0f4458f5580c1a7cae8c50b1": "Ds_SISR.pth and Ds_Denoising.pth",
    "6eee1fbf452c7789db78cfd70de6ff375ed15efa9e48be34eb0bb88ed511ca46": "Ds_JPEG.pth",
}
# More than any of them has.
MAXIMUM_FILE = 2**23


class DiscriminativeFeatureLoss(TaskAdaptiveFeatureLoss):
    """Distance between restored and sharp images in the features of discriminators trained on one image and one task.

    The sum, over all discriminators and the three taps of each, of the mean squared difference of the features of both
    images in full size. With an official file, of which the first eight discriminators are taken, it is the loss of
    Mustafa et al., "Training a Task-Specific Image Reconstruction Loss" (WACV 2022).

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
    """

    _usual_layers = None

    def __init__(
        self,
        discriminators: str | Path | Backbone,
        *,
        reduction: Literal["mean", "sum", "none"] = "mean",
        weight: float = 1.0,
        input_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if isinstance(discriminators, Backbone):
            backbone = discriminators
        elif isinstance(discriminators, str | Path):
            official = Path(discriminators).suffix == ".pth"
            backbone = read_discriminators(discriminators) if official else load_backbone(discriminators)
        else:
            raise TypeError(f"discriminators must be a path, a name or a Backbone, got {type(discriminators).__name__}")
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


@usual_defaults()
def read_discriminators(path: str | Path, *, scales: int = 8) -> Backbone:
    """Return the first discriminators of an official file of MDF as a backbone.

    The files are those in the folder weights/ of github.com/gfxdisp/mdf: `Ds_SISR.pth`, `Ds_Denoising.pth` (the same
    bytes) and `Ds_JPEG.pth`, known by their SHA-256. No other is unpickled, since a pickle can run code.

    Args:
        path: the file.
        scales: how many of its discriminators to take, from the first; the published loss takes 8.

    Raises:
        ValueError: if `scales` is not positive, or larger than the number of discriminators that are there.
        WeightsError: of the kind that says what is wrong: there is no such file, or it is none of the official ones.
    """
    path = user_path(path)
    data = read_bytes(path, "the discriminators", most=MAXIMUM_FILE)
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


MODULES = ("container.Sequential", "conv.Conv2d", "batchnorm.BatchNorm2d", "activation.LeakyReLU")
# In the place of a module, its attributes without its code.
STAND_INS: dict[str, Any] = {
    "SinGAN.models.WDiscriminator": SimpleNamespace,
    "SinGAN.models.ConvBlock": SimpleNamespace,
    **dict.fromkeys((f"torch.nn.modules.{name}" for name in MODULES), SimpleNamespace),
    "collections.OrderedDict": dict,
    "torch.FloatStorage": torch.float32,
    "torch.LongStorage": torch.int64,
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, size, stride, *_: storage.as_strided(
        size, stride, offset
    ),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}


def _unpickle(data: bytes) -> list[Any]:
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
        stream.read(8)  # how many numbers, which is known
        stream.readinto(storages[key].numpy().data.cast("B"))
    return list(modules)


def _named_tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name, as `torch.nn.Module.state_dict` does."""
    yield from ((prefix + name, tensor) for name, tensor in {**module._parameters, **module._buffers}.items())
    for name, child in module._modules.items():
        yield from _named_tensors(child, f"{prefix}{name}.")
