"""Pickled modules: read when they are harmless, refused in words when they are not."""

import math
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tafm_loss import WeightsFormatError
from tafm_loss.mdf.module_pickle import MAXIMUM_PICKLE, parse_modules


class Named(NamedTuple):
    """A class or function, by name."""

    module: str
    name: str


class Call(NamedTuple):
    """What a function makes of arguments, with a state set on it."""

    function: Any
    arguments: Any = ()
    state: Any = None


class Reference(NamedTuple):
    """A persistent id."""

    value: Any


def encode(value: Any) -> bytes:
    """Write a pickle by hand; bytes stand for operations as they are."""
    return value if isinstance(value, bytes) else ENCODERS[type(value)](value)


def encode_all(values: Iterable[Any]) -> bytes:
    return b"".join(map(encode, values))


def encode_call(call: Call) -> bytes:
    made = encode(call.function) + encode(call.arguments) + b"R"
    return made if call.state is None else made + encode(call.state) + b"b"


ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: lambda value: b"\x8a\x10" + value.to_bytes(16, "little", signed=True),
    float: lambda value: b"G" + struct.pack(">d", value),
    str: lambda value: b"X" + struct.pack("<I", len(value.encode())) + value.encode(),
    tuple: lambda value: b"(" + encode_all(value) + b"t",
    list: lambda value: b"](" + encode_all(value) + b"e",
    dict: lambda value: b"}" + encode_entries(value),
    Named: lambda named: f"c{named.module}\n{named.name}\n".encode(),
    Call: encode_call,
    Reference: lambda reference: encode(reference.value) + b"Q",
}


def encode_entries(value: dict[Any, Any]) -> bytes:
    return b"(" + encode_all(part for pair in value.items() for part in pair) + b"u"


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


ORDERED_DICT = Named("collections", "OrderedDict")
HOOKS = Call(ORDERED_DICT)
DISCRIMINATOR = Named("SinGAN.models", "WDiscriminator")
CONV = Named("torch.nn.modules.conv", "Conv2d")
REBUILD = Named("torch._utils", "_rebuild_tensor_v2")
START = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(torch.serialization.PROTOCOL_VERSION, 2)
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
WEIGHT, BIAS, COUNT = [1.0, -2.0, 3.0, 4.0, 5.5, 6.0], [0.5, 0.25], [7]


def storage(key: str, count: int, kind: str = "FloatStorage", view: Any = None) -> Reference:
    return Reference(("storage", Named("torch", kind), key, "cuda:0", count, view))


def tensor(key: str, size: Any, *, count: Any = None, stride: Any = None, offset: Any = 0, **options: Any) -> Call:
    if stride is None:
        stride = tuple(math.prod(size[index + 1 :]) for index in range(len(size)))
    count = math.prod(size) if count is None else count
    return Call(REBUILD, (storage(key, count, **options), offset, size, stride, False, HOOKS))


def parameter(key: str, size: Any, **options: Any) -> Call:
    return Call(Named("torch._utils", "_rebuild_parameter"), (tensor(key, size, **options), True, HOOKS))


def entries(value: dict[str, Any]) -> bytes:
    return encode(HOOKS) + encode_entries(value)


def module(kind: Named = DISCRIMINATOR, parameters=None, buffers=None, modules=None, **plain: Any) -> Call:
    contents = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}}
    return Call(kind, (), plain | {name: entries(value) for name, value in contents.items()})


def conv(weight: Any = None) -> Call:
    parameters = {"weight": weight or parameter("w", (2, 3)), "bias": parameter("b", (2,))}
    counts = {"counts": tensor("n", (), kind="LongStorage"), "none": None}
    return module(CONV, parameters, counts, stride=(1, 1), padding_mode="zeros", slope=0.2)


DATA = {"w": ("f", WEIGHT), "b": ("f", BIAS), "n": ("q", COUNT)}


