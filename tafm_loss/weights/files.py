"""Files of weights: what is checked before a byte of them reaches a network."""

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from tafm_loss._files import open_regular, read_object, user_path
from tafm_loss.backbones.config import BackboneConfig
from tafm_loss.backbones.discriminators import ARCHITECTURE as DISCRIMINATORS
from tafm_loss.backbones.discriminators import PatchDiscriminators
from tafm_loss.weights.errors import WeightsCorruptError, WeightsError, WeightsFormatError, WeightsNotFoundError

__all__ = [
    "MAXIMUM_FILE",
    "WeightFile",
    "check_digest",
    "check_finite",
    "discriminators_in",
    "fill_network",
    "read_bytes",
    "read_weight_bytes",
    "read_weights",
]

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".bin")
MAXIMUM_FILE = 4 * 2**30
# 10,000 tensors fit; the objects that a hostile header becomes stay within tens of megabytes.
MAXIMUM_HEADER = 2**20
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
KINDS = (*FLOATS, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


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
        sha256: the SHA-256 it must have, if known.

    Raises:
        WeightsNotFoundError: if there is no such file.
        WeightsCorruptError: if its size or digest is another.
        WeightsFormatError: if it holds something else than weights.
        WeightsError: if it cannot be read.
    """
    path = user_path(path)
    if path.suffix not in (SAFETENSORS, *PICKLED):
        raise WeightsFormatError(f"weights must be a {', '.join((SAFETENSORS, *PICKLED))} file, got {path}")
    data = read_bytes(path, "the weights", size=size)
    return read_weight_bytes(data, str(path), sha256=sha256, pickled=path.suffix != SAFETENSORS)


def read_weight_bytes(data: bytes, where: str, *, sha256: str | None = None, pickled: bool = False) -> WeightFile:
    """Read the bytes of a safetensors file, or of a pickled state dict; `where` names them in errors.

    What is hashed is what is used: nobody can change a file in between.

    Raises:
        WeightsCorruptError: if the digest differs from `sha256`, if that is known.
        WeightsFormatError: if the format or the config in it is broken.
    """
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None:
        check_digest(digest, sha256, where)
    if pickled:
        return WeightFile(Path(where).name, digest, _unpickle(data, where))
    tensors, metadata = _read_safetensors(data, where)
    try:
        config = BackboneConfig.from_json(metadata["config"]) if "config" in metadata else None
    except ValueError as error:
        raise WeightsFormatError(f"{where} cannot be read as weights: {error}") from error
    return WeightFile(Path(where).name, digest, tensors, config)


def read_bytes(path: Path, what: str, *, size: int | None = None, most: int = MAXIMUM_FILE) -> bytes:
    """Return what a regular file holds, called `what` in errors, which has `size` bytes if that is known.

    Raises:
        WeightsNotFoundError: if there is no such file.
        WeightsCorruptError: if it has not `size` bytes.
        WeightsFormatError: if it has more than `most`.
        WeightsError: if it cannot be read.
    """
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            if found > most:
                raise WeightsFormatError(f"{path} has {found} bytes, more than the {most} that {what} can have")
            if size is None or found == size:
                return file.read()
        raise WeightsCorruptError(f"{path} has {found} bytes, expected {size}: fetch it again, or save it again")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsNotFoundError(f"cannot read {what} {path}: {error.strerror}") from None
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"cannot read {what} {path}: {error.strerror}") from error


def check_digest(found: str, expected: str, where: str) -> None:
    """Raise a WeightsCorruptError unless the SHA-256 that was found is the one that was expected."""
    if found != expected.lower():
        raise WeightsCorruptError(f"{where} has sha256 {found}, expected {expected}: it is damaged, or another file")


def check_finite(file: WeightFile) -> None:
    """Raise a WeightsFormatError that names the tensors with values that are not finite, if there are any."""
    if wrong := [name for name, tensor in file.tensors.items() if not _is_finite(tensor)]:
        raise WeightsFormatError(f"{file.name} has values that are not finite: {_listed('in', wrong)}")


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
        RuntimeError: if something sends every new weight to the meta device.
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
        raise WeightsFormatError(
            f"{file.name} does not fit {architecture}: {told}{_prefix_advice(file.tensors, wanted)}"
        )
    network.load_state_dict(selected, assign=any(tensor.is_meta for tensor in wanted.values()))
    if any(tensor.is_meta for tensor in network.state_dict().values()):
        raise RuntimeError(
            f"the weights of {file.name} were dropped as soon as they were loaded: modules are made without weights "
            "here, as under accelerate's init_empty_weights; load the backbone, or make the loss, outside of it"
        )


def discriminators_in(file: WeightFile) -> PatchDiscriminators:
    """Return the discriminators whose state dict `file` holds; their widths are those of the tensors.

    Raises:
        WeightsFormatError: if it holds something else.
    """
    widths: list[int] = []
    while (weight := file.tensors.get(f"scale{len(widths) + 1}.head.conv.weight")) is not None:
        widths.append(weight.shape[0] if weight.dim() == 4 else 0)
    if not widths or not all(widths):
        scale = max(len(widths), 1)
        raise WeightsFormatError(
            f"{file.name} does not fit {DISCRIMINATORS}: scale{scale}.head.conv.weight is no filter"
        )
    # On the meta device nothing is drawn, nor is memory taken before every shape is checked.
    with torch.device("meta"):
        network = PatchDiscriminators(widths)
    fill_network(network, file, DISCRIMINATORS)
    return network


def _read_safetensors(data: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata. The library checks the layout; the limit and the strict JSON are ours."""
    length = int.from_bytes(data[:8], "little")
    try:
        if length > min(len(data) - 8, MAXIMUM_HEADER):
            raise ValueError(f"it begins with {data[:24]!r}")
        metadata = read_object(data[8 : 8 + length]).get("__metadata__", {})
        tensors = safetensors.torch.load(data)
        if odd := [name for name, tensor in tensors.items() if tensor.dtype not in KINDS or not tensor.numel()]:
            raise ValueError(f"{odd[0][:80]} is {tensors[odd[0]].dtype} of shape {tuple(tensors[odd[0]].shape)}")
        return tensors, metadata
    except Exception as error:  # for a hostile header the library raises several kinds
        raise WeightsFormatError(f"{where} is no safetensors file, or an incomplete one: {str(error)[:500]}") from None


def _unpickle(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsFormatError(
            f"{where} holds more than tensors, or is damaged, and is not unpickled; "
            "save a plain state dict, best as safetensors"
        ) from error
    except Exception as error:  # a damaged archive makes torch.load raise almost anything
        raise WeightsFormatError(f"{where} is no state dict saved by torch.save, or is damaged: {error}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise WeightsFormatError(
            f"{where} must hold a plain state dict {{name: tensor}}; pick it out of the checkpoint first"
        )
    return tensors


def _prefix_advice(found: Iterable[str], wanted: Iterable[str]) -> str:
    """Return what to do about names that would fit but for what a wrapper has put before all of them."""
    names, first = set(found), next(iter(wanted), "")
    for name in names:
        prefix = name.removesuffix(first)
        if prefix and name.endswith(first) and all(prefix + other in names for other in wanted):
            return (
                f". The names fit without {prefix!r}, which a wrapper such as torch.compile or DistributedDataParallel "
                "has put before them: save the state dict of the module inside, or take it off the names"
            )
    return ""


def _misfit(name: str, tensor: Tensor, target: Tensor) -> list[str]:
    if tensor.shape != target.shape:
        return [f"{name} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}"]
    if not (tensor.dtype == target.dtype or (tensor.dtype in FLOATS and target.dtype in FLOATS)):
        return [f"{name} is {tensor.dtype}, expected {target.dtype}"]
    return [] if _is_finite(tensor) else [f"{name} has values that are not finite"]


def _is_finite(tensor: Tensor) -> bool:
    # Extremes show NaN and infinity without a copy of the tensor.
    return not tensor.is_floating_point() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _listed(what: str, names: list[str], limit: int = 3) -> str:
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{what}: {', '.join(names[:limit])}{more}"
