"""The discriminators of MDF: files like the official ones are written here, and read back in two ways."""

import copyreg
import hashlib
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

from tafm_loss import WeightsError, WeightsFormatError, WeightsNotFoundError, load_backbone, save_backbone
from tafm_loss.backbones.backbone import Tap
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone, discriminators_in
from tafm_loss.mdf.official import MAXIMUM_FILE, OFFICIAL, read_discriminators
from tafm_loss.weights.files import WeightFile


class ConvBlock(nn.Sequential):
    def __init__(self, channels: int, width: int) -> None:
        layers = {"conv": nn.Conv2d(channels, width, 3), "norm": nn.BatchNorm2d(width), "LeakyRelu": nn.LeakyReLU(0.2)}
        super().__init__(OrderedDict(layers))
        nn.init.normal_(self.norm.running_mean, std=0.1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)


class WDiscriminator(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = ConvBlock(3, width)
        self.body = nn.Sequential(OrderedDict({f"block{index}": ConvBlock(width, width) for index in (1, 2, 3)}))
        self.tail = nn.Conv2d(width, 1, 3)


class Whole:
    """The storage of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class LegacyPickler(pickle.Pickler):
    """Pickles modules as torch.save did before PyTorch 1.6."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, 2)
        self.tensors: dict[str, Tensor] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Whole):
            return None
        key = str(1000 + len(self.tensors))
        self.tensors[key] = value.tensor
        kind = torch.FloatStorage if value.tensor.is_floating_point() else torch.LongStorage
        return ("storage", kind, key, "cuda:0", value.tensor.numel(), None)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, nn.Parameter):
            return torch._utils._rebuild_parameter, (value.data, True, OrderedDict())
        if isinstance(value, Tensor):
            layout = (0, tuple(value.shape), value.stride(), False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, (Whole(value), *layout)
        if isinstance(value, nn.Module):
            return copyreg.__newobj__, (type(value),), legacy_state(value)
        return NotImplemented


def legacy_state(module: nn.Module) -> dict[str, Any]:
    plain = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str | tuple)}
    contents = {name: OrderedDict(getattr(module, name)) for name in ("_parameters", "_buffers", "_modules")}
    return plain | contents | {"_backward_hooks": OrderedDict()}


def write(path: Path, modules: list[nn.Module]) -> Path:
    with open(path, "wb") as file:
        for value in (torch.serialization.MAGIC_NUMBER, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, file, 2)
        pickler = LegacyPickler(file)
        pickler.dump(modules)
        pickle.dump(list(pickler.tensors), file, 2)
        for tensor in pickler.tensors.values():
            file.write(tensor.numel().to_bytes(8, "little") + tensor.numpy().tobytes())
    return path


