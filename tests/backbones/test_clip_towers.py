"""CLIP's towers against open_clip itself, with random weights."""

from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import WeightsAccessError, WeightsError, WeightsUnavailableError, create_backbone
from tafm_loss.backbones.clip_towers import CLIP_TOWERS, ClipViTNetwork, Tower
from tafm_loss.weights.hub import HubRepository
from tests.hub_fixtures import go_offline
from tests.hub_server.server import HubServer


@pytest.fixture(scope="module")
def network() -> ClipViTNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ClipViTNetwork(32, [0, 1]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def theirs(network: ClipViTNetwork) -> nn.Module:
    from open_clip.transformer import QuickGELU, VisionTransformer

    with torch.random.fork_rng():
        tower = VisionTransformer(224, 32, 768, 2, 12, 4.0, output_dim=512, act_layer=QuickGELU).eval()
    missing, unexpected = tower.load_state_dict(network.visual.state_dict(), strict=False)
    assert set(missing) == {"proj", "ln_post.weight", "ln_post.bias"}
    assert not unexpected
    return tower.requires_grad_(False)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def test_the_vit_equals_open_clip_on_its_own_grid(network: ClipViTNetwork, theirs: nn.Module) -> None:
    x = images(2, 3, 224, 224)
    reference = theirs.forward_intermediates(x, indices=[0, 1], intermediates_only=True)["image_intermediates"]
    for index, features in enumerate(reference):
        torch.testing.assert_close(network(x)[f"block{index}"], features, rtol=1e-5, atol=1e-5)


def test_elsewhere_the_vit_equals_open_clip_with_a_resampled_embedding(
    network: ClipViTNetwork, theirs: nn.Module
) -> None:
    x = images(1, 3, 96, 160)
    embedding = theirs.positional_embedding
    grid = embedding[1:].reshape(1, 7, 7, 768).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(3, 5), mode="bicubic", antialias=True)
    resampled = torch.cat([embedding[:1], grid.permute(0, 2, 3, 1).reshape(15, 768)])
    tokens = theirs.conv1(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([theirs.class_embedding.expand(1, 1, -1), tokens], dim=1) + resampled
    tokens = theirs.transformer.resblocks[0](theirs.ln_pre(tokens))
    expected = tokens[:, 1:].reshape(1, 3, 5, 768).permute(0, 3, 1, 2)
    torch.testing.assert_close(network(x)["block0"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 64), (63, 95), (225, 100)])
def test_the_vit_takes_any_size_from_a_patch_on(network: ClipViTNetwork, height: int, width: int) -> None:
    x = images(1, 3, height, width)
    features = network(x)["block1"]
    assert features.shape == (1, 768, -(-height // 32), -(-width // 32))
    continued = F.pad(x, (0, -width % 32, 0, -height % 32), mode="reflect")
    assert torch.equal(network(continued)["block1"], features)


def test_features_do_not_depend_on_whether_gradient_is_wanted(network: ClipViTNetwork) -> None:
    x = images(1, 3, 70, 64)
    with torch.no_grad():
        without = network(x)["block1"]
    assert torch.equal(network(x.requires_grad_())["block1"], without)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_vit_runs_in_other_types(dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        network = ClipViTNetwork(32, [0]).eval().to(dtype)
    features = network(images(1, 3, 64, 40).to(dtype))["block0"]
    assert features.dtype == dtype
    assert features.isfinite().all()


def test_the_resnet_equals_open_clip(tmp_path: Path) -> None:
    from open_clip.modified_resnet import ModifiedResNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = ModifiedResNet([3, 4, 6, 3], output_dim=1024, heads=32).eval()
        for module in tower.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    tensors = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    # A whole CLIP has a text side besides.
    tensors.update({"logit_scale": torch.zeros(()), "token_embedding.weight": torch.zeros(4, 2)})
    safetensors.torch.save_file(tensors, tmp_path / "clip.safetensors")
    backbone = create_backbone("clip-rn50", weights=tmp_path / "clip.safetensors", layers=["stem", "layer2"])
    x = images(1, 3, 75, 96).sigmoid()
    with torch.no_grad():
        reference = tower.forward_intermediates((x - backbone.mean) / backbone.std, intermediates_only=True)
        features = backbone(x)
    torch.testing.assert_close(features["stem"], reference["image_intermediates"][0], rtol=0, atol=0)
    torch.testing.assert_close(features["layer2"], reference["image_intermediates"][2], rtol=0, atol=0)
    assert not any("layer3" in name or "attnpool" in name for name in backbone.state())


@pytest.mark.parametrize("tower", CLIP_TOWERS.values(), ids=CLIP_TOWERS.keys())
def test_towers_are_where_open_clip_says(tower: Tower) -> None:
    assert tower.repo_id == open_clip.get_pretrained_cfg(tower.model, "openai")["hf_hub"].strip("/")


def test_default_weights_are_open_clips_with_quick_gelu(
    network: ClipViTNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "open_clip_model.safetensors"
    safetensors.torch.save_file({**network.state_dict(), "logit_scale": torch.zeros(())}, path)
    asked = []

    def fetch(repository: HubRepository, name: str, revision: str | None) -> Path:
        asked.append((repository.repo_id, name))
        return path

    monkeypatch.setattr(HubRepository, "fetch", fetch)
    backbone = create_backbone("clip-vit-b32", layers=["block0"])
    assert asked == [("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")]
    assert backbone.config.licence == "MIT"
    assert backbone.config.minimum_size == 32
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = network((x - backbone.mean) / backbone.std)["block0"]
    torch.testing.assert_close(backbone(x)["block0"], expected, rtol=0, atol=0)


def test_default_weights_are_downloaded_once_and_then_need_no_hub(
    network: ClipViTNetwork, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stop()
    with pytest.raises(WeightsUnavailableError, match=r"cannot be reached.*from disk with create_backbone"):
        create_backbone("clip-vit-b32", layers=["block0"])
    hub.start()
    tower = safetensors.torch.save(dict(network.state_dict()))
    hub.seed("timm/vit_base_patch32_clip_224.openai", {"open_clip_model.safetensors": tower})
    first = create_backbone("clip-vit-b32", layers=["block0"])
    hub.stop()
    assert create_backbone("clip-vit-b32", layers=["block0"]).sha256 == first.sha256
    go_offline(monkeypatch)
    assert create_backbone("clip-vit-b32", layers=["block0"]).sha256 == first.sha256


def test_a_failure_to_fetch_is_told_with_the_line_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*arguments: object) -> None:
        raise WeightsAccessError("cannot load it: it is forbidden")

    monkeypatch.setattr(HubRepository, "fetch", fetch)
    line = r'create_backbone\("clip-rn50", weights="path/to/open_clip_model\.safetensors"\)'
    with pytest.raises(WeightsAccessError, match=rf"model\.safetensors of clip-rn50.*forbidden.*{line}") as raised:
        create_backbone("clip-rn50")
    assert raised.value.__cause__ is None


def test_an_openai_file_loads_by_path_without_its_text_side(network: ClipViTNetwork, tmp_path: Path) -> None:
    path = tmp_path / "open_clip_model.safetensors"
    tensors = dict(network.state_dict())
    safetensors.torch.save_file({**tensors, "text_projection": torch.zeros(2)}, path)
    backbone = create_backbone("clip-vit-b32", weights=path, layers="block1")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in backbone.state().items())
    safetensors.torch.save_file({**tensors, "visual.extra": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"unexpected: visual\.extra"):
        create_backbone("clip-vit-b32", weights=path, layers="block1")
