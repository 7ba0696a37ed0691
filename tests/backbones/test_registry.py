"""create_backbone: names, taps, geometry, weights and what happens without a network connection."""

import copy
import hashlib
import importlib.resources
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tafm_loss import Backbone, WeightsCorruptError, WeightsError, create_backbone, list_backbones
from tafm_loss.backbones import registry
from tafm_loss.backbones.registry import ARCHITECTURES, describe_backbones, find_architecture
from tafm_loss.backbones.torchvision_networks import TORCHVISION_NAMES, TorchvisionArchitecture
from tafm_loss.weights.files import WeightFile

NETWORKS = [name for name in list_backbones() if name != "tafm-compact" and "embedding" not in name]


def random_backbone(name: str, layers: Sequence[str] | str | None = None) -> Backbone:
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(0)
        return create_backbone(name, weights=None, layers=layers)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("tafm_loss.backbones.torchvision_networks.reachable", lambda url: False)
    monkeypatch.setattr("tafm_loss.weights.hub.reachable", lambda url: False)
    return tmp_path


def test_every_name_is_described() -> None:
    summaries = {summary.name: summary for summary in describe_backbones()}
    assert list(summaries) == list_backbones()
    assert summaries["vgg16"].default_layers == ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    assert summaries["squeezenet1_0"].default_layers == ("relu1", "fire4", "fire8", "fire9")
    assert summaries["alexnet"].default_layers == ("relu1", "relu2", "relu5")
    assert summaries["vgg16"].parameters == 14_714_688  # 13 convolutions with their biases
    assert summaries["vgg19"].taps["conv5_4"] == summaries["vgg19"].taps["relu5_4"] == (512, 16)
    assert summaries["clip-vit-b32"].taps["block11"] == (768, 32)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("vgg91", "vgg19"), ("VGG19", "vgg19"), ("clip-vit-b-16", "clip-vit-b16"), ("resnet_18", "resnet18")],
)
def test_an_unknown_name_says_which_are_near(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong}.*did you mean.*{near}"):
        create_backbone(wrong)


def test_a_name_that_is_near_none_lists_all() -> None:
    with pytest.raises(ValueError, match=", ".join(list_backbones())):
        create_backbone("???")


@pytest.mark.parametrize("layers", [["relu1", "relu9_9"], "relu9_9", []])
def test_unknown_or_no_taps_list_those_there_are(layers: Sequence[str]) -> None:
    with pytest.raises(ValueError, match="it has relu1, fire2, fire3"):
        create_backbone("squeezenet1_1", layers=layers)


def test_random_weights_are_never_silent() -> None:
    with pytest.warns(UserWarning, match="squeezenet1_1 has random weights"):
        backbone = create_backbone("squeezenet1_1", weights=None, layers=["relu1"])
    assert backbone.config.base_weights == "none"
    assert backbone.config.licence == "unknown"


def test_random_weights_follow_the_seed() -> None:
    assert random_backbone("squeezenet1_1").sha256 == random_backbone("squeezenet1_1").sha256


def test_layers_are_ordered_and_the_network_ends_with_the_deepest() -> None:
    backbone = random_backbone("squeezenet1_1", ["fire3", "relu1", "fire3"])
    assert list(backbone.config.taps) == ["relu1", "fire3"]
    assert list(backbone(torch.rand(1, 3, 40, 40))) == ["relu1", "fire3"]
    assert max(int(name.split(".")[1]) for name in backbone.state()) == 4


