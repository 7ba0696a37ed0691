"""Weights of deblurring networks: published forms, our own files, and everything that must not be loaded."""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.deblurring.models.checkpoints import load_weights, save_weights
from examples.deblurring.models.networks import create_network
from tafm_loss import (
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from tests.examples.deblurring.official_forms import (
    official_hinet,
    official_mimo_unet,
    official_mprnet,
    official_nafnet,
)
from tests.examples.deblurring.small_networks import KINDS, SMALL, images, small


def restored(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(images())[-1]


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors that are all different; MPRNet's copies of its PReLU are all the same."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.full(shape, 0.2) if shape == (1,) else 0.1 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def official(name: str) -> dict[str, tuple[int, ...]]:
    """The published form of the network `small(name)`."""
    if name.startswith("mimo"):
        return official_mimo_unet(4, SMALL[name]["blocks"])
    if name == "hinet":
        return official_hinet(4)
    if name == "mprnet":
        return official_mprnet(24, 1)
    return official_nafnet(4, [1, 1, 1, 2])


PUBLISHED = ["mimo-unet", "mimo-unet-plus", "hinet", "mprnet", "nafnet-32"]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("hinet", official_hinet(64)),
        ("mprnet", official_mprnet(96, 8)),
        ("nafnet-32", official_nafnet(32, [1, 1, 1, 28])),
    ],
)
def test_full_networks_have_the_published_names_and_shapes(name: str, shapes: dict) -> None:
    with torch.device("meta"):
        network = create_network(name)
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == shapes


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_form_fills_the_network(name: str, tmp_path: Path) -> None:
    tensors = drawn(official(name))
    torch.save(tensors, tmp_path / "net.pth")
    network = small(name)
    load_weights(network, tmp_path / "net.pth")
    state = network.state_dict()
    assert len(state) == len(tensors)
    if not name.startswith("mimo"):
        assert all(torch.equal(state[key], tensor) for key, tensor in tensors.items())


MIMO = {
    "Encoder.1.layers.0.main.0.main.0.weight": "encoders.1.0.first.weight",
    "Encoder.2.layers.2.main.1.main.0.bias": "encoders.2.2.second.bias",
    "Decoder.0.layers.1.main.1.main.0.weight": "decoders.0.1.second.weight",
    "feat_extract.0.main.0.weight": "stem.weight",
    "feat_extract.2.main.0.weight": "down_quarter.weight",
    "feat_extract.3.main.0.bias": "up_half.bias",
    "feat_extract.5.main.0.weight": "out_full.weight",
    "Convs.0.main.0.weight": "reduce_half.weight",
    "ConvsOut.0.main.0.weight": "out_quarter.weight",
    "ConvsOut.1.main.0.bias": "out_half.bias",
    "AFFs.0.conv.0.main.0.weight": "fuse_full.convs.0.weight",
    "AFFs.1.conv.1.main.0.weight": "fuse_half.convs.1.weight",
    "FAM1.merge.main.0.weight": "attention_quarter.merge.weight",
    "FAM2.merge.main.0.bias": "attention_half.merge.bias",
    "SCM1.main.3.main.0.weight": "context_quarter.convs.3.weight",
    "SCM1.conv.main.0.bias": "context_quarter.merge.bias",
    "SCM2.main.0.main.0.weight": "context_half.convs.0.weight",
}


def test_the_tensors_of_mimo_unet_come_to_the_right_places(tmp_path: Path) -> None:
    tensors = drawn(official("mimo-unet-plus"))
    torch.save({"model": tensors}, tmp_path / "MIMO-UNetPlus.pkl")
    network = small("mimo-unet-plus")
    load_weights(network, tmp_path / "MIMO-UNetPlus.pkl")
    state = network.state_dict()
    assert len(state) == len(tensors)
    for theirs, ours in MIMO.items():
        assert torch.equal(state[ours], tensors[theirs])


@pytest.mark.parametrize(
    ("wrapper", "prefix", "suffix"),
    [
        (None, "", ".pth"),
        ("model", "", ".pkl"),
        ("params", "", ".pth"),
        ("params_ema", "", ".pth"),
        ("state_dict", "module.", ".pth"),
        ("params", "_orig_mod.", ".pth"),
        (None, "module._orig_mod.", ".pth"),
    ],
)
def test_every_wrapping_that_is_published_is_taken_off(
    wrapper: str | None, prefix: str, suffix: str, tmp_path: Path
) -> None:
    source = small("hinet", seed=1)
    tensors = OrderedDict((prefix + key, tensor) for key, tensor in source.state_dict().items())
    content = tensors if wrapper is None else {"epoch": 3, wrapper: tensors, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / f"net{suffix}")
    target = small("hinet")
    load_weights(target, tmp_path / f"net{suffix}")
    assert torch.equal(restored(target), restored(source))


def test_the_format_before_zip_archives_and_half_precision_are_read(tmp_path: Path) -> None:
    source = small("mprnet", seed=1).half()
    torch.save(source.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    target = small("mprnet")
    load_weights(target, tmp_path / "net.pth")
    assert target.tail.weight.dtype == torch.float32
    assert torch.equal(target.tail.weight, source.tail.weight.float())


@pytest.mark.parametrize("name", KINDS)
def test_what_is_saved_is_loaded_again(name: str, tmp_path: Path) -> None:
    source, target = small(name, seed=1), small(name, seed=2)
    save_weights(source, tmp_path / "new" / "net.safetensors")
    load_weights(target, tmp_path / "new" / "net.safetensors")
    state = target.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in source.state_dict().items())
    assert os.listdir(tmp_path / "new") == ["net.safetensors"]


