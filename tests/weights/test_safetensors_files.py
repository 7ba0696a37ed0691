"""The reader of safetensors, against the library's and against hostile headers."""

import hashlib
import io
import json
import subprocess
import sys
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tafm_loss import WeightsFormatError
from tafm_loss.weights.safetensors_files import DTYPES, SafetensorsContent, read_safetensors


def read(data: bytes) -> SafetensorsContent:
    return read_safetensors(io.BytesIO(data), len(data), "file")


def built(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    text = st.text(min_size=1, max_size=8)  # too short for "__metadata__"
    names = draw(st.lists(text, unique=True, min_size=1, max_size=5))
    shapes = st.lists(st.integers(1, 4), max_size=4)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return {
        name: (100 * torch.rand(draw(shapes), generator=generator)).to(draw(st.sampled_from(list(DTYPES.values()))))
        for name in names
    }


@given(tensors(), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
def test_what_the_library_writes_is_read_as_the_library_reads_it(
    content: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    data = safetensors.torch.save(content, metadata)
    found = read(data)
    expected = safetensors.torch.load(data)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.metadata == metadata
    assert found.tensors.keys() == expected.keys()
    for name, tensor in found.tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def test_tensors_have_memory_of_their_own() -> None:
    data = bytearray(safetensors.torch.save({"a": torch.zeros(3), "b": torch.zeros(2)}))
    found = read(bytes(data)).tensors
    found["a"].fill_(1)
    assert not found["b"].any()
    assert found["a"].untyped_storage().nbytes() == 12


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
        (built({"__metadata__": {"config": 1}}), "metadata must be texts"),
        (built({"__metadata__": []}), "metadata must be texts"),
        (built({"a": 1}), "a must have dtype, shape and data_offsets"),
        (built({"a": entry(more=1)}, b"\0" * 8), "and nothing else"),
        (built({"a": entry(dtype="F33")}, b"\0" * 8), "a is of the type F33"),
        (built({"a": entry(dtype=["F32"])}, b"\0" * 8), "is of the type"),
        (built({"a": entry(shape=(True, 2))}, b"\0" * 8), "no shape"),
        (built({"a": entry(shape=(-2, -1))}, b"\0" * 8), "no shape"),
        (built({"a": entry(shape=(2.0,))}, b"\0" * 8), "no shape"),
        (built({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}), "no shape"),
        (built({"a": entry(shape=[1] * 9, offsets=(0, 4))}, b"\0" * 4), "no shape"),
        (built({"a": entry(shape=(2**40, 2**40))}, b"\0" * 8), "takes .* bytes"),
        (built({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8), "takes 8 bytes"),
        (built({"a": entry(offsets=(-8, 0))}, b"\0" * 8), "takes 8 bytes"),
        (built({"a": entry(offsets=(8, 16))}, b"\0" * 16), "begins at byte 8 of the data, expected 0"),
        (built({"a": entry(), "b": entry()}, b"\0" * 8), "begins at byte 0 of the data, expected 8"),
        (built({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "begins at byte 4"),
        (built({"a": entry()}, b"\0" * 7), "take 8 bytes, but there are 7"),
        (built({"a": entry()}, b"\0" * 9), "take 8 bytes, but there are 9"),
        (built({}, b"\0"), "take 0 bytes, but there are 1"),
        (built({"a": entry(dtype="BOOL", offsets=(0, 2))}, b"\1\2"), "a holds something else than 0 and 1"),
    ],
)
def test_a_file_that_does_not_describe_itself_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(WeightsFormatError, match=f"file is no safetensors file, or an incomplete one: .*{message}"):
        read(data)


def test_a_file_that_is_too_large_is_not_read() -> None:
    with pytest.raises(WeightsFormatError, match="more than"):
        read_safetensors(io.BytesIO(b""), 5 * 2**30, "file")


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    data = safetensors.torch.save({"a": torch.zeros(100)})
    with pytest.raises(WeightsFormatError, match="it ends within a"):
        read_safetensors(io.BytesIO(data[:-1]), len(data), "file")


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


def grown(path: Any) -> tuple[int, bool]:
    """Return by how many bytes a fresh process grows that reads a file, and whether it refuses the file."""
    output = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    *refused, growth = output.stdout.split()
    return int(growth), bool(refused)


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is asked for in the manner of POSIX")
def test_a_file_is_held_once(tmp_path: Any) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({f"{i}.weight": torch.ones(2**12, 2**12) for i in range(2)}, path)
    growth, refused = grown(path)
    assert not refused
    assert growth <= path.stat().st_size + 64 * 2**20


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is asked for in the manner of POSIX")
def test_the_longest_header_costs_little(tmp_path: Any) -> None:
    path = tmp_path / "model.safetensors"
    names = b",".join(b'"%x":{}' % i for i in range(95_000))
    path.write_bytes(built(b"{" + names + b"}"))
    assert 2**19 < path.stat().st_size < 2**20
    growth, refused = grown(path)
    assert refused
    assert growth <= path.stat().st_size + 64 * 2**20
