"""Reading weights: every way a file can be wrong, made by hand, and hostile headers."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tafm_loss import WeightsCorruptError, WeightsError, WeightsFormatError
from tafm_loss.weights.files import KINDS, WeightFile, fill_network, read_weight_bytes, read_weights


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)}


@pytest.fixture
def good(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    path.write_bytes(safetensors.torch.save(tensors))
    return path


def _broken_config(data: bytes) -> bytes:
    return safetensors.torch.save({"weight": torch.zeros(1)}, metadata={"config": '{"name": 1}'})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40],
        lambda data: b"<!DOCTYPE html><title>404</title>",
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        _broken_config,
        pickle.dumps,
    ],
)
def test_a_damaged_file_is_a_weights_error_that_names_it(good: Path, damage: Callable[[bytes], bytes]) -> None:
    good.write_bytes(damage(good.read_bytes()))
    with pytest.raises(WeightsError, match=r"good\.safetensors"):
        read_weights(good)


def test_a_state_dict_with_numbers_for_names_is_none(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(1), "weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsFormatError, match="must hold a plain state dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("place", [0, 8, 30, -1])
def test_damage_is_told_as_damage_wherever_it_is(good: Path, place: int) -> None:
    sha256 = read_weights(good).sha256
    data = bytearray(good.read_bytes())
    data[place] ^= 0x80
    good.write_bytes(data)
    with pytest.raises(WeightsCorruptError, match=f"has sha256 {hashlib.sha256(data).hexdigest()}, expected {sha256}"):
        read_weights(good, sha256=sha256)


def test_size_is_checked(good: Path) -> None:
    size = good.stat().st_size
    assert read_weights(good, size=size).tensors
    with pytest.raises(WeightsError, match=f"has {size} bytes, expected {size + 1}"):
        read_weights(good, size=size + 1)


def test_what_is_not_there_or_of_no_known_kind_is_a_weights_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        read_weights(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match=r"\.onnx"):
        read_weights(tmp_path / "network.onnx")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_state_dict_is_read(tensors: dict[str, Tensor], tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "state.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    file = read_weights(path)
    assert file.config is None
    assert file.tensors.keys() == tensors.keys()
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in tensors.items())


class _Hostile:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("pwned",)


def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Hostile()}, tmp_path / "state.pth")
    with pytest.raises(WeightsError, match=r"state\.pth"):
        read_weights(tmp_path / "state.pth")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"weight": torch.zeros(1)}}, torch.zeros(2)])
def test_a_checkpoint_that_is_no_plain_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(WeightsError, match="plain state dict"):
        read_weights(tmp_path / "state.pt")


def test_a_truncated_pickle_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match=r"state\.pth"):
        read_weights(path)


def _change(tensors: dict[str, Tensor], **changes: Tensor | None) -> WeightFile:
    changed = {**tensors, **changes}
    return WeightFile("file", "", {name: tensor for name, tensor in changed.items() if tensor is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": None}, "missing: bias"),
        ({"extra": torch.zeros(1)}, "unexpected: extra"),
        ({"bias": torch.zeros(3)}, r"bias has shape \(3,\), expected \(2,\)"),
        ({"bias": torch.zeros(2, dtype=torch.int64)}, "bias is torch.int64"),
        ({"bias": torch.tensor([0.0, torch.nan])}, "bias has values that are not finite"),
        ({"weight": torch.full((2, 3), torch.inf)}, "weight has values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(
    tensors: dict[str, Tensor], changes: dict[str, Tensor | None], message: str
) -> None:
    network = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        fill_network(network, _change(tensors, **changes), "linear")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_network_is_filled_in_its_own_type(tensors: dict[str, Tensor], device: str, dtype: torch.dtype) -> None:
    network = nn.Linear(3, 2, device=device)
    file = WeightFile("file", "", {name: tensor.to(dtype) for name, tensor in tensors.items()})
    fill_network(network, file, "linear")
    assert network.weight.requires_grad
    torch.testing.assert_close(network.weight.detach(), tensors["weight"], rtol=0, atol=0)


def test_parts_that_are_accepted_are_left_aside(tensors: dict[str, Tensor]) -> None:
    file = _change(tensors, **{"classifier.weight": torch.full((2,), torch.nan)})
    fill_network(nn.Linear(3, 2), file, "linear", accepts=lambda name: name.startswith("classifier."))


def test_batch_norm_from_before_the_counter_is_loaded() -> None:
    state = {name: tensor for name, tensor in nn.BatchNorm2d(2).state_dict().items() if "num_batches" not in name}
    network = nn.BatchNorm2d(2, device="meta")
    fill_network(network, WeightFile("file", "", state), "norm")
    assert network.num_batches_tracked is not None
    assert network.num_batches_tracked.item() == 0


# Hostile headers


def built(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize("dtype", KINDS)
def test_every_kind_of_tensor_comes_back(dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(6).view(2, 3).to(dtype), "b": torch.ones((), dtype=dtype)}
    data = safetensors.torch.save(tensors, {"key": "ä"})
    file = read_weight_bytes(data, "file")
    assert (file.sha256, file.config) == (hashlib.sha256(data).hexdigest(), None)
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in tensors.items())
    assert {tensor.dtype for tensor in file.tensors.values()} == {dtype}
    file.tensors["a"].zero_()
    assert file.tensors["b"] == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with"),
        (b"\x10\0\0", "begins with"),
        ((2**20 + 1).to_bytes(8, "little") + b" " * (2**20 + 1), "begins with"),
        ((2**63).to_bytes(8, "little") + b"{}", "begins with"),
        (b"PK\x03\x04 a zip of pickles", "begins with b'PK"),
        (built(b"\xff\xfe{}"), "codec"),
        (built(b"[]"), "expected a JSON object"),
        (built(b'{"a":' * 60_000), "nested too deeply"),
        (built(b'{"a": NaN}'), "finite"),
        (built(b'{"a": 1e999}'), "finite"),
        (built(b'{"a": ' + b"9" * 5000 + b"}"), ""),
        (built(b'{"a": {"shape": [], "shape": []}}'), "twice"),
    ],
)
def test_a_header_that_we_refuse_is_named(data: bytes, message: str) -> None:
    with pytest.raises(WeightsFormatError, match=f"file is no safetensors file, or an incomplete one: .*{message}"):
        read_weight_bytes(data, "file")


@pytest.mark.parametrize(
    "data",
    [
        built({"__metadata__": {"config": 1}}),
        built({"__metadata__": []}),
        built({"a": 1}),
        built({"a": entry(dtype="F33")}, b"\0" * 8),
        built({"a": entry(dtype=["F32"])}, b"\0" * 8),
        built({"a": entry(shape=(True, 2))}, b"\0" * 8),
        built({"a": entry(shape=(-2, -1))}, b"\0" * 8),
        built({"a": entry(shape=(2.0,))}, b"\0" * 8),
        built({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}),
        built({"a": entry(shape=(2**40, 2**40))}, b"\0" * 8),
        built({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8),
        built({"a": entry(offsets=(-8, 0))}, b"\0" * 8),
        built({"a": entry(offsets=(8, 16))}, b"\0" * 16),
        built({"a": entry(), "b": entry()}, b"\0" * 8),
        built({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
        built({"a": entry()}, b"\0" * 7),
        built({"a": entry()}, b"\0" * 9),
        built({}, b"\0"),
    ],
)
def test_a_file_that_does_not_describe_itself_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsFormatError, match="file is no safetensors file, or an incomplete one"):
        read_weight_bytes(data, "file")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "large.safetensors", "wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(WeightsFormatError, match="more than"):
        read_weights(tmp_path / "large.safetensors")


MEMORY = """
import resource, sys, torch
from tafm_loss import WeightsFormatError
from tafm_loss.weights.files import fill_network, read_weights
network = torch.nn.Sequential(*(torch.nn.Linear(2**12, 2**12, bias=False, device="meta") for _ in range(2)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
try:
    fill_network(network, read_weights(sys.argv[1]), "two layers")
except WeightsFormatError:
    print("refused")
print(peak() - before)
"""


def two_layers(path: Path) -> None:
    safetensors.torch.save_file({f"{i}.weight": torch.ones(2**12, 2**12) for i in range(2)}, path)


def longest_header(path: Path) -> None:
    path.write_bytes(built(b"{" + b",".join(b'"%x":{}' % i for i in range(95_000)) + b"}"))
    assert 2**19 < path.stat().st_size < 2**20


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is asked for in the manner of POSIX")
@pytest.mark.parametrize(("write", "refused"), [(two_layers, False), (longest_header, True)])
def test_a_process_holds_a_file_twice_at_most(tmp_path: Path, write: Callable[[Path], None], refused: bool) -> None:
    path = tmp_path / "model.safetensors"
    write(path)
    output = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    *told, growth = output.stdout.split()
    assert bool(told) == refused
    assert int(growth) <= 2 * path.stat().st_size + 64 * 2**20
