"""A valid folder changed at random: it loads as it says, or a WeightsError says why not; nothing else happens."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tafm_loss import Backbone, BackboneConfig, WeightsError, load_backbone

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Files = dict[str, bytes]

HOSTILE = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2**63, 10**400, 0.5, 1e308, "", "x", "../../../etc/passwd", "hf-hub:evil/x"),
        *([], [[]], {}, {"": {}}, [0] * 1000, "\ud800", "model.safetensors\0", "F32", [2**40, 2**40], ["stage1"]),
    ]
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to everything in a JSON value."""
    yield path
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(child, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    kind = draw(st.sampled_from(["cut", "flip", "insert", "swap", "append"]))
    place = draw(st.integers(0, len(data) - 1) | st.integers(0, min(len(data), 600) - 1))
    if kind == "cut":
        return data[:place]
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=20)) + data[place:]
    if kind == "append":
        return data + draw(st.binary(min_size=1, max_size=20))
    return data[place:] + data[:place]


@st.composite
def edited_json(draw: st.DrawFn, data: bytes) -> bytes:
    value = json.loads(data)
    path = draw(st.sampled_from(list(nodes(value))))
    if path and draw(st.booleans()):
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        del parent[path[-1]]
        return json.dumps(value).encode()
    return json.dumps(replaced(value, path, draw(HOSTILE))).encode()


@st.composite
def edited_header(draw: st.DrawFn, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = draw(edited_json(data[8 : 8 + length]))
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


@st.composite
def edited_tensors(draw: st.DrawFn, data: bytes) -> bytes:
    """Write a well-formed file with tensors that are swapped, renamed, missing, reshaped, converted or not finite."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors = safetensors.torch.load(data)
    name, other = draw(st.sampled_from(sorted(tensors))), draw(st.sampled_from(sorted(tensors)))
    kind = draw(st.sampled_from(["swap", "rename", "drop", "reshape", "convert", "nan", "config"]))
    if kind == "swap":
        tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()
    elif kind == "rename":
        tensors[draw(st.sampled_from(["../../x", "", "network." + name]))] = tensors.pop(name)
    elif kind == "drop":
        del tensors[name]
    elif kind == "reshape":
        tensors[name] = tensors[name].reshape(-1)
    elif kind == "convert":
        tensors[name] = tensors[name].to(draw(st.sampled_from([torch.float64, torch.float16, torch.int32, torch.bool])))
    elif kind == "nan":
        tensors[name] = torch.full_like(tensors[name], draw(st.sampled_from([torch.nan, torch.inf])))
    else:
        metadata["config"] = draw(edited_json(metadata["config"].encode())).decode()
    return safetensors.torch.save(tensors, metadata)


def with_new_digest(files: Files) -> Files:
    """Let the config vouch for the weights, as one who changes them on purpose would."""
    try:
        config = json.loads(files[CONFIG])
        config["weights"].update(
            size=len(files[WEIGHTS]), sha256=hashlib.sha256(files[WEIGHTS]).hexdigest(), file=WEIGHTS
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return files
    return {**files, CONFIG: json.dumps(config).encode()}


@st.composite
def mutations(draw: st.DrawFn, files: Files) -> Files:
    name = draw(st.sampled_from([CONFIG, WEIGHTS, WEIGHTS]))
    ways: list[Callable[[bytes], Any]] = [damaged_bytes]
    ways += [edited_json] if name == CONFIG else [edited_header, edited_tensors, edited_tensors]
    mutated = {**files, name: draw(draw(st.sampled_from(ways))(files[name]))}
    return with_new_digest(mutated) if draw(st.booleans()) else mutated


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def says(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what a file of weights holds by the library's reader, and its config."""
    length = int.from_bytes(data[:8], "little")
    return safetensors.torch.load(data), json.loads(data[8 : 8 + length])["__metadata__"]["config"]


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is asked for in the manner of POSIX")
def test_random_mutations_load_as_they_say_or_are_weights_errors(
    files: Files, backbone: Backbone, tmp_path: Path
) -> None:
    outcomes = {"loaded": 0, "refused": 0}

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        mutated = data.draw(mutations(files))
        for name, content in mutated.items():
            (tmp_path / name).write_bytes(content)
        before = peak_memory()
        try:
            loaded = load_backbone(tmp_path)
        except WeightsError as error:
            outcomes["refused"] += 1
            assert len(str(error)) < 2000
        else:
            outcomes["loaded"] += 1
            tensors, config = says(mutated[WEIGHTS])
            assert loaded.config == BackboneConfig.from_json(config)
            assert loaded.state().keys() == tensors.keys()
            assert all(torch.equal(value, tensors[name].to(value.dtype)) for name, value in loaded.state().items())
            if json.loads(mutated[CONFIG])["weights"] == json.loads(files[CONFIG])["weights"]:
                assert loaded.sha256 == backbone.sha256
        assert peak_memory() - before <= len(mutated[WEIGHTS]) + 64 * 2**20

    check()
    assert outcomes["loaded"] >= 3  # the test would be empty if nothing ever passed
    assert outcomes["refused"] >= 100