def test_a_known_digest_is_checked_for_both_formats(tmp_path: Path) -> None:
    source = small("hinet", seed=1)
    save_weights(source, tmp_path / "net.safetensors")
    torch.save(source.state_dict(), tmp_path / "net.pth")
    for path in (tmp_path / "net.safetensors", tmp_path / "net.pth"):
        target = small("hinet")
        load_weights(target, path, sha256=hashlib.sha256(path.read_bytes()).hexdigest().upper())
        assert torch.equal(restored(target), restored(source))
        refused(small("hinet"), path, "expected 000", WeightsCorruptError, sha256="0" * 64)


# ---- what must not be loaded ----


def refused(network: nn.Module, path: Path, told: str, kind: type = WeightsFormatError, **options: str) -> None:
    """The error says `told`, and nothing of the network has changed."""
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(kind, match=told):
        load_weights(network, path, **options)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def saved(tmp_path: Path, content: object, name: str = "net.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    tensors = dict(small("hinet", seed=1).state_dict())
    for key in [key for key in tensors if key.startswith("down_path_2.0")]:
        del tensors[key]
    path = saved(tmp_path, tensors)
    refused(small("hinet"), path, r"missing: down_path_2.0.identity.weight, .* and 8 more")
    tensors = small("hinet", seed=1).state_dict()
    tensors["extra.weight"] = torch.ones(1)
    refused(small("hinet"), saved(tmp_path, tensors), "unexpected: extra.weight")


def test_tensors_of_another_shape_or_kind_are_named(tmp_path: Path) -> None:
    tensors = small("hinet", seed=1).state_dict()
    tensors["last.weight"] = tensors["last.weight"][:2]
    tensors["last.bias"] = torch.ones(3, dtype=torch.int64)
    told = r"last.weight has shape \(2, 4, 3, 3\), expected \(3, 4, 3, 3\).*last.bias is torch.int64"
    refused(small("hinet"), saved(tmp_path, tensors), told)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["mimo-unet", "hinet"])
def test_values_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    tensors = drawn(official(name))
    next(iter(tensors.values())).view(-1)[0] = value
    refused(small(name), saved(tmp_path, tensors), "not finite")


def test_copies_of_the_prelu_that_differ_are_refused(tmp_path: Path) -> None:
    tensors = drawn(official("mprnet"))
    tensors["sam12.conv1.weight"] *= 2
    tensors["stage3_orsnet.orb2.body.0.body.1.weight"] += 0.01
    told = "two values, shallow_feat1.1.body.1.weight and stage3_orsnet.orb2.body.0.body.1.weight"
    refused(small("mprnet"), saved(tmp_path, tensors), told)


@pytest.mark.parametrize(
    ("source", "target"), [("hinet", "mprnet"), ("mprnet", "hinet"), ("nafnet-32", "mimo-unet"), ("mimo-unet", "hinet")]
)
def test_weights_of_another_network_are_recognised(source: str, target: str, tmp_path: Path) -> None:
    path = saved(tmp_path, {"params": drawn(official(source))})
    refused(small(target), path, f"does not fit {target}.*it looks like weights of {source.removesuffix('-32')}")
    save_weights(small(source), tmp_path / "net.safetensors")
    refused(small(target), tmp_path / "net.safetensors", f"looks like weights of {source.removesuffix('-32')}")


class Runs:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def test_a_file_with_code_is_left_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": drawn(official("hinet")), "extra": Runs(str(tmp_path / "ran"))})
    refused(small("hinet"), path, "without running code that is in it")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{}, [1, 2], {"params": {}}, {"epoch": 3}, {"model": {"a": 1}}, torch.ones(3)])
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    refused(small("hinet"), saved(tmp_path, content), "must hold a state dict")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_file_that_is_cut_off_is_refused(name: str, length: int, tmp_path: Path) -> None:
    source = small("hinet", seed=1)
    if name.endswith("pth"):
        saved(tmp_path, source.state_dict())
    else:
        save_weights(source, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:length])
    refused(small("hinet"), tmp_path / name, "net")


def test_what_is_no_file_of_weights_is_refused_in_words(tmp_path: Path) -> None:
    refused(small("hinet"), tmp_path / "none.pth", "there is no file", WeightsNotFoundError)
    refused(small("hinet"), tmp_path / "none.safetensors", "there is no file", WeightsNotFoundError)
    (tmp_path / "folder.pth").mkdir()
    refused(small("hinet"), tmp_path / "folder.pth", "it is no file", WeightsError)
    refused(small("hinet"), tmp_path / "net.npz", r"must be a .safetensors, .pth, .pkl, .ckpt, .pt, .bin file")


def test_a_network_that_is_not_finite_is_not_saved_over_one_that_is(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    network = small("hinet")
    save_weights(network, path)
    before = path.read_bytes()
    with torch.no_grad():
        network.last.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsFormatError, match=r"the network has values that are not finite: in last\.weight"):
        save_weights(network, path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"saved as .safetensors, got .*net.pth"):
        save_weights(network, tmp_path / "net.pth")
