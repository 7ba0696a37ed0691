"""Reading safetensors in one pass: nothing is believed before it is checked, and nothing is held twice."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from tafm_loss._files import read_object
from tafm_loss.weights.errors import WeightsFormatError

__all__ = ["MAXIMUM_FILE", "SafetensorsContent", "read_safetensors"]

LENGTH_BYTES = 8
# 10,000 tensors fit; the objects that a hostile header becomes stay within tens of megabytes.
MAXIMUM_HEADER = 2**20
MAXIMUM_FILE = 4 * 2**30
MAXIMUM_DIMENSIONS = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsContent(NamedTuple):
    """Tensors by name, the text metadata, and the SHA-256 of all that was read."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    sha256: str


class _Slot(NamedTuple):
    """Where a tensor lies among the data: first byte and the byte after the last."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_safetensors(file: BinaryIO, size: int, where: str) -> SafetensorsContent:
    """Read a safetensors file of `size` bytes; `where` names it in errors.

    The library's reader holds the file and a copy of it, or maps a file that others may change afterwards. Here each
    tensor's bytes go from the file to where they stay, and the digest is that of these bytes.

    Raises:
        WeightsFormatError: if the header is too long, no JSON, or does not describe tensors that fill the file without
            a gap or overlap; or if the file ends early.
    """
    try:
        return _read(file, size)
    except ValueError as error:
        raise WeightsFormatError(f"{where} is no safetensors file, or an incomplete one: {error}") from None


def _read(file: BinaryIO, size: int) -> SafetensorsContent:
    if size > MAXIMUM_FILE:
        raise ValueError(f"it has {size} bytes, more than {MAXIMUM_FILE}")
    start = file.read(LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or length > size - LENGTH_BYTES or length > MAXIMUM_HEADER:
        raise ValueError(f"it begins with {(start + file.read(16))!r}")
    header = file.read(length)
    digest = hashlib.sha256(start + header)
    entries = read_object(header)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata must be texts by name")
    tensors = {}
    for slot in _checked_layout(entries, size - LENGTH_BYTES - length):
        tensors[slot.name] = torch.empty(slot.shape, dtype=slot.dtype)
        content = tensors[slot.name].view(-1).view(torch.uint8).numpy().data
        if file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise ValueError(f"it ends within {slot.name}")
        if slot.dtype is torch.bool and max(content) > 1:
            raise ValueError(f"{slot.name} holds something else than 0 and 1")
        digest.update(content)
    return SafetensorsContent(tensors, metadata, digest.hexdigest())


def _checked_layout(entries: Mapping[str, Any], size: int) -> list[_Slot]:
    """Return the tensors in the order of their bytes, of which there are `size`."""
    slots = sorted((_slot(name, entry) for name, entry in entries.items()), key=lambda slot: slot.start)
    end = 0
    for slot in slots:
        if slot.start != end:
            raise ValueError(f"{slot.name} begins at byte {slot.start} of the data, expected {end}")
        end = slot.stop
    if end != size:
        raise ValueError(f"its tensors take {end} bytes, but there are {size}")
    return slots


def _slot(name: str, entry: Any) -> _Slot:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name} is of the type {str(dtype)[:20]}, expected one of {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MAXIMUM_DIMENSIONS or not math.prod(shape):
        raise ValueError(f"{name} has no shape that a weight can have")
    stop = math.prod(shape) * DTYPES[dtype].itemsize
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != stop:
        raise ValueError(f"{name} takes {stop} bytes, which its data_offsets do not say")
    return _Slot(name, DTYPES[dtype], tuple(shape), *offsets)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
