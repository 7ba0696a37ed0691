"""create_backbone: weights in the package, from files and from other libraries, with and without a connection."""

import hashlib
import importlib.resources
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tafm_loss import (
    TaskAdaptiveFeatureLoss,
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
    WeightsUnavailableError,
    create_backbone,
    list_backbones,
    load_backbone,
)
from tafm_loss.backbones import compact, lite
from tafm_loss.backbones.architecture import Bundled, Download
from tafm_loss.backbones.torchvision_networks import TorchvisionArchitecture

Opener = Callable[[str], object]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for module in ("defaults", "hub"):
        monkeypatch.setattr(f"tafm_loss.weights.{module}.reachable", lambda url: False)
    return tmp_path


@pytest.mark.parametrize("opener", [create_backbone, load_backbone, TaskAdaptiveFeatureLoss])
def test_an_unknown_name_is_the_same_error_everywhere(opener: Opener) -> None:
    for wrong, near in (("vgg91", "vgg19"), ("VGG19", "vgg19"), ("clip-vit-b-16", "clip-vit-b16"), ("res_18", "res")):
        with pytest.raises(WeightsNotFoundError, match=f"no backbone is called '{wrong}'; did you mean '{near}"):
            opener(wrong)
    with pytest.raises(FileNotFoundError, match=", ".join(list_backbones())):
        opener("???")


# The bundled backbone


@pytest.mark.parametrize(("name", "weights"), [("tafm-lite", lite.WEIGHTS), ("tafm-compact", compact.WEIGHTS)])
def test_the_bundled_weights_are_those_of_the_constant(name: str, weights: Bundled) -> None:
    asset = importlib.resources.files("tafm_loss.backbones") / "assets" / weights.file
    assert hashlib.sha256(asset.read_bytes()).hexdigest() == weights.sha256
    backbone = create_backbone(name)
    assert backbone.serialise() == asset.read_bytes()
    assert backbone.sha256 == weights.sha256


@pytest.mark.parametrize("name", ["tafm-lite", "tafm-compact"])
def test_a_bundled_backbone_keeps_what_its_file_says_and_can_be_cut(name: str) -> None:
    whole = create_backbone(name)
    first, second, *_ = whole.config.taps
    images = torch.rand(1, 3, 45, 61, generator=torch.Generator().manual_seed(0))
    cut = create_backbone(name, layers=[second])
    assert list(cut.config.taps) == [second]
    assert cut.config.mean == whole.config.mean
    assert all(first not in units and set(units) <= {second} for units in cut.config.units.values())
    assert len(cut.state()) < len(whole.state())
    assert cut.sha256 == whole.sha256
    assert torch.equal(cut(images)[second], whole(images)[second])


def test_a_bundled_file_that_was_changed_or_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, message in (({"sha256": "0" * 64}, "expected 0000"), ({"file": "absent"}, "install tafm-loss again")):
        monkeypatch.setattr(compact.CompactArchitecture, "default_weights", compact.WEIGHTS._replace(**changes))
        with pytest.raises(WeightsError, match=message):
            create_backbone("tafm-compact")


# Weights from files


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng():
        torch.manual_seed(1)
        tensors: dict[str, Tensor] = squeezenet1_1(weights=None).state_dict()
    return tensors


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_plain_state_dict_with_classifier_is_loaded(state: dict[str, Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    torch.save(state, path) if suffix == ".pth" else safetensors.torch.save_file(state, path)
    backbone = create_backbone("squeezenet1_1", weights=path, layers=["fire3"])
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state().items())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.sha256 == create_backbone("squeezenet1_1", weights=path).sha256 == sha256
    assert backbone.config.base_weights == f"mine{suffix} (sha256 {sha256})"
    assert backbone.config.licence == "unknown"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "loss.features._orig_mod."])
def test_names_that_would_fit_without_a_prefix_are_told_so(
    state: dict[str, Tensor], tmp_path: Path, prefix: str
) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({prefix + name: tensor for name, tensor in state.items()}, path)
    with pytest.raises(WeightsFormatError, match=rf"\. The names fit without '{re.escape(prefix)}', which a wrapper"):
        create_backbone("squeezenet1_1", weights=path)