@pytest.fixture
def their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts their classes where pickles of them look."""
    models = types.ModuleType("SinGAN.models")
    for kind in (ConvBlock, WDiscriminator):
        monkeypatch.setattr(kind, "__module__", "SinGAN.models")
        setattr(models, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "SinGAN", types.ModuleType("SinGAN"))
    monkeypatch.setitem(sys.modules, "SinGAN.models", models)


def discriminators(*widths: int) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [WDiscriminator(width).eval() for width in widths]


@pytest.fixture
def path(tmp_path: Path, their_code: None) -> Path:
    return write(tmp_path / "Ds_Small.pth", discriminators(4, 4, 6))


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


# ---- files ----


def test_what_is_read_is_what_torch_reads_by_running_their_code(path: Path) -> None:
    written = discriminators(4, 4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.load(path, map_location="cpu", weights_only=False)
    assert_same_state(state_by_scale(theirs), state_by_scale(written))
    assert_same_state(read_discriminators(path, scales=3).state(), state_by_scale(written))


def test_their_code_is_not_needed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "SinGAN.models")
    monkeypatch.delitem(sys.modules, "SinGAN")
    state = torch.get_rng_state()
    backbone = read_discriminators(path, scales=3)
    assert "SinGAN" not in sys.modules
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in backbone.modules())


def test_the_config_says_what_was_read(path: Path) -> None:
    config = read_discriminators(path, scales=2).config
    assert (config.name, config.architecture, config.minimum_size) == ("mdf-small", "patch-discriminators", 11)
    assert config.taps == {
        f"scale{scale}.{part}": Tap(channels, 1)
        for scale in (1, 2)
        for part, channels in {"head": 4, "body": 4, "tail": 1}.items()
    }
    assert (config.mean, config.std) == ((0.0,) * 3, (1.0,) * 3)
    assert config.base_weights == (
        f"Ds_Small.pth (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}), discriminators 1 to 2 of 3"
    )
    assert (config.licence, config.training_data) == ("unknown", "unknown")


@pytest.mark.parametrize("scales", [0, -1, 4, 8])
def test_there_must_be_as_many_discriminators_as_are_asked_for(path: Path, scales: int) -> None:
    with pytest.raises(ValueError, match=rf"scales must be 1 to 3.*got {scales}"):
        read_discriminators(path, scales=scales)


def change(name: str, value: Any, of: str = "body.block2.conv") -> Callable[[nn.Module], None]:
    return lambda module: setattr(module.get_submodule(of), name, value)


def reorder(module: nn.Module) -> None:
    block = module.head
    block._modules = OrderedDict({name: block._modules[name] for name in ("conv", "LeakyRelu", "norm")})


OTHER_NETWORKS = {
    "stride": (change("stride", (2, 2)), r"body\.block2\.conv should be .*'stride': \(1, 1\)"),
    "padding": (change("padding", (1, 1)), r"discriminator scale2.*body\.block2\.conv"),
    "dilation": (change("dilation", (2, 2)), r"body\.block2\.conv"),
    "groups": (change("groups", 2), r"body\.block2\.conv"),
    "eps": (change("eps", 1e-3, "head.norm"), r"head\.norm should be"),
    "slope": (change("negative_slope", 0.1, "head.LeakyRelu"), r"head\.LeakyRelu should be"),
    "another activation": (change("LeakyRelu", nn.Sequential(), "head"), r"head\.LeakyRelu should be"),
    "another order": (reorder, r"another order"),
    "grey images": (change("head", ConvBlock(1, 4), ""), r"scale2\.head\.conv\.weight has shape \(4, 1, 3, 3\)"),
    "unequal widths": (change("block2", ConvBlock(4, 5), "body"), r"scale2\.body\.block2\.conv\.weight has shape"),
    "a block more": (change("block4", ConvBlock(4, 4), "body"), r"another order|unexpected"),
    "no batch normalisation": (
        change("norm", nn.LeakyReLU(0.2), "body.block3"),
        r"missing: scale2\.body\.block3\.norm",
    ),
}


@pytest.mark.parametrize(("damage", "message"), OTHER_NETWORKS.values(), ids=OTHER_NETWORKS.keys())
def test_discriminators_of_another_kind_are_refused(
    damage: Callable[[nn.Module], None], message: str, tmp_path: Path, their_code: None
) -> None:
    modules = discriminators(4, 4)
    damage(modules[1])
    with pytest.raises(WeightsFormatError, match=message):
        read_discriminators(write(tmp_path / "other.pth", modules), scales=2)
    # What is not asked for is not looked at.
    assert read_discriminators(tmp_path / "other.pth", scales=1)


def test_parts_alone_are_no_discriminators(tmp_path: Path, their_code: None) -> None:
    with pytest.raises(WeightsFormatError, match=r"scale1\.head\.conv\.weight"):
        read_discriminators(write(tmp_path / "parts.pth", [ConvBlock(3, 4)]), scales=1)


def test_files_that_are_not_there_or_too_large_are_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"absent\.pth"):
        read_discriminators(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=tmp_path.name):
        read_discriminators(tmp_path)
    large = tmp_path / "large.pth"
    with open(large, "wb") as file:
        file.truncate(MAXIMUM_FILE + 1)
    with pytest.raises(WeightsFormatError, match=rf"large\.pth has more than {MAXIMUM_FILE} bytes"):
        read_discriminators(large)


OFFICIAL_FILES = {"SISR": [32] * 4 + [64] * 4, "Denoising": [32] * 4 + [64] * 4, "JPEG": [32] * 4 + [64] * 4}


@pytest.mark.parametrize("task", OFFICIAL_FILES)
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
    config = backbone.config
    assert config.base_weights.startswith(f"official Ds_{task}.pth (sha256 {digest}), discriminators 1 to 8 of ")
    assert (config.name, config.licence) == (f"mdf-{task.lower()}", "BSD-3-Clause")
    assert [config.taps[f"scale{index}.body"].channels for index in range(1, 9)] == OFFICIAL_FILES[task]


# ---- the network ----


@pytest.fixture
def network() -> PatchDiscriminators:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PatchDiscriminators([4, 6]).eval()


def test_it_judges_patches_of_11_px(network: PatchDiscriminators) -> None:
    features = network(torch.rand(2, 3, 11, 14))
    assert {tap: tuple(tensor.shape) for tap, tensor in features.items()} == {
        "scale1.head": (2, 4, 9, 12),
        "scale1.body": (2, 4, 3, 6),
        "scale1.tail": (2, 1, 1, 4),
        "scale2.head": (2, 6, 9, 12),
        "scale2.body": (2, 6, 3, 6),
        "scale2.tail": (2, 1, 1, 4),
    }
    assert discriminator_backbone(network, "small").config.minimum_size == 11


def test_a_tap_is_not_overwritten_by_what_follows(network: PatchDiscriminators) -> None:
    images = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    features = network(images)
    assert torch.equal(features["scale1.head"], network.scale1.head(images))
    assert torch.equal(features["scale1.body"], network.scale1.body(network.scale1.head(images)))


@pytest.mark.parametrize("widths", [[], [4, 0], [-1]])
def test_widths_must_be_positive(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="widths must be positive"):
        PatchDiscriminators(widths)


def test_the_widths_are_found_in_the_tensors(path: Path) -> None:
    backbone = read_discriminators(path, scales=3)
    state = torch.get_rng_state()
    twin = discriminators_in(WeightFile("twin", "", backbone.state()))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_state(twin.state_dict(), dict(backbone.state()))


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"weight": torch.zeros(1)},
        {"scale1.head.conv.weight": torch.zeros(4)},
        {"scale1.head.conv.weight": torch.zeros(())},
        # Other layers of this width would take 400 GB.
        {"scale1.head.conv.weight": torch.zeros(100_000, 3, 3, 3)},
    ],
)
def test_tensors_of_something_else_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsFormatError, match=r"other does not fit patch-discriminators: .*scale1\.head\.conv"):
        discriminators_in(WeightFile("other", "", tensors))


def test_saved_and_loaded_they_are_the_same(path: Path, tmp_path: Path) -> None:
    backbone = read_discriminators(path, scales=3)
    folder = save_backbone(backbone, tmp_path / "saved")
    loaded = load_backbone(folder, module=PatchDiscriminators([4, 4, 6]))
    assert loaded.config == backbone.config
    assert loaded.sha256 == backbone.sha256
    images = torch.rand(1, 3, 20, 24)
    features = loaded(images)
    for tap, expected in backbone(images).items():
        assert torch.equal(features[tap], expected)