@pytest.mark.parametrize("name", [name for name in TORCHVISION_NAMES if name not in ("vgg16", "vgg16_bn", "vgg19")])
def test_features_are_torchvisions_own(name: str) -> None:
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    architecture = find_architecture(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = get_model(name, weights=None).eval()
    layers = architecture.default_layers()
    backbone = registry.from_weights(architecture, WeightFile("whole", "0" * 64, whole.state_dict()), layers=layers)
    images = torch.rand(1, 3, 67, 75, generator=torch.Generator().manual_seed(0))
    normalised = (images - backbone.mean) / backbone.std
    paths = {step.path: step.tap for step in backbone.network.steps if step.tap}
    with torch.no_grad():
        ours, theirs = backbone(images), create_feature_extractor(whole, paths)(normalised)
    for tap in layers:
        torch.testing.assert_close(ours[tap], theirs[tap], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("vgg16", "conv2_1", "relu2_1"), ("vgg16_bn", "conv1_2", "relu1_2"), ("alexnet", "relu1", "relu2")],
)
def test_a_tap_is_not_overwritten_by_what_follows(name: str, before: str, after: str) -> None:
    architecture = find_architecture(name)
    network = nn.Module.to_empty(architecture.build_empty([before, after]), device="cpu").eval()
    for tensor in network.state_dict().values():
        tensor.fill_(0.1) if tensor.is_floating_point() else tensor.zero_()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, -0.05)
    images = torch.rand(1, 3, 33, 37, generator=torch.Generator().manual_seed(0)) - 0.5
    alone = network(images)[before].detach().clone()
    assert name == "alexnet" or alone.min() < 0
    assert torch.equal(network(images)[before], alone)
    shallow = architecture.build_empty([before]).to_empty(device="cpu").eval()
    shallow.load_state_dict({key: network.state_dict()[key] for key in shallow.state_dict()})
    assert torch.equal(shallow(images)[before], alone)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_stride_and_minimum_size_are_those_of_a_real_forward(name: str) -> None:
    architecture = find_architecture(name)
    layers = ("block0",) if "vit" in name else architecture.taps[: 6 if "vgg" in name else None]
    for subset in (layers, layers[:1], layers[len(layers) // 2 :]):
        network = architecture.build_empty(subset).to_empty(device="cpu").eval()
        for tensor in network.state_dict().values():
            tensor.zero_()
        taps, minimum = architecture.measure(network)
        backbone = Backbone(network, copy.copy(_config(architecture.name, taps, minimum)))
        height, width = 4 * 32, 3 * 32
        features, larger = backbone(torch.zeros(1, 3, height, width)), backbone(torch.zeros(1, 3, height + 32, width))
        assert list(features) == list(taps) == list(subset)
        for tap, (channels, stride) in taps.items():
            assert features[tap].shape[:2] == (1, channels)
            assert larger[tap].shape[2] - features[tap].shape[2] == 32 // stride
            assert larger[tap].shape[3] == features[tap].shape[3]
        assert backbone(torch.zeros(1, 3, minimum, minimum)).keys() == taps.keys()
        if minimum > 1:
            with pytest.raises(ValueError, match=f"at least {minimum} px"):
                backbone(torch.zeros(1, 3, minimum - 1, minimum))
            if "vit" not in name:
                with pytest.raises(RuntimeError):
                    network(torch.zeros(1, 3, minimum - 1, minimum - 1))


def _config(name: str, taps: dict[str, registry.Tap], minimum: int) -> registry.BackboneConfig:
    return registry.BackboneConfig(name, name, taps, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), minimum)


@pytest.mark.parametrize("name", ["vgg19", "resnet50", "convnext_tiny"])
def test_minimum_size_of_the_deepest_tap(name: str) -> None:
    # Four halvings by pooling; padded convolutions all the way; a 4 px stem and three unpadded halvings.
    expected = {"vgg19": 16, "resnet50": 1, "convnext_tiny": 32}[name]
    architecture = find_architecture(name)
    _, minimum = architecture.measure(architecture.build_empty(architecture.taps[-1:]))
    assert minimum == expected


def test_nothing_is_drawn_from_the_global_generator_to_load_weights() -> None:
    state = torch.get_rng_state()
    for architecture in ARCHITECTURES.values():
        architecture.build_empty(architecture.default_layers())
    create_backbone("tafm-compact")
    assert torch.equal(torch.get_rng_state(), state)


# The bundled backbone


def test_the_bundled_weights_are_those_of_the_constant() -> None:
    asset = importlib.resources.files("tafm_loss.backbones") / "assets" / registry.COMPACT_FILE
    assert hashlib.sha256(asset.read_bytes()).hexdigest() == registry.COMPACT_SHA256
    assert create_backbone("tafm-compact").sha256 == registry.COMPACT_SHA256


def test_the_bundled_backbone_keeps_what_its_file_says_and_can_be_cut() -> None:
    whole = create_backbone("tafm-compact")
    first, second, *_ = whole.config.taps
    images = torch.rand(1, 3, 45, 61, generator=torch.Generator().manual_seed(0))
    cut = create_backbone("tafm-compact", layers=[second])
    assert list(cut.config.taps) == [second]
    assert cut.config.mean == whole.config.mean
    assert all(first not in units and set(units) <= {second} for units in cut.config.units.values())
    assert len(cut.state()) < len(whole.state())
    assert torch.equal(cut(images)[second], whole(images)[second])


def test_a_bundled_file_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "COMPACT_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="expected 0000"):
        create_backbone("tafm-compact")


# Weights from files


@pytest.fixture
def squeezenet_state() -> dict[str, Tensor]:
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return squeezenet1_1(weights=None).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_plain_state_dict_with_classifier_is_loaded(
    squeezenet_state: dict[str, Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save(squeezenet_state, path)
    else:
        safetensors.torch.save_file(squeezenet_state, path)
    backbone = create_backbone("squeezenet1_1", weights=path, layers=["fire3"])
    assert all(torch.equal(tensor, squeezenet_state[name]) for name, tensor in backbone.state().items())
    assert backbone.config.base_weights.startswith(f"mine{suffix} (sha256 ")
    assert backbone.config.licence == "unknown"


def test_a_file_of_another_architecture_is_named(squeezenet_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.safetensors"
    safetensors.torch.save_file(squeezenet_state, path)
    with pytest.raises(WeightsError, match=r"does not fit alexnet: missing: .*; unexpected: features\."):
        create_backbone("alexnet", weights=path)


def test_extra_tensors_that_torchvision_does_not_know_are_refused(
    squeezenet_state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "extra.safetensors"
    safetensors.torch.save_file({**squeezenet_state, "head.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"unexpected: head\.weight$"):
        create_backbone("squeezenet1_1", weights=path)


def test_a_file_that_we_wrote_brings_its_config(tmp_path: Path) -> None:
    backbone = random_backbone("squeezenet1_1", ["relu1", "fire5"])
    path = tmp_path / "ours.safetensors"
    path.write_bytes(backbone.serialise())
    again = create_backbone("squeezenet1_1", weights=path)
    assert again.config == backbone.config
    assert again.sha256 == backbone.sha256
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


def test_default_weights_come_from_torchvisions_cache(
    squeezenet_state: dict[str, Tensor], offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = offline / "checkpoints"
    folder.mkdir()
    torch.save(squeezenet_state, folder / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(WeightsCorruptError, match=r"squeezenet1_1-b8a52dc0\.pth has sha256 .* not that of its name"):
        create_backbone("squeezenet1_1")
    monkeypatch.setattr(TorchvisionArchitecture, "is_default", lambda self, file: True)
    backbone = create_backbone("squeezenet1_1")
    assert all(torch.equal(tensor, squeezenet_state[name]) for name, tensor in backbone.state().items())
    assert "squeezenet1_1-b8a52dc0.pth" in backbone.config.base_weights
    assert backbone.config.training_data == "ImageNet-1k"


def test_the_default_file_is_known_by_its_digest(squeezenet_state: dict[str, Tensor]) -> None:
    digest = "b8a52dc0" + 56 * "0"
    file = WeightFile("renamed.pth", digest, squeezenet_state)
    config = registry.from_weights(find_architecture("squeezenet1_1"), file).config
    assert "squeezenet1_1-b8a52dc0.pth" in config.base_weights
    other = registry.from_weights(find_architecture("squeezenet1_1"), file._replace(sha256="0" * 64)).config
    assert other.base_weights == f"renamed.pth (sha256 {'0' * 64})"


def test_offline_torchvision_names_file_folder_and_the_line_to_type(
    offline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError) as error:
        create_backbone("vgg19")
    message = str(error.value)
    assert "vgg19-dcbb9e9d.pth" in message
    assert str(offline / "checkpoints") in message
    assert 'create_backbone("vgg19", weights="path/to/vgg19-dcbb9e9d.pth")' in message.replace("\\", "/")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_in_torchvisions_cache_is_a_weights_error(offline: Path) -> None:
    (offline / "checkpoints").mkdir()
    (offline / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"half of it")
    with pytest.raises(WeightsError, match=r"squeezenet1_1-b8a52dc0\.pth"):
        create_backbone("squeezenet1_1")


@pytest.mark.parametrize("name", ["clip-rn50", "clip-vit-b16", "clip-vit-b32", "clip-vit-b16-embedding"])
def test_offline_open_clip_names_file_folder_and_the_line_to_type(
    name: str, offline: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(offline))
    with pytest.raises(WeightsError) as error:
        create_backbone(name)
    message = str(error.value)
    assert "open_clip_model.safetensors" in message
    assert str(offline) in message
    line = f'create_backbone("{name}", weights="path/to/open_clip_model.safetensors")'
    assert line in message.replace("\\", "/")
    assert capfd.readouterr() == ("", "")
