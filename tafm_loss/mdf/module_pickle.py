"""Discriminators that were pickled as whole modules by an old `torch.save`: read without running foreign code."""

import dataclasses
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tafm_loss.mdf.inert_pickle import Global, Made, read_pickle
from tafm_loss.weights.errors import WeightsFormatError

__all__ = ["MAXIMUM_PICKLE", "SavedModule", "parse_modules"]

MAXIMUM_PICKLE = 256 * 2**10
MAXIMUM_DEPTH = 8
MAXIMUM_DIMENSIONS = 8

# The pickled magic number and version 1001, with which torch.save began a file before PyTorch 1.6.
LEGACY_BEGINNING = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
ZIP_BEGINNING = b"PK\x03\x04"

ORDERED_DICT = "collections.OrderedDict"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
MODULES = frozenset(
    {
        "SinGAN.models.WDiscriminator",
        "SinGAN.models.ConvBlock",
        "torch.nn.modules.container.Sequential",
        "torch.nn.modules.conv.Conv2d",
        "torch.nn.modules.batchnorm.BatchNorm2d",
        "torch.nn.modules.activation.LeakyReLU",
    }
)
STORAGE_TYPES: Mapping[str, np.dtype[Any]] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.LongStorage": np.dtype("<i8"),
}
ADMITTED = MODULES | STORAGE_TYPES.keys() | {ORDERED_DICT, TENSOR, PARAMETER}
CONTENTS = ("_parameters", "_buffers", "_modules")
NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclasses.dataclass(frozen=True, eq=False)
class SavedModule:
    """What was saved of a module.

    Args:
        kind: the name of its class.
        settings: its plain attributes, as they are in the file: unchecked.
        tensors: its own parameters and buffers.
        children: its submodules, in order.
    """

    kind: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    children: Mapping[str, "SavedModule"]

    def named_modules(self) -> Iterator[tuple[str, "SavedModule"]]:
        """Return itself as "" and all modules below it by their paths, as `torch.nn.Module` does."""
        yield "", self
        for name, child in self.children.items():
            for path, module in child.named_modules():
                yield f"{name}.{path}".rstrip("."), module

    def state_dict(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, as `torch.nn.Module` does."""
        return {
            f"{path}.{name}".lstrip("."): tensor
            for path, module in self.named_modules()
            for name, tensor in module.tensors.items()
        }


def parse_modules(data: bytes, where: str) -> list[SavedModule]:
    """Read the bytes of a file that holds a list of discriminators; `where` names it in errors.

    The file is of the format that `torch.save` wrote before PyTorch 1.6. It may name the classes that the official
    discriminators of MDF consist of, and none of them is needed or run. Every storage must belong to one tensor, which
    is contiguous and finite, and the sizes must agree with the bytes that are there before any tensor is made.

    Raises:
        WeightsFormatError: if the file is damaged, of another format, or holds anything else.
    """
    try:
        return _parse(data)
    except ValueError as error:
        raise WeightsFormatError(f"{where} cannot be read as discriminators of MDF: {error}") from error


def _parse(data: bytes) -> list[SavedModule]:
    if data.startswith(ZIP_BEGINNING):
        raise ValueError(
            "it is a zip archive, as torch.save writes them since PyTorch 1.6, and only older files are read; "
            "where you trust its code, load it and save its backbone with save_backbone"
        )
    if not data.startswith(LEGACY_BEGINNING):
        raise ValueError("it does not begin like a file of torch.save before PyTorch 1.6")
    stream = io.BytesIO(data)
    stream.seek(len(LEGACY_BEGINNING))
    storages = _Storages()
    system = _next_pickle(stream, storages)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was not written on a little-endian machine")
    modules = _next_pickle(stream, storages)
    keys = _next_pickle(stream, storages)
    storages.fill(keys, memoryview(data)[stream.tell() :])
    if not isinstance(modules, list) or not modules:
        raise ValueError("it holds no list of modules")
    assembly = _Assembly()
    return [assembly.module(module) for module in modules]


def _next_pickle(stream: io.BytesIO, storages: "_Storages") -> Any:
    start = stream.tell()
    bounded = io.BytesIO(stream.read(MAXIMUM_PICKLE))
    try:
        value = read_pickle(bounded, ADMITTED, storages.persistent)
    except ValueError as error:
        if bounded.tell() < MAXIMUM_PICKLE:
            raise
        raise ValueError(f"a pickle in it is longer than {MAXIMUM_PICKLE} bytes") from error
    stream.seek(start + bounded.tell())
    return value


@dataclasses.dataclass(eq=False, slots=True)
class _Storage:
    dtype: np.dtype[Any]
    count: int
    values: Tensor | None = None

    @property
    def size(self) -> int:
        return self.count * self.dtype.itemsize

    def take(self) -> Tensor:
        """Return the values, once: tensors that share them would be larger together than the file."""
        if self.values is None:
            raise ValueError("two tensors share a storage")
        values, self.values = self.values, None
        return values


class _Storages:
    """The storages that the tensors of a file refer to by their keys."""

    def __init__(self) -> None:
        self.by_key: dict[str, _Storage] = {}

    def persistent(self, value: Any) -> Global | _Storage:
        """Return what a persistent id stands for: a class whose source was saved beside it, or a new storage."""
        match value:
            case ("module", Global() as kind, _, _):
                return kind
            case ("storage", Global(name=kind), str(key), _, int(count), None) if kind in STORAGE_TYPES and count >= 0:
                if key in self.by_key:
                    raise ValueError(f"the storage {key[:40]!r} is used twice")
                self.by_key[key] = _Storage(STORAGE_TYPES[kind], count)
                return self.by_key[key]
        raise ValueError("it refers to something else than a class, or a whole storage of float32 or int64")

    def fill(self, keys: Any, data: memoryview) -> None:
        """Take the values from `data`: for each of `keys` the number of elements, and these."""
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("it has no list of storages")
        if sorted(keys) != sorted(self.by_key):
            raise ValueError("the storages in it are not those that its tensors need")
        expected = sum(8 + storage.size for storage in self.by_key.values())
        if len(data) != expected:
            raise ValueError(f"its tensors need {expected} bytes, and {len(data)} are there: it is damaged")
        start = 0
        for key in keys:
            storage = self.by_key[key]
            if int.from_bytes(data[start : start + 8], "little", signed=True) != storage.count:
                raise ValueError(f"the storage {key[:40]!r} is not as long as its tensor needs")
            values = np.frombuffer(data, storage.dtype, storage.count, start + 8)
            storage.values = torch.from_numpy(values.astype(storage.dtype.newbyteorder("=")))
            start += 8 + storage.size


class _Assembly:
    """Makes modules and tensors of what a pickle describes; each module has one place."""

    def __init__(self) -> None:
        self.placed: set[int] = set()

    def module(self, made: Any, depth: int = 1) -> SavedModule:
        if not isinstance(made, Made) or made.maker not in MODULES or not isinstance(made.state, dict):
            raise ValueError("it holds something else where a module is expected")
        if id(made) in self.placed or depth > MAXIMUM_DEPTH:
            raise ValueError("a module has two places, or is nested too deeply")
        self.placed.add(id(made))
        parameters, buffers, children = (_entries(made.state.get(name)) for name in CONTENTS)
        tensors = {**parameters, **buffers}
        return SavedModule(
            kind=made.maker.rpartition(".")[2],
            settings={name: value for name, value in made.state.items() if name not in CONTENTS},
            tensors={name: _tensor(value) for name, value in tensors.items() if value is not None},
            children={name: self.module(child, depth + 1) for name, child in children.items()},
        )


def _entries(made: Any) -> dict[str, Any]:
    entries = made.items if isinstance(made, Made) and made.maker == ORDERED_DICT and not made.arguments else made
    if not isinstance(entries, dict) or not all(NAME.fullmatch(name) for name in entries):
        raise ValueError(f"a module lacks one of {', '.join(CONTENTS)}, or has odd names in it")
    return entries


def _tensor(made: Any) -> Tensor:
    if isinstance(made, Made) and made.maker == PARAMETER and made.arguments:
        made = made.arguments[0]
    match made:
        case Made(maker=maker, arguments=(_Storage() as storage, offset, size, stride, _, _)) if maker == TENSOR:
            if not _is_contiguous(size, stride):
                raise ValueError("a tensor is not contiguous, or has no size that a weight can have")
            return _slice(storage, offset, size)
    raise ValueError("it holds something else where a tensor is expected")


def _slice(storage: _Storage, offset: Any, size: tuple[int, ...]) -> Tensor:
    count = math.prod(size)
    if type(offset) is not int or offset < 0 or offset + count > storage.count:
        raise ValueError(f"a tensor of size {size} is not within its storage of {storage.count} elements")
    tensor = storage.take()[offset : offset + count].view(size)
    if not tensor.isfinite().all():
        raise ValueError("a tensor has values that are not finite")
    return tensor


def _is_contiguous(size: Any, stride: Any) -> bool:
    if not isinstance(size, tuple) or len(size) > MAXIMUM_DIMENSIONS:
        return False
    if not all(type(length) is int and length > 0 for length in size):
        return False
    inner = itertools.accumulate(reversed(size), lambda product, length: product * length, initial=1)
    return bool(stride == tuple(inner)[:-1][::-1])
