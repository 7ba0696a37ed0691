"""Backbone and BackboneConfig: what travels with weights, and what freezing leaves."""

import copy
import dataclasses
import hashlib
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tafm_loss import Backbone, BackboneConfig, Tap
from tafm_loss.backbones.backbone import came_from

CONFIG = BackboneConfig(
    name="mine",
    architecture="mine",
    taps={"map": Tap(4, 1)},
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.25, 2.0),
    minimum_size=3,
    units={"l2": {"map": 0.25}},
    measurements={"selectivity": [1.5, 2.0]},
)


class Awkward(nn.Module):
    """Everything that is hard to freeze: batch statistics, attention, tied and absent parameters, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.tied_a = self.tied_b = nn.Parameter(torch.randn(4))
        self.conv_again = self.conv
        self.linear = nn.Linear(4, 4)
        self.linear.bias = self.norm.weight
        self.register_parameter("absent", None)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.norm(self.conv(images))
        tokens = features.flatten(2).transpose(1, 2)
        tokens = self.linear(self.attention(tokens, tokens, tokens, need_weights=False)[0]) * self.tied_a + self.tied_b
        return {"map": tokens.transpose(1, 2).reshape(features.shape)}


class Nothing(nn.Module):
    """A network without parameters."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"map": images}


@pytest.fixture
def backbone() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Backbone(Awkward(), CONFIG)
        backbone(torch.rand(4, 3, 8, 9))  # moves the batch statistics away from their start
    return backbone.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(1))


def test_config_survives_json() -> None:
    assert BackboneConfig.from_json(CONFIG.to_json()) == CONFIG
    assert dataclasses.replace(CONFIG, taps={"map": [4, 1]}, mean=[0.1, 0.2, 0.3]) == CONFIG


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("taps", {}),
        ("taps", {"map": [4]}),
        ("taps", {"map": [True, 1]}),
        ("taps", {"map": [4, 0]}),
        ("taps", [4, 1]),
        ("mean", [0.1, 0.2]),
        ("mean", "abc"),
        ("mean", [0.1, 0.2, 1e400]),
        ("std", [0.5, 0.0, 0.5]),
        ("minimum_size", 0),
        ("minimum_size", 2.0),
        ("minimum_size", 10_000),
        ("spatial", 1),
        ("name", None),
        ("units", {"l2": {"map": 0}}),
        ("measurements", []),
        ("recommended_layers", {"other": 1.0}),
        ("recommended_layers", {"map": 0}),
        ("recommended_distance", None),
        ("code", "import os"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named_from_json_and_from_python(field: str, value: Any) -> None:
    fields = {**json.loads(CONFIG.to_json()), field: value}
    with pytest.raises(ValueError, match=field if value != [0.1, 0.2, 1e400] else "finite"):
        BackboneConfig.from_json(json.dumps(fields).replace("Infinity", "1e400"))
    with pytest.raises((ValueError, TypeError), match=field):
        BackboneConfig(**fields)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"mean": NaN}', '{"mean": [1e999, 0, 0]}', "{}"])
def test_text_that_is_no_config_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        BackboneConfig.from_json(text)


def test_measurements_that_are_not_finite_are_refused_when_written() -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(CONFIG, measurements={"loss": math.nan}).to_json()


