"""The official files of MDF, as backbones."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from tafm_loss._files import open_regular
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.discriminators import discriminator_backbone, discriminators_in
from tafm_loss.mdf.module_pickle import SavedModule, parse_modules
from tafm_loss.weights.errors import WeightsError, WeightsFormatError, WeightsNotFoundError
from tafm_loss.weights.files import WeightFile

__all__ = ["read_discriminators"]

# The files of gfxdisp/mdf by their SHA-256.
OFFICIAL = {
    "69ff954e399176a4869cbc27019df02a32b6600f0f4458f5580c1a7cae8c50b1": "Ds_SISR.pth and Ds_Denoising.pth",
    "6eee1fbf452c7789db78cfd70de6ff375ed15efa9e48be34eb0bb88ed511ca46": "Ds_JPEG.pth",
}
OFFICIAL_LICENCE = "BSD-3-Clause"
# Four times the size of the official files.
MAXIMUM_FILE = 16 * 2**20

# What decides about the features beside the tensors and their shapes.
SETTINGS = {
    "Conv2d": ("stride", "padding", "dilation", "groups"),
    "BatchNorm2d": ("eps",),
    "LeakyReLU": ("negative_slope",),
}


def read_discriminators(path: str | os.PathLike[str], *, scales: int = 8) -> Backbone:
    """Return the first discriminators of an official file of MDF as a backbone.

    The files are those in the folder weights/ of github.com/gfxdisp/mdf: `Ds_SISR.pth`, `Ds_Denoising.pth` (the same
    bytes as `Ds_SISR.pth`, so both are the same discriminators) and `Ds_JPEG.pth`. They are pickles of whole modules;
    they are read without running code of theirs. Images are RGB in [0, 1], as in that repository's examples.

    Args:
        path: the file.
        scales: how many of its discriminators to take, from the first; the published loss takes 8.

    Raises:
        ValueError: if `scales` is not positive, or larger than the number of discriminators that are there.
        WeightsNotFoundError: if there is no such file.
        WeightsFormatError: if it holds anything else than such discriminators.
        WeightsError: if it cannot be read.
    """
    path = Path(path)
    data = _read_bytes(path)
    modules = parse_modules(data, str(path))
    if not 1 <= scales <= len(modules):
        raise ValueError(f"scales must be 1 to {len(modules)}, the number of discriminators in {path}, got {scales}")
    file = WeightFile(path.name, hashlib.sha256(data).hexdigest(), _tensors_by_scale(modules[:scales]))
    network = discriminators_in(file)
    for module, (scale, expected) in zip(modules, network.named_children(), strict=False):
        _check_layers(module, expected, f"discriminator {scale} of {path}")
    return discriminator_backbone(network, _name(path), **_origin(file, scales, len(modules)))


def _read_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(MAXIMUM_FILE + 1)
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"cannot read the discriminators {path}: {error.strerror}") from None
    except OSError as error:
        raise WeightsError(f"cannot read the discriminators {path}: {error.strerror}") from error
    if len(data) > MAXIMUM_FILE:
        raise WeightsFormatError(f"{path} has more than {MAXIMUM_FILE} bytes: too many for patch discriminators")
    return data


def _tensors_by_scale(modules: Sequence[SavedModule]) -> dict[str, Tensor]:
    return {
        f"scale{index}.{name}": tensor
        for index, module in enumerate(modules, 1)
        for name, tensor in module.state_dict().items()
    }


def _check_layers(saved: SavedModule, ours: nn.Module, where: str) -> None:
    """Compare what shapes do not tell: which layers there are, in which order, and their settings."""
    found = {
        path: (module.kind, {name: module.settings.get(name) for name in SETTINGS.get(module.kind, ())})
        for path, module in saved.named_modules()
        if not module.children
    }
    expected = {
        path: (type(module).__name__, {name: getattr(module, name) for name in SETTINGS[type(module).__name__]})
        for path, module in ours.named_modules()
        if not list(module.children())
    }
    if list(found.items()) != list(expected.items()):
        wrong = [path for path in expected if found.get(path) != expected[path]]
        advice = f"{wrong[0]} should be {expected[wrong[0]]}" if wrong else "it has other layers, or in another order"
        raise WeightsFormatError(f"{where} is none of MDF: {advice}")


def _name(path: Path) -> str:
    return f"mdf-{path.stem.removeprefix('Ds_').lower()}"


def _origin(file: WeightFile, scales: int, total: int) -> dict[str, str]:
    official = file.sha256 in OFFICIAL
    which = f"{file.name} (sha256 {file.sha256}), discriminators 1 to {scales} of {total}"
    return {
        "licence": OFFICIAL_LICENCE if official else "unknown",
        "base_weights": f"official {which} of gfxdisp/mdf" if official else which,
        "training_data": "one natural image and its degraded form" if official else "unknown",
    }
