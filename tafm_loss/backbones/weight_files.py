"""Files of weights: what is checked before a byte of them reaches a network."""

import hashlib
import io
import json
import os
import pickle
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from tafm_loss.backbones.backbone import BackboneConfig

__all__ = ["WeightFile", "WeightsError", "fill_network", "parse_safetensors", "reachable", "read_weights"]

MAXIMUM_HEADER = 8 * 2**20
PICKLED = (".pth", ".pt", ".bin")
CONNECTION_TIMEOUT = 5.0


class WeightsError(OSError):
    """Weights cannot be had, or are not what they should be. The message says which file and what to do."""


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
        WeightsError: if there is no such file, or its size, digest or contents are wrong.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *PICKLED):
        raise WeightsError(f"weights must be a .safetensors, {', '.join(PICKLED)} file, got {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error
    if size is not None and len(data) != size:
        raise WeightsError(f"{path} has {len(data)} bytes, expected {size}: fetch it again")
    if path.suffix == ".safetensors":
        return parse_safetensors(data, str(path), sha256=sha256)
    digest = _checked_digest(data, str(path), sha256)
    return WeightFile(path.name, digest, _unpickle(data, path))


def parse_safetensors(data: bytes, where: str, *, sha256: str | None = None) -> WeightFile:
    """Read the bytes of a safetensors file; `where` names it in errors.

    Raises:
        WeightsError: if the digest differs from `sha256`, the format is broken or the config in it is.
    """
    digest = _checked_digest(data, where, sha256)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAXIMUM_HEADER, len(data) - 8):
        begins = data[:24]
        raise WeightsError(f"{where} is no safetensors file, or an incomplete one: it begins with {begins!r}")
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        config = BackboneConfig.from_json(metadata["config"]) if "config" in metadata else None
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{where} is no safetensors file, or an incomplete one: {error}") from error
    except (ValueError, KeyError) as error:
        raise WeightsError(f"{where} cannot be read as weights: {error}") from error
    return WeightFile(Path(where).name, digest, tensors, config)


def fill_network(
    network: nn.Module, file: WeightFile, architecture: str, *, accepts: Callable[[str], bool] = lambda name: False
) -> None:
    """Load the tensors of `file` into `network`, which may be on the meta device.

    Args:
        network: what is filled, in place.
        file: where the tensors come from.
        architecture: what `network` is called in errors.
        accepts: says whether a tensor that `network` lacks is left aside (a part beyond the last tap) instead
            of being an error.

    Raises:
        WeightsError: naming the tensors that are missing, unexpected, of another shape or kind, or not finite.
    """
    wanted = network.state_dict()
    unexpected = [name for name in file.tensors if name not in wanted and not accepts(name)]
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
        raise WeightsError(f"{file.name} does not fit {architecture}: {'; '.join(fault for fault in faults if fault)}")
    network.load_state_dict(selected, assign=any(tensor.is_meta for tensor in wanted.values()))


def reachable(url: str) -> bool:
    """Whether a connection to the host of `url` can be opened within seconds.

    Loaders wait or retry for much longer before they admit that there is no network. With a proxy configured
    the answer is always True: it is the proxy that knows.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies():
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECTION_TIMEOUT).close()
    except OSError:
        return False
    return True


def _checked_digest(data: bytes, where: str, expected: str | None) -> str:
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected.lower():
        raise WeightsError(f"{where} has sha256 {digest}, expected {expected}: damaged or changed; fetch it again")
    return digest


def _unpickle(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged, and is not unpickled; "
            "save a plain state dict, best as safetensors"
        ) from error
    except Exception as error:  # a damaged archive makes torch.load raise almost anything
        raise WeightsError(f"{path} is no state dict saved by torch.save, or is damaged: {error}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path} must hold a plain state dict {{name: tensor}}; pick it out of the checkpoint first")
    return tensors


def _misfit(name: str, tensor: Tensor, target: Tensor) -> list[str]:
    if tensor.shape != target.shape:
        return [f"{name} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}"]
    if tensor.is_floating_point() != target.is_floating_point():
        return [f"{name} is {tensor.dtype}, expected {target.dtype}"]
    if not torch.isfinite(tensor).all():
        return [f"{name} has values that are not finite"]
    return []


def _listed(what: str, names: list[str], limit: int = 3) -> str:
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{what}: {', '.join(names[:limit])}{more}"