def legacy(modules: Any, data: dict[str, tuple[str, list[float]]] = DATA, *, keys: Any = None, system: Any = SYSTEM):
    """Return a file as torch.save wrote it before PyTorch 1.6."""
    values = [
        struct.pack("<q", len(numbers)) + struct.pack(f"<{len(numbers)}{code}", *numbers)
        for code, numbers in data.values()
    ]
    object_and_keys = pickled(modules) + pickled(list(data) if keys is None else keys)
    return START + pickled(system) + object_and_keys + b"".join(values)


def with_weight(weight: Any) -> bytes:
    return legacy([module(modules={"conv": conv(weight)})])


GOOD = legacy([module(modules={"conv": conv()}, is_cuda=True)])


def test_modules_are_read_with_their_tensors_settings_and_places() -> None:
    (found,) = parse_modules(GOOD, "good.pth")
    assert found.kind == "WDiscriminator" and found.settings["is_cuda"] is True
    assert [path for path, _ in found.named_modules()] == ["", "conv"]
    inner = found.children["conv"]
    assert inner.kind == "Conv2d" and not inner.children
    assert {name: inner.settings[name] for name in ("stride", "padding_mode", "slope")} == {
        "stride": (1, 1),
        "padding_mode": "zeros",
        "slope": 0.2,
    }
    state = found.state_dict()
    assert list(state) == ["conv.weight", "conv.bias", "conv.counts"]
    assert torch.equal(state["conv.weight"], torch.tensor(WEIGHT).view(2, 3))
    assert torch.equal(state["conv.bias"], torch.tensor(BIAS))
    assert torch.equal(state["conv.counts"], torch.tensor(7))


def test_a_part_of_a_storage_is_read_at_its_offset() -> None:
    part = parameter("w", (2, 2), count=6, offset=1)
    (found,) = parse_modules(with_weight(part), "part.pth")
    assert torch.equal(found.state_dict()["conv.weight"], torch.tensor(WEIGHT[1:5]).view(2, 2))


def test_the_source_saved_beside_a_class_is_not_looked_at() -> None:
    sourced = Reference(("module", DISCRIMINATOR, "/home/somebody/models.py", "raise SystemExit"))
    (found,) = parse_modules(legacy([module(sourced, modules={"conv": conv()})]), "sourced.pth")
    assert found.kind == "WDiscriminator"
    assert "SinGAN" not in sys.modules


def test_a_large_index_of_the_memo_takes_no_memory() -> None:
    last = b"r" + struct.pack("<I", 2**32 - 1)
    tracemalloc.start()
    parse_modules(legacy([module(modules={"conv": encode(conv()) + last})]), "memo.pth")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def nested(depth: int) -> bytes:
    return b")" + b"\x85" * depth


def many(value: bytes, count: int) -> bytes:
    return b"](" + value * count + b"e"


