"""The networks that have a name: taps, geometry, and the parts of other libraries that they are made of."""

import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tafm_loss import Backbone, create_backbone, list_backbones
from tafm_loss.backbones.config import BackboneConfig
from tafm_loss.backbones.registry import ARCHITECTURES, describe_backbones
from tafm_loss.backbones.torchvision_networks import TORCHVISION_NAMES

NETWORKS = [name for name in list_backbones() if not name.startswith("tafm-") and "embedding" not in name]


def random_backbone(name: str, layers: Sequence[str] | str | None = None) -> Backbone:
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(0)
        return create_backbone(name, weights=None, layers=layers)


def test_every_name_is_described() -> None:
    summaries = {summary.name: summary for summary in describe_backbones()}
    assert list(summaries) == list_backbones()
    assert summaries["vgg16"].default_layers == ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    assert summaries["squeezenet1_0"].default_layers == ("relu1", "fire4", "fire8", "fire9")
    assert summaries["alexnet"].default_layers == ("relu1", "relu2", "relu5")
    assert summaries["vgg16"].parameters == 14_714_688  # 13 convolutions with their biases
    assert summaries["vgg19"].taps["conv5_4"] == summaries["vgg19"].taps["relu5_4"] == (512, 16)
    assert summaries["clip-vit-b32"].taps["block11"] == (768, 32)


@pytest.mark.parametrize("layers", [["relu1", "relu9_9"], "relu9_9", []])
def test_unknown_or_no_taps_list_those_there_are(layers: Sequence[str]) -> None:
    with pytest.raises(ValueError, match="it has relu1, fire2, fire3"):
        create_backbone("squeezenet1_1", layers=layers)


def test_random_weights_are_never_silent_and_follow_the_seed() -> None:
    with pytest.warns(UserWarning, match="squeezenet1_1 has random weights"):
        backbone = create_backbone("squeezenet1_1", weights=None, layers=["relu1"])
    assert (backbone.config.base_weights, backbone.config.licence) == ("none", "unknown")
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

    architecture = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = get_model(name, weights=None).eval()
        torch.manual_seed(0)
        network = architecture.build(architecture.default_layers()).eval()
    images = torch.randn(1, 3, 67, 75, generator=torch.Generator().manual_seed(0))
    paths = {step.path: step.tap for step in network.steps if step.tap}
    with torch.no_grad():
        ours, theirs = network(images), create_feature_extractor(whole, paths)(images)
    assert list(ours) == list(architecture.default_layers())
    for tap, features in ours.items():
        torch.testing.assert_close(features, theirs[tap], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("vgg16", "conv2_1", "relu2_1"), ("vgg16_bn", "conv1_2", "relu1_2"), ("alexnet", "relu1", "relu2")],
)
def test_a_tap_is_not_overwritten_by_what_follows(name: str, before: str, after: str) -> None:
    network = ARCHITECTURES[name].build_empty([before, after]).to_empty(device="cpu").eval()
    for tensor in network.state_dict().values():
        tensor.fill_(0.1) if tensor.is_floating_point() else tensor.zero_()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, -0.05)
    images = torch.rand(1, 3, 33, 37, generator=torch.Generator().manual_seed(0)) - 0.5
    shallow = ARCHITECTURES[name].build_empty([before]).to_empty(device="cpu").eval()
    shallow.load_state_dict({key: network.state_dict()[key] for key in shallow.state_dict()})
    alone = shallow(images)[before]
    assert name == "alexnet" or alone.min() < 0
    assert torch.equal(network(images)[before], alone)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_stride_and_minimum_size_are_those_of_a_real_forward(name: str) -> None:
    architecture = ARCHITECTURES[name]
    layers = ("block0",) if "vit" in name else architecture.taps[: 6 if "vgg" in name else None]
    for subset in (layers, layers[:1], layers[len(layers) // 2 :]):
        network = architecture.build_empty(subset).to_empty(device="cpu").eval()
        for tensor in network.state_dict().values():
            tensor.zero_()
        taps, minimum = architecture.measure(network)
        backbone = Backbone(network, BackboneConfig(name, name, taps, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), minimum))
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


@pytest.mark.parametrize(("name", "expected"), [("vgg19", 16), ("resnet50", 1), ("convnext_tiny", 32)])
def test_minimum_size_of_the_deepest_tap(name: str, expected: int) -> None:
    # Four halvings by pooling; padded convolutions all the way; a 4 px stem and three unpadded halvings.
    architecture = ARCHITECTURES[name]
    assert architecture.measure(architecture.build_empty(architecture.taps[-1:]))[1] == expected


def test_nothing_is_drawn_from_the_global_generator_to_load_weights() -> None:
    state = torch.get_rng_state()
    for architecture in ARCHITECTURES.values():
        architecture.build_empty(architecture.default_layers())
    create_backbone("tafm-lite")
    create_backbone("tafm-compact")
    assert torch.equal(torch.get_rng_state(), state)