def test_images_are_normalised_by_the_config(images: Tensor) -> None:
    expected = (images - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.25, 2.0])[:, None, None]
    torch.testing.assert_close(Backbone(Nothing(), CONFIG)(images)["map"], expected)
    whole = dataclasses.replace(CONFIG, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(Backbone(Nothing(), whole)(images)["map"], images)


def test_an_image_that_is_too_small_is_refused(backbone: Backbone) -> None:
    assert backbone(torch.zeros(1, 3, 3, 3))["map"].shape == (1, 4, 3, 3)
    with pytest.raises(ValueError, match="at least 3 px"):
        backbone(torch.zeros(1, 3, 3, 2))


def test_frozen_copy_has_nothing_to_train_or_to_save(backbone: Backbone, images: Tensor) -> None:
    frozen = backbone.frozen_copy()
    parent = nn.Sequential(frozen).train()
    assert not list(parent.parameters())
    assert not parent.state_dict()
    assert not any(module.training for module in frozen.modules())
    assert all(not tensor.requires_grad for tensor in frozen.buffers())
    assert frozen.network.absent is None
    torch.testing.assert_close(frozen(images)["map"], backbone(images)["map"])


def test_frozen_copy_is_a_copy(backbone: Backbone, images: Tensor) -> None:
    frozen = backbone.frozen_copy()
    before = frozen(images)["map"]
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(1)
    assert torch.equal(frozen(images)["map"], before)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.state_dict()


def test_freezing_twice_changes_nothing(backbone: Backbone) -> None:
    assert backbone.frozen_copy().frozen_copy().serialise() == backbone.serialise()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_frozen_copy_is_copied_and_pickled_whole(backbone: Backbone, images: Tensor, again: Any) -> None:
    frozen = backbone.frozen_copy()
    other = again(frozen).train()
    assert not other.state_dict()
    assert not any(module.training for module in other.modules())
    assert other.sha256 == backbone.sha256
    assert torch.equal(other(images)["map"], frozen(images)["map"])


def test_frozen_copy_changes_type_as_a_whole(backbone: Backbone, images: Tensor) -> None:
    frozen = backbone.frozen_copy().double()
    features = frozen(images)["map"]
    assert features.dtype == torch.float64
    torch.testing.assert_close(features.float(), backbone(images)["map"])


def test_frozen_copy_compiles_without_a_break(backbone: Backbone, images: Tensor) -> None:
    frozen = backbone.frozen_copy()
    images.requires_grad_()
    compiled = torch.compile(frozen, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images)["map"], frozen(images)["map"])


def test_gradient_passes_through_a_frozen_copy(backbone: Backbone, images: Tensor) -> None:
    frozen = backbone.frozen_copy()
    images.requires_grad_()
    frozen(images)["map"].square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def _with_other_mean(backbone: Backbone) -> None:
    backbone.config = dataclasses.replace(backbone.config, mean=(0.0, 0.2, 0.3))


def _with_other_statistics(backbone: Backbone) -> None:
    backbone.network.norm.running_mean.add_(1e-3)


def _with_one_other_weight(backbone: Backbone) -> None:
    with torch.no_grad():
        backbone.network.linear.weight[2, 1].neg_()


@pytest.mark.parametrize("change", [_with_other_mean, _with_other_statistics, _with_one_other_weight])
def test_the_digest_is_that_of_the_file_until_something_changes(
    backbone: Backbone, change: Callable[[Backbone], None]
) -> None:
    digest = hashlib.sha256(backbone.serialise()).hexdigest()
    assert backbone.sha256 == digest
    came_from(backbone, "f" * 64)
    for same in (backbone, copy.deepcopy(backbone), backbone.frozen_copy(), pickle.loads(pickle.dumps(backbone))):
        assert same.sha256 == "f" * 64
    change(backbone)
    assert backbone.sha256 == hashlib.sha256(backbone.serialise()).hexdigest() != digest


def test_half_precision_has_a_digest_of_its_own(backbone: Backbone) -> None:
    half = came_from(backbone, "f" * 64).half()
    assert half.sha256 == hashlib.sha256(half.serialise()).hexdigest()


def test_a_network_without_parameters_freezes(images: Tensor) -> None:
    backbone = Backbone(Nothing(), CONFIG)
    assert torch.equal(backbone.frozen_copy()(images)["map"], backbone(images)["map"])
    assert backbone.frozen_copy().sha256 == backbone.sha256


def test_a_network_that_returns_no_dict_is_named() -> None:
    with pytest.raises(TypeError, match=r"must return \{tap: features\}, got Tensor"):
        Backbone(nn.Conv2d(3, 4, 1), CONFIG)(torch.zeros(1, 3, 8, 8))
