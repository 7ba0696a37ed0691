"""Files of weights: what is checked before a byte of them reaches a network."""

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from tafm_loss.backbones.backbone import BackboneConfig
from tafm_loss.backbones.safetensors_files import read_safetensors
from tafm_loss.backbones.weight_errors import (
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
)

__all__ = ["WeightFile", "fill_network", "read_weight_bytes", "read_weights"]

PICKLED = (".pth", ".pt", ".bin")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class WeightFile(NamedTuple):
    """The contents of a verified file: tensors by name, and its config if it is a file of ours."""

    name: str
    sha256: str
    tensors: Mapping[str, Tensor]
    config: BackboneConfig | None = None


def read_weights(path: str | os.PathLike[str], *, size: int | None = None, sha256: str | None = None) -> WeightFile:
    """Read a safetensors file, or a pickled state dict of tensors alone (.pth, .pt, .bin).

    Args:
        path: the file.
        size: how many bytes it must have, if known.
        sha256: the SHA-256 it must have, if known, in hexadecimal digits.

    Raises:
        WeightsNotFoundError: if there is no such file.
        WeightsCorruptError: if its size or digest is another.
        WeightsFormatError: if it holds something else than weights.
        WeightsError: if it cannot be read.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *PICKLED):
        raise WeightsFormatError(f"weights must be a .safetensors, {', '.join(PICKLED)} file, got {path}")
    try:
        with open(path, "rb") as file:
            return _read(file, path, size, sha256)
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"cannot read the weights {path}: {error.strerror}") from None
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error


def read_weight_bytes(data: bytes, where: str, *, sha256: str) -> WeightFile:
    """Read the bytes of a safetensors file; `where` names it in errors.

    Raises:
        WeightsCorruptError: if the digest differs from `sha256`.
        WeightsFormatError: if the format or the config in it is broken.
    """
    return _read_safetensors(io.BytesIO(data), len(data), where, sha256)


def fill_network(
    network: nn.Module, file: WeightFile, architecture: str, *, accepts: Callable[[str], bool] | None = None
) -> None:
    """Load the tensors of `file` into `network`, which may be on the meta device.

    Args:
        network: what is filled, in place.
        file: where the tensors come from.
        architecture: what `network` is called in errors.
        accepts: says whether a tensor that `network` lacks is left aside (a part beyond the last tap) instead
            of being an error; None: nothing is.

    Raises:
        WeightsFormatError: naming the tensors that are missing, unexpected, of another shape or kind, or not finite.
    """
    wanted = network.state_dict()
    unexpected = [name for name in file.tensors if name not in wanted and not (accepts and accepts(name))]
    missing, misfits, selected = [], [], {}
    for name, target in wanted.items():
        tensor = file.tensors.get(name)
        if tensor is not None:
            misfits += _misfit(name, tensor, target)
            selected[name] = tensor.to(target.dtype)
        elif name.endswith("num_batches_tracked"):
            # A counter that evaluation never reads; files from before it existed are in use.
            selected[name] = torch.zeros((), dtype=target.dtype)
        else:
            missing.append(name)
    faults = [_listed("missing", missing), _listed("unexpected", sorted(unexpected)), _listed("wrong", misfits)]
    if any(faults):
        told = "; ".join(fault for fault in faults if fault)
        raise WeightsFormatError(f"{file.name} does not fit {architecture}: {told}")
    network.load_state_dict(selected, assign=any(tensor.is_meta for tensor in wanted.values()))


def _read(file: BinaryIO, path: Path, size: int | None, sha256: str | None) -> WeightFile:
    found = os.fstat(file.fileno()).st_size
    if size is not None and found != size:
        raise WeightsCorruptError(f"{path} has {found} bytes, expected {size}: fetch it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(file, found, str(path), sha256)
    data = file.read()
    digest = hashlib.sha256(data).hexdigest()
    _check_digest(digest, str(path), sha256)
    return WeightFile(path.name, digest, _unpickle(data, path))


def _read_safetensors(file: BinaryIO, size: int, where: str, sha256: str | None) -> WeightFile:
    try:
        content = read_safetensors(file, size, where)
    except WeightsFormatError:
        # Damage in the header is damage before it is anything else.
        file.seek(0)
        _check_digest(hashlib.sha256(file.read()).hexdigest(), where, sha256)
        raise
    _check_digest(content.sha256, where, sha256)
    try:
        config = BackboneConfig.from_json(content.metadata["config"]) if "config" in content.metadata else None
    except ValueError as error:
        raise WeightsFormatError(f"{where} cannot be read as weights: {error}") from error
    return WeightFile(Path(where).name, content.sha256, content.tensors, config)


def _check_digest(digest: str, where: str, expected: str | None) -> None:
    if expected is not None and digest != expected.lower():
        raise WeightsCorruptError(f"{where} has sha256 {digest}, expected {expected}: damaged or changed")


def _unpickle(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsFormatError(
            f"{path} holds more than tensors, or is damaged, and is not unpickled; "
            "save a plain state dict, best as safetensors"
        ) from error
    except Exception as error:  # a damaged archive makes torch.load raise almost anything
        raise WeightsFormatError(f"{path} is no state dict saved by torch.save, or is damaged: {error}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsFormatError(
            f"{path} must hold a plain state dict {{name: tensor}}; pick it out of the checkpoint first"
        )
    return tensors


def _misfit(name: str, tensor: Tensor, target: Tensor) -> list[str]:
    if tensor.shape != target.shape:
        return [f"{name} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}"]
    if not (tensor.dtype == target.dtype or (tensor.dtype in FLOATS and target.dtype in FLOATS)):
        return [f"{name} is {tensor.dtype}, expected {target.dtype}"]
    # Extremes show NaN and infinity without a copy of the tensor.
    if tensor.is_floating_point() and not all(extreme.isfinite() for extreme in tensor.aminmax()):
        return [f"{name} has values that are not finite"]
    return []


def _listed(what: str, names: list[str], limit: int = 3) -> str:
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{what}: {', '.join(names[:limit])}{more}"