NOTHING: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
SYSTEM_CALL = Call(Named("os", "system"), ("touch owned",))
HOSTILE = {
    "a call of os.system": (SYSTEM_CALL, r"'os\.system'.*foreign code is not run"),
    "the same under its real name": (Call(Named("posix", "system"), ("touch owned",)), r"'posix\.system'"),
    "eval": (Call(Named("builtins", "eval"), ("open('owned', 'w')",)), r"'builtins\.eval'"),
    "getattr": (Call(Named("builtins", "getattr"), (DISCRIMINATOR, "__class__")), r"'builtins\.getattr'"),
    "another class of torch": (Named("torch.nn.modules.linear", "Linear"), r"'torch\.nn\.modules\.linear\.Linear'"),
    "a function of torch": (Call(Named("torch", "load"), ("owned",)), r"'torch\.load'"),
    "a class below a known one": (Named("SinGAN.models", "WDiscriminator.forward"), r"foreign code"),
    "operation INST": (b"(X\x05\x00\x00\x00touchios\nsystem\n", r"operation INST"),
    "operation OBJ": (b"(" + encode(Named("collections", "OrderedDict")) + b"o", r"operation OBJ"),
    "operation EXT1": (b"\x82\x01", r"operation EXT1.*foreign code is not run"),
    "operation EXT4": (b"\x84\x01\x00\x00\x00", r"operation EXT4"),
    "operation STACK_GLOBAL": (b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93", r"operation STACK_GLOBAL"),
    "operation NEWOBJ_EX": (encode(DISCRIMINATOR) + b")}\x92", r"operation NEWOBJ_EX"),
    "operation PERSID": (b"P12\n", r"operation PERSID"),
    "a damaged operation": (b"\xff", r"no operation b'\\xff'"),
    "a global with an odd escape": (b"ca\\q\nb\n", r"foreign code"),
    "a global that is no text": (b"c\xff\nb\n", r"decode"),
    "a set": (b"\x8f", r"operation EMPTY_SET"),
    "attributes set on a class": (encode(CONV) + encode({"forward": 1}) + b"b", r"no new object"),
    "slots set on a class": (encode(CONV) + encode((None, {"forward": 1})) + b"b", r"no new object"),
    "attributes set on a list": (b"]" + encode({"append": 1}) + b"b", r"no new object"),
    "attributes set twice": (encode(module()) + encode({"_modules": {}}) + b"b", r"no new object"),
    "attributes that are no dict": (Call(DISCRIMINATOR, (), [1, 2]), r"a module is expected"),
    "a call of a number": (Call(5, ()), r"calls what is no class"),
    "a call without a tuple": (Call(CONV, [1]), r"calls what is no class"),
    "entries of a number": (b"K\x01K\x02K\x03s", r"entries"),
    "entries of a list": (b"](K\x01K\x02u", r"entries"),
    "half an entry": (b"}(X\x01\x00\x00\x00au", r"entries"),
    "items of a number": (b"K\x01K\x02a", r"no list"),
    "a key that is a number": ({1: 2}, r"no text"),
    "a key whose hash overflows the stack": (b"}" + nested(100_000) + b"Ns", r"no text"),
    "a key whose hash takes for ever": (b"})" + b"q\x00h\x00\x86" * 200 + b"Ns", r"no text"),
    "deep nesting": (nested(100_000), r"a module is expected"),
    "more than fits": (many(b"}", MAXIMUM_PICKLE), rf"longer than {MAXIMUM_PICKLE} bytes"),
    "text longer than the file": (b"X\xff\xff\xff\x7fabc", r"expected 2147483647 bytes"),
    "an empty stack": (b"0", r"operation POP"),
    "a call of nothing": (b"R", r"lacks what it works on"),
    "an unknown memo": (b"h\x09", r"lacks what it works on"),
    "no mark": (b"t", r"lacks what it works on"),
    "a number": (5, r"a module is expected"),
    "a class itself": (DISCRIMINATOR, r"a module is expected"),
    "a module without tensors": (Call(DISCRIMINATOR, (), {"_modules": entries({})}), r"lacks one of _parameters"),
    "a module with odd names": (module(modules={"a.b": module()}), r"odd names"),
    "a module without end": (
        encode(DISCRIMINATOR)
        + b")Rq\x00"
        + encode({"_parameters": {}, "_buffers": {}, "_modules": {"x": b"h\x00"}})
        + b"b",
        r"two places",
    ),
    "a module in two places": (
        module(modules={"a": encode(module(CONV)) + b"q\x00", "b": b"h\x00"}),
        r"two places",
    ),
    "an ordered dict with arguments": (
        Call(DISCRIMINATOR, (), NOTHING | {"_parameters": Call(ORDERED_DICT, ([],))}),
        r"lacks one of",
    ),
    "a number for a tensor": (module(buffers={"x": 5}), r"a tensor is expected"),
    "a tensor without a storage": (
        module(buffers={"x": Call(REBUILD, (5, 0, (2, 3), (3, 1), False, HOOKS))}),
        r"a tensor is expected",
    ),
    "another reference": (Reference("7"), r"refers to something else"),
    "a reference to half precision": (storage("w", 6, "HalfStorage"), r"'torch\.HalfStorage'"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_foreign_is_refused_and_not_run(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsFormatError, match=message) as error:
        parse_modules(legacy([content], {}), "hostile.pth")
    assert str(error.value).startswith("hostile.pth cannot be read")
    assert len(str(error.value)) < 300
    assert not list(tmp_path.iterdir())


def chain(depth: int) -> Call:
    innermost = module()
    for _ in range(depth):
        innermost = module(modules={"x": innermost})
    return innermost


def test_modules_are_nested_eight_deep_at_most() -> None:
    (found,) = parse_modules(legacy([chain(7)], {}), "deep.pth")
    assert len(list(found.named_modules())) == 8
    with pytest.raises(WeightsFormatError, match="nested too deeply"):
        parse_modules(legacy([chain(8)], {}), "deep.pth")


TENSORS = {
    "a huge storage": (parameter("w", (2, 3), count=2**62), r"need 18446744073709551\d+ bytes, and \d+ are there"),
    "a storage of negative length": (parameter("w", (2, 3), count=-6), r"refers to something else"),
    "a longer storage": (parameter("w", (2, 3), count=7), r"need \d+ bytes"),
    "a view of a storage": (parameter("w", (2, 3), view=("v", 0, 6)), r"a whole storage"),
    "a storage of the other type": (parameter("w", (2, 3), kind="LongStorage"), r"need \d+ bytes"),
    "a storage used twice": (parameter("b", (2,)), r"'b' is used twice"),
    "a negative offset": (parameter("w", (2, 2), count=6, offset=-1), r"not within its storage of 6"),
    "an offset beyond the end": (parameter("w", (2, 2), count=6, offset=3), r"not within its storage of 6"),
    "an offset that is no number": (parameter("w", (2, 3), offset="0"), r"not within"),
    "a size beyond the storage": (parameter("w", (2, 4), count=6), r"not within its storage of 6"),
    "a huge size": (parameter("w", (2**100, 2**100), count=6), r"not within its storage of 6"),
    "an empty size": (parameter("w", (0, 3), count=6), r"not contiguous"),
    "a negative size": (parameter("w", (-2, -3), count=6), r"not contiguous"),
    "nine dimensions": (parameter("w", (1,) * 8 + (6,)), r"not contiguous"),
    "a size that is a list": (parameter("w", [2, 3], stride=(3, 1)), r"not contiguous"),
    "a transposed tensor": (parameter("w", (2, 3), stride=(1, 2)), r"not contiguous"),
    "an expanded tensor": (parameter("w", (2, 3), stride=(0, 1)), r"not contiguous"),
    "a parameter in a parameter": (
        Call(Named("torch._utils", "_rebuild_parameter"), (parameter("w", (2, 3)), True, HOOKS)),
        r"a tensor is expected",
    ),
}


@pytest.mark.parametrize(("weight", "message"), TENSORS.values(), ids=TENSORS.keys())
def test_tensors_that_are_not_what_the_bytes_hold_are_refused(weight: Any, message: str) -> None:
    with pytest.raises(WeightsFormatError, match=message):
        parse_modules(with_weight(weight), "tensors.pth")


def test_two_tensors_do_not_share_a_storage() -> None:
    twice = {"one": encode(tensor("w", (6,))) + b"q\x00", "two": b"h\x00"}
    with pytest.raises(WeightsFormatError, match="two tensors share a storage"):
        parse_modules(legacy([module(buffers=twice)], {"w": DATA["w"]}), "shared.pth")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    data = DATA | {"w": ("f", [*WEIGHT[:5], value])}
    with pytest.raises(WeightsFormatError, match="not finite"):
        parse_modules(legacy([module(modules={"conv": conv()})], data), "nan.pth")


FILES = {
    "nothing": (b"", r"does not begin"),
    "a page": (b"<!DOCTYPE html>", r"does not begin"),
    "any pickle": (pickled([1, 2]), r"does not begin"),
    "a newer file": (b"PK\x03\x04" + GOOD, r"zip archive.*save_backbone"),
    "a byte more": (GOOD + b"\0", r"bytes, and \d+ are there"),
    "a big-endian file": (legacy([], system=SYSTEM | {"little_endian": False}), r"little-endian"),
    "no facts": (legacy([], system=[]), r"little-endian"),
    "no module": (legacy([], {}), r"no list of modules"),
    "storages that nobody needs": (legacy([module()]), r"are not those"),
    "one module, no list": (legacy(module(), {}), r"no list of modules"),
    "no keys": (legacy([module()], {}, keys={}), r"no list of storages"),
    "keys that are no text": (legacy([module()], {}, keys=[1]), r"no list of storages"),
    "a missing key": (legacy([module(modules={"conv": conv()})], keys=["w", "b"]), r"are not those"),
    "another key": (legacy([module(modules={"conv": conv()})], keys=["w", "b", "x"]), r"are not those"),
    "a key twice": (legacy([module(modules={"conv": conv()})], keys=["w", "b", "n", "n"]), r"are not those"),
    "keys in another order": (legacy([module(modules={"conv": conv()})], keys=["b", "w", "n"]), r"not as long as"),
}


@pytest.mark.parametrize(("data", "message"), FILES.values(), ids=FILES.keys())
def test_other_files_are_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(WeightsFormatError, match=message):
        parse_modules(data, "other.pth")


def test_a_file_cut_anywhere_is_refused() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(WeightsFormatError, match=r"cut\.pth"):
            parse_modules(GOOD[:length], "cut.pth")


def read_or_refuse(data: bytes) -> None:
    try:
        modules = parse_modules(data, "mutated.pth")
    except WeightsFormatError as error:
        assert "mutated.pth" in str(error)
        return
    tensors = [found for module in modules for found in module.state_dict().values()]
    assert all(found.isfinite().all() for found in tensors)
    assert sum(found.nbytes for found in tensors) <= len(data)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=400, deadline=None)
def test_changed_bytes_give_tensors_or_an_error_in_words(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    read_or_refuse(bytes(data))


@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.binary(max_size=12))
@settings(max_examples=400, deadline=None)
def test_replaced_stretches_give_tensors_or_an_error_in_words(start: int, length: int, inserted: bytes) -> None:
    read_or_refuse(GOOD[:start] + inserted + GOOD[start + length :])


OPERATIONS = [
    b"N", b"\x88", b"K\x02", b"G" + b"\0" * 8, b"X\x01\0\0\0w", b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"\x87",
    b"a", b"e", b"s", b"u", b"q\0", b"h\0", b"R", b"\x81", b"b", b"Q", b"0", b"\x82\x01",
    *map(encode, (ORDERED_DICT, DISCRIMINATOR, REBUILD, storage("w", 6), HOOKS, conv())),
]  # fmt: skip


@given(st.lists(st.sampled_from(OPERATIONS), max_size=30).map(b"".join))
@settings(max_examples=400, deadline=None)
def test_any_sequence_of_operations_gives_tensors_or_an_error_in_words(operations: bytes) -> None:
    read_or_refuse(legacy(operations))


@pytest.mark.parametrize("bomb", [b"}", b"]", encode(DISCRIMINATOR) + b"q\0" + b"h\0)\x81" * 60_000])
def test_a_bomb_takes_tens_of_megabytes_at_most(bomb: bytes) -> None:
    content = bomb if len(bomb) > 1 else bomb * (MAXIMUM_PICKLE - 100)
    tracemalloc.start()
    with pytest.raises(WeightsFormatError):
        parse_modules(legacy(b"](" + content + b"e", {}), "bomb.pth")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20
