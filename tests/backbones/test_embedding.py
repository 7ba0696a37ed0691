"""The paper's form of backbone: CLIP's first blocks and a head that ends in an embedding."""

import copy
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import Backbone, TaskAdaptiveFeatureLoss, WeightsError, create_backbone, load_backbone, save_backbone
from tafm_loss.backbones.clip_towers import ClipViTNetwork
from tafm_loss.backbones.config import BackboneConfig, Tap
from tafm_loss.backbones.embedding import EmbeddingNetwork
from tafm_loss.backbones.registry import ARCHITECTURES
from tafm_loss.weights.files import WeightFile
from tafm_loss.weights.hub import HubRepository

POOLED = "clip-vit-b16-embedding-pooled"


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):  # as after training, so that their place and terms tell
                for tensor in (module.weight, module.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    nn.init.normal_(tensor, std=0.1)
    return network


@pytest.fixture(scope="module")
def flattened() -> EmbeddingNetwork:
    return seeded(lambda: EmbeddingNetwork(64, block=0))


@pytest.fixture(scope="module")
def pooled() -> EmbeddingNetwork:
    return seeded(lambda: EmbeddingNetwork(None, block=0))


@pytest.fixture(params=["flattened", "pooled"])
def network(request: pytest.FixtureRequest) -> EmbeddingNetwork:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def tower() -> dict[str, Tensor]:
    """What an OpenAI file holds: the image tower under its names, and a text side."""
    tensors = seeded(lambda: ClipViTNetwork(16, [3])).state_dict()
    return {**tensors, "visual.proj": torch.zeros(768, 512), "text_projection": torch.zeros(2)}


def images(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_backbone(network: EmbeddingNetwork) -> Backbone:
    config = BackboneConfig(
        "mine", "mine", {"embedding": Tap(1024, 64)}, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 16, spatial=False
    )
    return Backbone(network, config).eval()


# What it computes


def reference_head(head: nn.Sequential, x: Tensor) -> Tensor:
    """Linear, normalisation, ReLU, twice; linear."""
    linear, norm, _, second_linear, second_norm, _, last = head
    for a, b in ((linear, norm), (second_linear, second_norm)):
        x = x @ a.weight.T + a.bias
        x = ((x - b.running_mean) / (b.running_var + 1e-5).sqrt() * b.weight + b.bias).clamp(min=0)
    return x @ last.weight.T + last.bias


def test_the_head_sees_all_tokens_of_open_clip_the_class_token_first(flattened: EmbeddingNetwork) -> None:
    from open_clip.transformer import QuickGELU, VisionTransformer

    with torch.random.fork_rng():
        theirs = VisionTransformer(224, 16, 768, 1, 12, 4.0, output_dim=512, act_layer=QuickGELU).eval()
    theirs.load_state_dict(flattened.visual.state_dict(), strict=False)
    x = images(2, 3, 64, 64)
    grid = theirs.positional_embedding[1:].reshape(1, 14, 14, 768).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(16, 768)
    tokens = torch.cat([theirs.class_embedding.expand(2, 1, -1), theirs.conv1(x).flatten(2).mT], dim=1)
    tokens = tokens + torch.cat([theirs.positional_embedding[:1], grid])
    tokens = theirs.transformer.resblocks[0](theirs.ln_pre(tokens))
    expected = reference_head(flattened.head, tokens.reshape(2, 17 * 768))
    torch.testing.assert_close(flattened(x)["embedding"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 71), (64, 96)])
def test_the_pooled_head_sees_the_mean_of_clips_map_at_any_size(
    pooled: EmbeddingNetwork, height: int, width: int
) -> None:
    x = images(2, 3, height, width)
    features = ClipViTNetwork.forward(pooled, x)["block0"]
    assert features.shape == (2, 768, -(-height // 16), -(-width // 16))
    expected = reference_head(pooled.head, features.mean((2, 3)))
    torch.testing.assert_close(pooled(x)["embedding"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 80), (250, 131)])
def test_images_of_another_size_are_resized_to_the_one_of_the_head(
    flattened: EmbeddingNetwork, height: int, width: int
) -> None:
    x = images(1, 3, height, width)
    resized = F.interpolate(x, (64, 64), mode="bicubic", antialias=True)
    assert torch.equal(flattened(x)["embedding"], flattened(resized)["embedding"])


def test_tower_and_head_have_the_sizes_of_the_papers() -> None:
    with torch.device("meta"):
        network = EmbeddingNetwork()
    assert sum(parameter.numel() for parameter in network.head.parameters()) == 157_031_424
    assert network.head[0].in_features == 197 * 768
    assert len(network.visual.transformer.resblocks) == 4
    assert network(torch.zeros(3, 3, 224, 224, device="meta"))["embedding"].shape == (3, 1024)


def test_the_pooled_form_is_smaller_by_the_weights_of_196_tokens_and_no_array_is_made_to_count() -> None:
    sizes = []
    for name in ("clip-vit-b16-embedding", POOLED):
        architecture = ARCHITECTURES[name]
        network = architecture.build_empty(architecture.default_layers())
        assert architecture.measure(network) == ({"embedding": (1024, 224)}, 16)
        assert all(parameter.is_meta for parameter in network.parameters())
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
    assert sizes[0] - sizes[1] == 196 * 768 * 1024


@pytest.mark.parametrize("size", [15, 0, -224])
def test_a_square_smaller_than_a_patch_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 16 px.*got {size}"):
        EmbeddingNetwork(size)


# What is trained


def test_only_the_head_is_trained(network: EmbeddingNetwork) -> None:
    network = copy.deepcopy(network)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in network.named_parameters() if name.startswith(network.trained)}
    assert trainable == {f"head.{name}" for name, _ in network.head.named_parameters()}
    network.head.train()
    x = images(3, 3, 40, 40).requires_grad_()
    network(x)["embedding"].square().mean().backward()
    assert x.grad.count_nonzero() > 0
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == (name in trainable), name
    assert all(parameter.grad.isfinite().all() for parameter in network.head.parameters())


def test_an_image_has_the_same_embedding_whatever_is_beside_it(network: EmbeddingNetwork) -> None:
    x = images(4, 3, 40, 48)
    together = network(x)["embedding"]
    assert torch.equal(network(x)["embedding"], together)
    torch.testing.assert_close(network(x[2:3])["embedding"], together[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_runs_in_other_types(network: EmbeddingNetwork, dtype: torch.dtype) -> None:
    embedding = copy.deepcopy(network).to(dtype)(images(2, 3, 40, 48).to(dtype))["embedding"]
    assert embedding.dtype == dtype
    assert embedding.isfinite().all()


# As a loss


def test_with_l2_it_is_the_papers_loss(network: EmbeddingNetwork) -> None:
    backbone = as_backbone(network)
    pred, target = images(2, 3, 40, 48).sigmoid(), images(2, 3, 40, 48, seed=6).sigmoid()
    loss_fn = TaskAdaptiveFeatureLoss(backbone, distance="l2")
    expected = F.mse_loss(backbone(pred)["embedding"], backbone(target)["embedding"])
    torch.testing.assert_close(loss_fn(pred, target), expected)
    assert not loss_fn(pred, target).requires_grad
    with pytest.raises(ValueError, match="ends in an embedding"):
        loss_fn.distance_map(pred, target)
    with pytest.raises(ValueError, match="at least 16 px"):
        loss_fn(pred[..., :15], target[..., :15])


def test_half_precision_images_give_nearly_the_same_loss(network: EmbeddingNetwork) -> None:
    loss_fn = TaskAdaptiveFeatureLoss(as_backbone(network), distance="l2")
    pred, target = images(2, 3, 40, 48).sigmoid(), images(2, 3, 40, 48, seed=6).sigmoid()
    for dtype in (torch.float16, torch.bfloat16):
        half = pred.to(dtype).requires_grad_()
        loss = loss_fn(half, target.to(dtype))
        loss.backward()
        torch.testing.assert_close(loss.detach(), loss_fn(pred, target), rtol=0.05, atol=0)
        assert half.grad.isfinite().all()
        assert half.grad.count_nonzero() > 0


# Its weights


@pytest.fixture
def openai(tower: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(repository: HubRepository, name: str, revision: str | None) -> Path:
        assert repository.repo_id == "timm/vit_base_patch16_clip_224.openai"
        return Path(name)

    monkeypatch.setattr(HubRepository, "fetch", fetch)

    monkeypatch.setattr("tafm_loss.weights.defaults.read_weights", lambda path: WeightFile(path.name, "", tower))


def test_default_weights_are_openais_tower_and_a_head_that_is_not_silently_random(
    openai: None, tower: dict[str, Tensor]
) -> None:
    with torch.random.fork_rng(), pytest.warns(UserWarning, match=f"head of the backbone {POOLED} is random.*finetune"):
        torch.manual_seed(0)
        backbone = create_backbone(POOLED)
    assert not backbone.training
    state = backbone.state()
    assert all(torch.equal(state[name], tower[name]) for name in state if not name.startswith("head."))
    assert backbone.sha256 == hashlib.sha256(backbone.serialise()).hexdigest()  # no file holds this head
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Linear(768, 1024)
    assert torch.equal(state["head.0.weight"], first.weight)
    config = backbone.config
    assert (config.spatial, config.minimum_size, config.taps) == (False, 16, {"embedding": (1024, 224)})
    assert config.recommended_distance == "l2"
    assert (config.mean[0], config.licence) == (0.48145466, "MIT")
    assert config.base_weights == (
        "open_clip ViT-B-16-quickgelu, pretrained=openai (hf-hub:timm/vit_base_patch16_clip_224.openai), untuned head"
    )


def test_a_tuned_backbone_is_saved_and_loaded_whole_and_without_warning(openai: None, tmp_path: Path) -> None:
    with torch.random.fork_rng(), pytest.warns(UserWarning, match="head"):
        backbone = create_backbone(POOLED)
    backbone.network.head.train()
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    x = images(4, 3, 32, 32).sigmoid()
    backbone(x)["embedding"].square().mean().backward()
    torch.optim.SGD(parameters, lr=0.1).step()
    save_backbone(backbone.eval(), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_backbone(tmp_path)
        by_name = create_backbone(POOLED, weights=tmp_path / "model.safetensors")
    assert again.config == by_name.config == backbone.config
    expected = backbone(x)["embedding"]
    assert torch.equal(again(x)["embedding"], expected)
    assert torch.equal(by_name(x)["embedding"], expected)
    assert not any(parameter.requires_grad for parameter in again.network.visual.parameters())
    assert all(parameter.requires_grad for parameter in again.network.head.parameters())


def test_a_reduced_network_is_saved_and_loaded_as_a_module(flattened: EmbeddingNetwork, tmp_path: Path) -> None:
    backbone = as_backbone(flattened)
    save_backbone(backbone, tmp_path)
    again = load_backbone(tmp_path, module=EmbeddingNetwork(64, block=0))
    assert again.sha256 == backbone.sha256


def test_an_openai_file_loads_by_path_with_the_same_warning(tower: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "open_clip_model.safetensors"
    safetensors.torch.save_file(tower, path)
    with torch.random.fork_rng(), pytest.warns(UserWarning, match=r"head.*is random"):
        backbone = create_backbone(POOLED, weights=path)
    state = backbone.state()
    assert all(torch.equal(state[name], tower[name]) for name in state if not name.startswith("head."))
    assert backbone.config.base_weights.startswith("open_clip_model.safetensors (sha256 ")


def test_a_file_with_half_a_head_is_refused_not_completed(tower: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file({**tower, "head.0.bias": torch.zeros(1024)}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match=r"missing: head\.0\.weight, head\.1\.weight"):
            create_backbone(POOLED, weights=path)


def test_a_file_of_ours_without_its_head_is_refused_not_completed(tmp_path: Path) -> None:
    architecture = ARCHITECTURES[POOLED]
    config = architecture.config(architecture.build_empty(architecture.taps), base_weights=None)
    path = tmp_path / "ours.safetensors"
    safetensors.torch.save_file({"visual.class_embedding": torch.zeros(768)}, path, {"config": config.to_json()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match="missing: "):
            create_backbone(POOLED, weights=path)


def test_random_weights_are_warned_about_as_for_any_backbone() -> None:
    with torch.random.fork_rng(), pytest.warns(UserWarning, match=f"{POOLED} has random weights"):
        backbone = create_backbone(POOLED, weights=None)
    assert (backbone.config.base_weights, backbone.config.spatial) == ("none", False)
    assert backbone(torch.rand(2, 3, 16, 33))["embedding"].shape == (2, 1024)


def test_an_unknown_tap_lists_the_one_there_is() -> None:
    with pytest.raises(ValueError, match=r"has no tap 'block3'; it has embedding$"):
        create_backbone(POOLED, layers="block3")
