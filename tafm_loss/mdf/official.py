"""The official files of MDF, as backbones. They are pickles, so only bytes that are known are unpickled."""

import hashlib
import io
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tafm_loss._files import open_regular
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.discriminators import discriminator_backbone, discriminators_in
from tafm_loss.weights.errors import WeightsError, WeightsFormatError, WeightsNotFoundError
from tafm_loss.weights.files import WeightFile

__all__ = ["read_discriminators"]

# The files of gfxdisp/mdf by their SHA-256.
OFFICIAL = {
    "69ff954e399176a4869cbc27019df02a32b6600f0f4458f5580c1a7cae8c50b1": "Ds_SISR.pth and Ds_Denoising.pth",
    "6eee1fbf452c7789db78cfd70de6ff375ed15efa9e48be34eb0bb88ed511ca46": "Ds_JPEG.pth",
}
# More than any of them has; of a larger file no more is read.
MAXIMUM_FILE = 2**23


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
        WeightsNotFoundError: if there is no such file.
        WeightsFormatError: if it is none of the official files.
        WeightsError: if it cannot be read.
    """
    path = Path(path)
    data = _read_bytes(path)
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
    return discriminator_backbone(
        discriminators_in(WeightFile(path.name, sha256, tensors)),
        f"mdf-{path.stem.removeprefix('Ds_').lower()}",
        licence="BSD-3-Clause",
        base_weights=f"official {path.name} (sha256 {sha256}), discriminators 1 to {scales} of {len(modules)} of "
        "gfxdisp/mdf",
        training_data="one natural image and its degraded form",
    )


def _read_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(MAXIMUM_FILE)
    except OSError as error:
        kind = WeightsNotFoundError if isinstance(error, FileNotFoundError) else WeightsError
        raise kind(f"cannot read the discriminators {path}: {error.strerror}") from None


class _Module(SimpleNamespace):
    """Stands for a module: its attributes, without its code."""


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


MODULES = {
    "SinGAN.models": ("WDiscriminator", "ConvBlock"),
    "torch.nn.modules.container": ("Sequential",),
    "torch.nn.modules.conv": ("Conv2d",),
    "torch.nn.modules.batchnorm": ("BatchNorm2d",),
    "torch.nn.modules.activation": ("LeakyReLU",),
}
STAND_INS: Mapping[tuple[str, str], Any] = {
    **{(module, name): _Module for module, names in MODULES.items() for name in names},
    ("collections", "OrderedDict"): dict,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "LongStorage"): torch.int64,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}


class _Unpickler(pickle.Unpickler):
    """Knows the names of the official files alone, and puts stand-ins in their place."""

    def __init__(self, stream: io.BytesIO, storages: dict[str, Tensor]) -> None:
        super().__init__(stream)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name} is in no official file of MDF")
        return STAND_INS[module, name]

    def persistent_load(self, saved: Any) -> Any:
        if saved[0] == "module":  # a class, and the source that it was saved with
            return saved[1]
        _, dtype, key, _, count, _ = saved
        return self.storages.setdefault(key, torch.empty(count, dtype=dtype))


def _unpickle(data: bytes) -> list[_Module]:
    """Return the modules in a file of the form that torch.save wrote before PyTorch 1.6: five pickles and numbers."""
    stream, storages = io.BytesIO(data), dict[str, Tensor]()
    _magic, _version, _system, modules, keys = (_Unpickler(stream, storages).load() for _ in range(5))
    for key in keys:
        storage = storages[key].numpy()
        stream.seek(8, os.SEEK_CUR)  # how many numbers, which is known
        stream.readinto(storage.data.cast("B"))
    result: list[_Module] = modules
    return result


def _named_tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name, as `torch.nn.Module.state_dict` does."""
    for name, tensor in {**module._parameters, **module._buffers}.items():
        yield prefix + name, tensor
    for name, child in module._modules.items():
        yield from _named_tensors(child, f"{prefix}{name}.")
