"""Weights of deblurring networks: reading published files and ours, and writing ours."""

import hashlib
import io
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from examples._common import write_atomically
from examples.deblurring.data.files import named
from tafm_loss import WeightsCorruptError, WeightsError, WeightsFormatError, WeightsNotFoundError

__all__ = ["OFFICIAL", "OfficialFile", "load_weights", "save_weights"]

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pkl", ".ckpt", ".pt", ".bin")
# Files of BasicSR may hold both of the first two; the average of the weights is what it evaluates.
WRAPPERS = ("params_ema", "params", "state_dict", "model")
# What DistributedDataParallel and torch.compile put before names, one around the other in either order.
WRAPPED = re.compile(r"(module\.|_orig_mod\.)*")

UNKNOWN = "the network"
# A tensor that no other kind of network has.
TELLTALES = {
    "mimo-unet": "context_half.merge.weight",
    "hinet": "down_path_1.0.identity.weight",
    "mprnet": "stage3_orsnet.conv_enc1.weight",
    "nafnet": "intro.weight",
    "residual-unet": "network.stem.weight",
    "bdirnet": "network.distill.enter.0.weight",
}

MIMO_BLOCK = re.compile(r"(En|De)coder\.(\d)\.layers\.(\d+)\.main\.([01])\.main\.0\.(weight|bias)")
MIMO_MODULE = re.compile(r"(.+)\.main\.0\.(weight|bias)")
MIMO_MODULES = {
    "feat_extract.0": "stem",
    "feat_extract.1": "down_half",
    "feat_extract.2": "down_quarter",
    "feat_extract.3": "up_half",
    "feat_extract.4": "up_full",
    "feat_extract.5": "out_full",
    "AFFs.0.conv.0": "fuse_full.convs.0",
    "AFFs.0.conv.1": "fuse_full.convs.1",
    "AFFs.1.conv.0": "fuse_half.convs.0",
    "AFFs.1.conv.1": "fuse_half.convs.1",
    "Convs.0": "reduce_half",
    "Convs.1": "reduce_full",
    "ConvsOut.0": "out_quarter",
    "ConvsOut.1": "out_half",
    "FAM1.merge": "attention_quarter.merge",
    "FAM2.merge": "attention_half.merge",
    "SCM1.conv": "context_quarter.merge",
    "SCM2.conv": "context_half.merge",
    **{f"SCM1.main.{index}": f"context_quarter.convs.{index}" for index in range(4)},
    **{f"SCM2.main.{index}": f"context_half.convs.{index}" for index in range(4)},
}


class OfficialFile(NamedTuple):
    """A file of weights that the authors of a network have published.

    Args:
        data: what it was trained on.
        drive_id: of the file on Google Drive, if known.
        mirrors: repositories on the Hugging Face Hub that have a copy.
        sha256: of the file, if known, for `load_weights`.
        licence: of the code and weights.
    """

    data: str
    drive_id: str | None
    mirrors: tuple[str, ...]
    sha256: str | None
    licence: str


NAFNET_MIRRORS = ("nyanko7/nafnet-models", "mikestealth/nafnet-models")
OFFICIAL: Mapping[str, OfficialFile] = {
    "mimo-unet": OfficialFile("GoPro", "1EQJoQj3YMLFfzrbgzWMD3Xj96RqLdIlx", (), None, "none given"),
    "mimo-unet-plus": OfficialFile("GoPro", "166sufeHcdDTgXHNbCRzTC4T6DzuflB5m", (), None, "none given"),
    "hinet": OfficialFile("GoPro", "1dw8PKVkLfISzNtUu3gqGh83NBO83ZQ5n", (), None, "MIT"),
    "mprnet": OfficialFile("GoPro", "1QwQUVbk6YVOJViCsOKYNykCsdJSVGRtb", (), None, "non-commercial"),
    "nafnet-32": OfficialFile(
        "GoPro",
        "1Fr2QadtDCEXg6iwWX8OzeZLbHOx2t5Bj",
        NAFNET_MIRRORS,
        "19394e6155d12ef6371d1d57496f87f0ec88f92bdffa27c0792690722d5d1a5c",
        "MIT",
    ),
    "nafnet-64": OfficialFile(
        "GoPro", None, NAFNET_MIRRORS, "329d3ab4077b8d6b7ff61de376e483714667960bf85be027bf4335cda701196f", "MIT"
    ),
}