def test_a_file_of_another_architecture_or_with_more_in_it_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(WeightsError, match=r"does not fit alexnet: missing: .*; unexpected: features\."):
        create_backbone("alexnet", weights=path)
    safetensors.torch.save_file({**state, "head.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"unexpected: head\.weight$"):
        create_backbone("squeezenet1_1", weights=path)


def test_a_file_that_we_wrote_brings_its_config(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="random weights"):
        backbone = create_backbone("squeezenet1_1", weights=None, layers=["relu1", "fire5"])
    path = tmp_path / "ours.safetensors"
    path.write_bytes(backbone.serialise())
    again = create_backbone("squeezenet1_1", weights=path)
    assert (again.config, again.sha256) == (backbone.config, backbone.sha256)
    assert list(create_backbone("squeezenet1_1", weights=path, layers="relu1").config.taps) == ["relu1"]
    with pytest.raises(WeightsError, match="missing: features"):
        create_backbone("squeezenet1_1", weights=path, layers="fire9")
    with pytest.raises(WeightsError, match="holds a squeezenet1_1, not a alexnet"):
        create_backbone("alexnet", weights=path)


def test_imagenet_weights_see_a_cat(shared_path: Callable[[str], Path]) -> None:
    """The truncated network feeds torchvision's own classifier: class 285 is the Egyptian cat."""
    data = pytest.importorskip("skimage.data")
    from torchvision.models import squeezenet1_0
    from torchvision.transforms import functional

    path = shared_path("weights/squeezenet1_0-imagenet.safetensors")
    backbone = create_backbone("squeezenet1_0", weights=path, layers=["relu1", "fire9"])
    whole = squeezenet1_0(weights=None).eval()
    whole.load_state_dict(safetensors.torch.load_file(path))
    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1) / 255
    image = functional.center_crop(functional.resize(image, [256], antialias=True), [224, 224])[None]
    with torch.no_grad():
        scores = whole.classifier(backbone(image)["fire9"]).flatten(1)
        reference = whole((image - backbone.mean) / backbone.std)
    assert scores.argmax().item() == 285
    torch.testing.assert_close(scores, reference)


# Default weights of torchvision and open_clip


@pytest.fixture
def served(state: dict[str, Tensor], offline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that torchvision could have published, beside a cache that is empty."""
    saved = offline / "published.pth"
    torch.save(state, saved)
    digits = hashlib.sha256(saved.read_bytes()).hexdigest()[:8]
    where = Download(f"squeezenet1_1-{digits}.pth", saved.as_uri(), digits)
    monkeypatch.setattr(TorchvisionArchitecture, "default_weights", where)
    return saved


def test_default_weights_are_downloaded_into_torchvisions_cache_and_read_from_it(
    state: dict[str, Tensor], served: Path, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsUnavailableError, match="cannot be reached"):
        create_backbone("squeezenet1_1")
    monkeypatch.setattr("tafm_loss.weights.defaults.reachable", lambda url: True)
    data = served.read_bytes()
    served.write_bytes(data[:-1])
    with pytest.raises(WeightsUnavailableError, match="invalid hash value"):
        create_backbone("squeezenet1_1")
    served.write_bytes(data)
    create_backbone("squeezenet1_1")
    served.unlink()
    backbone = create_backbone("squeezenet1_1", layers="fire4")
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state().items())
    assert backbone.config.training_data == "ImageNet-1k"
    assert backbone.sha256 == hashlib.sha256(data).hexdigest()
    (renamed := offline / "renamed.pth").write_bytes(data)
    assert create_backbone("squeezenet1_1", weights=renamed, layers="fire4").config == backbone.config


@pytest.mark.parametrize("content", [b"half of it", None])
def test_a_damaged_file_in_torchvisions_cache_is_told(
    state: dict[str, Tensor], offline: Path, content: bytes | None
) -> None:
    (offline / "checkpoints").mkdir()
    path = offline / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    torch.save(state, path) if content is None else path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"squeezenet1_1-b8a52dc0\.pth") as raised:
        create_backbone("squeezenet1_1")
    assert isinstance(raised.value, WeightsCorruptError) == (content is None)
    assert content or "not that of its name: delete it" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("vgg19", "vgg19-dcbb9e9d.pth", "checkpoints"),
        ("clip-rn50", "open_clip_model.safetensors", ""),
        ("clip-vit-b16", "open_clip_model.safetensors", ""),
        ("clip-vit-b16-embedding", "open_clip_model.safetensors", ""),
    ],
)
def test_offline_the_error_names_file_folder_and_the_line_to_type(
    name: str, file: str, folder: str, offline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError) as error:
        create_backbone(name)
    message = str(error.value).replace("\\", "/")
    for part in (file, str(offline / folder), f'create_backbone("{name}", weights="path/to/{file}")'):
        assert part.replace("\\", "/") in message
    assert capfd.readouterr() == ("", "")
