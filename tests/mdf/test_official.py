"""The official files of MDF are read as PyTorch reads them, and no other pickle is opened."""

import hashlib
import os
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tafm_loss import WeightsError, WeightsFormatError, WeightsNotFoundError
from tafm_loss.backbones.config import Tap
from tafm_loss.mdf import loss as official
from tafm_loss.mdf.loss import MAXIMUM_FILE, OFFICIAL, read_discriminators


class ConvBlock(nn.Sequential):
    def __init__(self, channels: int, width: int) -> None:
        layers = {"conv": nn.Conv2d(channels, width, 3), "norm": nn.BatchNorm2d(width), "LeakyRelu": nn.LeakyReLU(0.2)}
        super().__init__(OrderedDict(layers))
        nn.init.normal_(self.norm.running_mean, std=0.1)


class WDiscriminator(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = ConvBlock(3, width)
        self.body = nn.Sequential(OrderedDict({f"block{index}": ConvBlock(width, width) for index in (1, 2, 3)}))
        self.tail = nn.Conv2d(width, 1, 3)


@pytest.fixture
def their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts their classes where pickles of them look."""
    models = types.ModuleType("SinGAN.models")
    for kind in (ConvBlock, WDiscriminator):
        monkeypatch.setattr(kind, "__module__", "SinGAN.models")
        setattr(models, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "SinGAN", types.ModuleType("SinGAN"))
    monkeypatch.setitem(sys.modules, "SinGAN.models", models)


def state_of_old(module: nn.Module) -> dict[str, Any]:
    """Return what modules consisted of when the official files were written."""
    plain = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str | tuple)}
    contents = {name: OrderedDict(getattr(module, name)) for name in ("_parameters", "_buffers", "_modules")}
    return plain | contents | {"_backward_hooks": OrderedDict()}


@pytest.fixture
def small(tmp_path: Path, their_code: None, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Tensor]]:
    """A small file of the form of the official ones, taken for one of them, and what is in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = [WDiscriminator(width).eval() for width in (4, 4, 6)]
    path = tmp_path / "Ds_Small.pth"
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the source of classes in this file is saved along, or is not
        patched.setattr(nn.Module, "__getstate__", state_of_old, raising=False)
        torch.save(modules, path, _use_new_zipfile_serialization=False)
    monkeypatch.setitem(OFFICIAL, hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    return path, state_by_scale(modules)


def state_by_scale(modules: list[nn.Module]) -> dict[str, Tensor]:
    return {
        f"scale{index}.{name}": tensor
        for index, module in enumerate(modules, 1)
        for name, tensor in module.state_dict().items()
    }


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("task", ["SISR", "Denoising", "JPEG"])
def test_the_official_files_are_read_as_torch_reads_them(
    task: str, shared_path: Callable[[str], Path], their_code: None
) -> None:
    path = shared_path(f"weights/mdf/Ds_{task}.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name in OFFICIAL[digest]
    backbone = read_discriminators(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.load(path, map_location="cpu", weights_only=False)
    assert_same_state(backbone.state(), state_by_scale(theirs[:8]))
    assert_same_state(read_discriminators(path, scales=len(theirs)).state(), state_by_scale(theirs))
    config = backbone.config
    assert config.base_weights.startswith(f"official Ds_{task}.pth (sha256 {digest}), discriminators 1 to 8 of ")
    assert (config.name, config.licence) == (f"mdf-{task.lower()}", "BSD-3-Clause")
    assert [config.taps[f"scale{index}.body"].channels for index in range(1, 9)] == [32] * 4 + [64] * 4


def test_what_was_saved_is_read_without_their_code(
    small: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = small
    for name in ("SinGAN.models", "SinGAN"):
        monkeypatch.delitem(sys.modules, name)
    state = torch.get_rng_state()
    backbone = read_discriminators(path, scales=3)
    assert_same_state(backbone.state(), expected)
    assert "SinGAN" not in sys.modules
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in backbone.modules())
    assert (backbone.config.name, backbone.config.minimum_size) == ("mdf-small", 11)
    assert backbone.config.taps["scale3.body"] == Tap(6, 1)


@pytest.mark.parametrize("scales", [0, -1, 4, 8])
def test_there_must_be_as_many_discriminators_as_are_asked_for(
    small: tuple[Path, dict[str, Tensor]], scales: int
) -> None:
    with pytest.raises(ValueError, match=rf"scales must be 1 to 3.*got {scales}"):
        read_discriminators(small[0], scales=scales)


def test_files_that_are_not_there_are_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"absent\.pth"):
        read_discriminators(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=tmp_path.name):
        read_discriminators(tmp_path)


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


NO_OFFICIAL = r"Ds_SISR\.pth is no official .*Ds_JPEG\.pth.*save_backbone"
FOREIGN: dict[str, Callable[[bytes, Path], bytes]] = {
    "hostile pickle": lambda good, victim: pickle.dumps(Hostile(victim)),
    "hostile pickle before the good one": lambda good, victim: pickle.dumps(Hostile(victim), 2) + good,
    "hostile pickle behind the good one": lambda good, victim: good + pickle.dumps(Hostile(victim), 2),
    "another byte": lambda good, victim: good[:-1] + bytes([good[-1] ^ 1]),
    "cut": lambda good, victim: good[:-1],
    "empty": lambda good, victim: b"",
    "zip archive": lambda good, victim: b"PK\x03\x04" + good,
    "too large": lambda good, victim: good + bytes(MAXIMUM_FILE),
}


@pytest.mark.parametrize("forge", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_with_another_digest_is_refused_before_it_is_unpickled(
    small: tuple[Path, dict[str, Tensor]],
    tmp_path: Path,
    forge: Callable[[bytes, Path], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forged, victim = tmp_path / "Ds_SISR.pth", tmp_path / "victim"
    forged.write_bytes(forge(small[0].read_bytes(), victim))
    monkeypatch.setattr(official, "_unpickle", lambda data: pytest.fail("it was unpickled"))
    too_large = forged.stat().st_size > MAXIMUM_FILE
    with pytest.raises(WeightsFormatError, match=r"Ds_SISR\.pth has .* more than" if too_large else NO_OFFICIAL):
        read_discriminators(forged)
    assert not victim.exists()


@pytest.mark.parametrize(
    "name", ["os\nmkdir", "builtins\neval", "torch.nn.modules.conv\nConv3d", "torch\nnn.Conv2d", "SinGAN.models\nos"]
)
def test_the_unpickler_knows_no_other_name_even_in_a_file_that_is_taken_for_official(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, victim = tmp_path / "known.pth", tmp_path / "victim"
    path.write_bytes(b"\x80\x02c" + name.encode() + b"\nX\x06\0\0\0victim\x85R.")
    monkeypatch.setitem(OFFICIAL, hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="is in no official file of MDF"):
        read_discriminators(path)
    assert not victim.exists()