def load_weights(network: nn.Module, path: str | os.PathLike[str], *, sha256: str | None = None) -> None:
    """Fill `network` with the weights of a file: all of them, or none if there is an error.

    Published files are read as they are: the state dict may lie under "params_ema", "params", "state_dict" or "model",
    of which the first that is there is taken; names may begin with "module." or "_orig_mod."; MIMO-UNet's become ours;
    and MPRNet's one PReLU, of which a file has a copy for each block, must have one value. No code in a file is run.

    Args:
        network: of `create_network`, on any device.
        path: a .safetensors file, or one that torch.save wrote (.pth, .pkl, .ckpt, .pt, .bin).
        sha256: the SHA-256 that the file must have, if known, in hexadecimal digits.

    Raises:
        WeightsError: of the kind that says what is wrong: `WeightsNotFoundError`, `WeightsCorruptError` for another
            SHA-256, `WeightsFormatError` for a file without weights, or with weights that are missing, unexpected, of
            another shape or not finite.
    """
    path = Path(path)
    tensors = {_our_name(name): tensor for name, tensor in _read(path, sha256).items()}
    _check_shared(network, tensors, path.name)
    wanted = network.state_dict()
    faults = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": sorted(name for name in tensors if name not in wanted),
        "wrong": [fault for name in wanted if name in tensors for fault in _misfit(name, tensors[name], wanted[name])],
    }
    if any(faults.values()):
        kind, found = _kind(wanted), _kind(tensors)
        told = "; ".join(f"{what}: {named(names)}" for what, names in faults.items() if names)
        advice = "" if found in (kind, UNKNOWN) else f"; it looks like weights of {found}"
        raise WeightsFormatError(f"{path.name} does not fit {kind}: {told}{advice}")
    network.load_state_dict(tensors)


def save_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of `network` to a .safetensors file, whose metadata say what kind of network it is.

    Args:
        network: of `create_network`.
        path: ends in .safetensors; its folder is made if there is none.

    Raises:
        ValueError: if `path` ends otherwise.
        WeightsFormatError: if weights are not finite; nothing is written.
        OSError: if the file cannot be written; what was there is still there.
    """
    path = Path(path)
    if path.suffix != SAFETENSORS:
        raise ValueError(f"weights are saved as {SAFETENSORS}, got {path}")
    # Copies, because the format has no tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    if wrong := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise WeightsFormatError(f"the network has values that are not finite: in {named(wrong)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, safetensors.torch.save(tensors, {"network": _kind(tensors)}))


def _kind(names: Iterable[str]) -> str:
    names = set(names)
    return next((kind for kind, telltale in TELLTALES.items() if telltale in names), UNKNOWN)


def _read(path: Path, sha256: str | None) -> dict[str, Tensor]:
    if path.suffix not in (SAFETENSORS, *PICKLED):
        raise WeightsFormatError(f"weights must be a {', '.join((SAFETENSORS, *PICKLED))} file, got {path}")
    if not path.exists():
        raise WeightsNotFoundError(f"there is no file {path}")
    if not path.is_file():  # a pipe may never end
        raise WeightsError(f"cannot read the weights {path}: it is no file")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise WeightsCorruptError(f"{path} has sha256 {digest}, expected {sha256}: it is damaged, or another file")
    if path.suffix != SAFETENSORS:
        return _state_dict(_unpickle(data, path), path)
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise WeightsFormatError(f"{path} cannot be read as weights: {error}") from error


def _unpickle(data: bytes, path: Path) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsFormatError(
            f"{path} cannot be read without running code that is in it, or is damaged, and is left alone; "
            "where you trust it, load it yourself and save its state dict"
        ) from error
    except Exception as error:  # a damaged archive makes torch.load raise almost anything
        raise WeightsFormatError(f"{path} was not written by torch.save, or is damaged: {error}") from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors by name, out of whatever they were wrapped in."""
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content or not all(_is_weight(*item) for item in content.items()):
        raise WeightsFormatError(
            f"{path} must hold a state dict {{name: tensor}}, or one under {', '.join(map(repr, WRAPPERS))}"
        )
    wrapper = min((WRAPPED.match(name)[0] for name in content), key=len)  # type: ignore[index]
    return {name.removeprefix(wrapper): tensor for name, tensor in content.items()}


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _our_name(name: str) -> str:
    """Return our name for a tensor in a published file of MIMO-UNet; any other stays."""
    if block := MIMO_BLOCK.fullmatch(name):
        path, stage, index, conv, tensor = block.groups()
        return f"{path.lower()}coders.{stage}.{index}.{('first', 'second')[int(conv)]}.{tensor}"
    module = MIMO_MODULE.fullmatch(name)
    return f"{MIMO_MODULES[module[1]]}.{module[2]}" if module and module[1] in MIMO_MODULES else name


def _misfit(name: str, tensor: Tensor, wanted: Tensor) -> list[str]:
    if tensor.shape != wanted.shape:
        return [f"{name} has shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)}"]
    if not tensor.is_floating_point():
        return [f"{name} is {tensor.dtype}, expected {wanted.dtype}"]
    return [] if bool(tensor.isfinite().all()) else [f"{name} has values that are not finite"]


def _check_shared(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise a WeightsFormatError if the file has several values for one parameter of the network."""
    first: dict[int, str] = {}
    for name, parameter in network.state_dict(keep_vars=True).items():
        other = first.setdefault(id(parameter), name)
        if name in tensors and other in tensors and not _same(tensors[name], tensors[other]):
            raise WeightsFormatError(
                f"{where} has two values, {other} and {name}, for what is one parameter of the network"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
