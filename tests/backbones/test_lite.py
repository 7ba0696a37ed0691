"""The default network: what its layers promise, whatever the weights."""

import pytest
import torch
from torch import Tensor

from tafm_loss.backbones.lite import LITE_CONFIG, LiteArchitecture, LiteNetwork, without_nyquist


@pytest.fixture
def network() -> LiteNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LiteNetwork()


def images(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_maps_have_the_channels_and_strides_of_the_config(network: LiteNetwork) -> None:
    for size in ((64, 96), (33, 47), (16, 16)):
        for tap, features in network(images(*size)).items():
            channels, stride = LITE_CONFIG.taps[tap]
            assert features.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize(("tap", "depth"), [("stem", 0), ("block1", 2), ("block3", 4), ("block5", 6)])
def test_it_is_cut_after_the_deepest_tap_and_sees_the_same(network: LiteNetwork, tap: str, depth: int) -> None:
    cut = LiteNetwork((tap,))
    state = network.state_dict()
    cut.load_state_dict({name: state[name] for name in cut.state_dict()})
    assert len(cut.blocks) == depth and [name for name in cut.state_dict() if "gains" in name] == [f"gains.{tap}"]
    features = cut(images(45, 61))
    assert list(features) == [tap] and torch.equal(features[tap], network(images(45, 61))[tap])
    assert all(LiteArchitecture().accepts(name) for name in state)


def test_new_gains_change_nothing_and_others_scale_channels_alone(network: LiteNetwork) -> None:
    before = network(images(32, 32))
    assert all(features.min() >= 0 and features.max() <= 6 for features in before.values())
    with torch.no_grad():
        for gain in network.gains.parameters():
            gain.copy_(torch.linspace(0.5, 2, len(gain)))
    for tap, features in network(images(32, 32)).items():
        expected = before[tap] * torch.linspace(0.5, 2, features.shape[1]).view(-1, 1, 1)
        torch.testing.assert_close(features, expected)


def test_features_of_random_weights_vary_at_every_depth(network: LiteNetwork) -> None:
    for features in network(images(64, 64)).values():
        assert 0.1 < features.std() < 3 and (features == 0).float().mean() < 0.8


def test_half_precision_around_it_costs_no_digits(network: LiteNetwork) -> None:
    expected = network(images(32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        for tap, features in network(images(32, 32)).items():
            assert torch.equal(features, expected[tap])


def test_shapes_can_be_asked_for_without_values() -> None:
    maps = LiteArchitecture().build_empty(["block5", "stem"])(torch.empty(1, 3, 33, 48, device="meta"))
    assert {tap: tuple(features.shape[2:]) for tap, features in maps.items()} == {"block5": (3, 3), "stem": (17, 24)}


@pytest.mark.parametrize("size", [(48, 48), (49, 62)])
def test_what_alternates_from_pixel_to_pixel_is_not_seen(network: LiteNetwork, size: tuple[int, int]) -> None:
    smooth = images(*size)
    rows, columns = ((-1.0) ** torch.arange(side) for side in size)
    for pattern in (rows[:, None].expand(size), columns.expand(size), rows[:, None] * columns):
        inner = without_nyquist(pattern.expand(1, 3, *size))[..., 2:-2, 2:-2]
        assert inner.abs().max() < 1e-6
        before, after = (network(given)["block1"][..., 3:-3, 3:-3] for given in (smooth, smooth + 0.5 * pattern))
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_the_filter_keeps_the_mean_and_periods_of_four_px() -> None:
    stripes = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(8)
    stripes = stripes[:, None].expand(1, 3, 32, 32)
    torch.testing.assert_close(without_nyquist(stripes)[..., 2:-2, :], stripes[..., 2:-2, :])
    torch.testing.assert_close(without_nyquist(torch.full((1, 3, 5, 7), 0.3)), torch.full((1, 3, 5, 7), 0.3))
