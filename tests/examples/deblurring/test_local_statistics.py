"""Local statistics: against plain sums over boxes, and at both ends: tiny boxes, and boxes larger than the map."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.deblurring.models.local_statistics import GlobalPooling, InstanceNorm, box_mean, use_local_statistics
from examples.deblurring.models.networks import create_network
from tests.examples.deblurring.small_networks import small
from tests.seeds import seeded

WITH_STATISTICS = ["nafnet-32", "hinet", "mprnet"]


def features(height: int = 11, width: int = 14) -> Tensor:
    return torch.randn(2, 3, height, width, generator=seeded(), dtype=torch.float64)


def layers(network: nn.Module) -> list[GlobalPooling | InstanceNorm]:
    return [module for module in network.modules() if isinstance(module, GlobalPooling | InstanceNorm)]


def around(x: Tensor, row: int, column: int, box: tuple[int, int]) -> Tensor:
    """The values of the box around a location, pushed back into the map, as (N, C, box)."""
    top = min(max(row - (box[0] - 1) // 2, 0), max(x.shape[2] - box[0], 0))
    left = min(max(column - (box[1] - 1) // 2, 0), max(x.shape[3] - box[1], 0))
    return x[:, :, top : top + box[0], left : left + box[1]].flatten(2)


# ---- the mean of a box ----


@pytest.mark.parametrize("box", [(1, 1), (3, 5), (4, 6), (5, 2), (10, 13), (11, 13)])
def test_the_mean_of_a_box_is_that_of_average_pooling_with_its_edges_repeated(box: tuple[int, int]) -> None:
    x = features()
    rows, columns = box[0] - 1, box[1] - 1
    pad = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    expected = F.pad(F.avg_pool2d(x, box, stride=1), pad, mode="replicate")
    torch.testing.assert_close(box_mean(x, box).expand_as(x), expected)


def test_sides_as_long_as_the_map_take_all_of_it() -> None:
    x = features()
    assert box_mean(x, (11, 14)).shape == (2, 3, 1, 1)
    torch.testing.assert_close(box_mean(x, (11, 99)), x.mean((2, 3), keepdim=True))
    assert box_mean(x, (3, 14)).shape == (2, 3, 11, 1)


# ---- the layers ----


@pytest.mark.parametrize("box", [(3, 3), (4, 7), (5, 99)])
def test_normalisation_uses_the_mean_and_variance_of_the_values_in_the_box(box: tuple[int, int]) -> None:
    norm, x = scaled_norm(), 3 * features().float() + 5
    norm.box = box
    found = norm(x)
    assert found.dtype == torch.float32
    for row, column in ((0, 0), (5, 6), (10, 13), (2, 12)):
        values = around(x, row, column, box)
        expected = (x[:, :, row, column] - values.mean(2)) / (values.var(2, correction=0) + norm.eps).sqrt()
        torch.testing.assert_close(found[:, :, row, column], expected * norm.weight + norm.bias, rtol=1e-4, atol=1e-5)


def test_a_flat_map_far_from_zero_is_normalised_to_the_bias() -> None:
    norm = scaled_norm()
    norm.box = (3, 3)
    found = norm(torch.full((1, 3, 8, 8), 3000.1))
    torch.testing.assert_close(found, norm.bias[:, None, None].expand_as(found), rtol=0, atol=1e-4)


def scaled_norm() -> InstanceNorm:
    norm = InstanceNorm(3)
    nn.init.normal_(norm.weight, generator=seeded(1))
    nn.init.normal_(norm.bias, generator=seeded(2))
    return norm


# ---- whole networks ----


@pytest.mark.parametrize(
    ("name", "boxes"),
    [
        ("nafnet-32", {(384, 384), (192, 192), (96, 96), (48, 48), (24, 24)}),
        ("hinet", {(48, 48), (24, 24)}),
        # Quarters, halves and the whole.
        ("mprnet", {(192, 192), (96, 96), (48, 48), (192, 384), (96, 192), (48, 96), (384, 384)}),
    ],
)
def test_each_layer_gets_the_share_of_its_map_that_the_window_has_of_a_crop(name: str, boxes: set) -> None:
    network = small(name)
    use_local_statistics(network)
    assert {layer.box for layer in layers(network)} == boxes
    if name == "mprnet":
        assert network.shallow_feat1[1].CA.pool.box == (192, 192)
        assert network.stage1_decoder.decoder_level1[0].CA.pool.box == (192, 384)
        assert network.stage2_decoder.decoder_level2[0].CA.pool.box == (192, 192)


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_a_window_as_large_as_the_image_changes_nothing(name: str) -> None:
    network, image = small(name), torch.rand(1, 3, 32, 64, generator=seeded())
    local = copy.deepcopy(network)
    use_local_statistics(local, window=64, train_size=32)
    for found, expected in zip(local(image), network(image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_a_smaller_odd_window_changes_the_result_and_no_name_or_weight(name: str) -> None:
    network, image = small(name), torch.rand(1, 3, 48, 64, generator=seeded())
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    plain = network(image)[-1]
    use_local_statistics(network, window=33, train_size=32)
    found = network(image)[-1]
    assert found.shape == plain.shape and found.isfinite().all()
    assert (found - plain).abs().max() > 1e-5
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_size_that_the_network_cannot_take_is_refused_and_leaves_it_as_it_was() -> None:
    network = small("hinet")
    with pytest.raises(ValueError, match="multiples of 16 px, got 40 x 40"):
        use_local_statistics(network, window=60, train_size=40)
    assert {layer.box for layer in layers(network)} == {None}
    assert not any(layer._forward_pre_hooks for layer in layers(network))


@pytest.mark.parametrize("name", ["mimo-unet", "residual-unet", "bdirnet"])
def test_a_network_without_global_statistics_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="nothing to make local"):
        use_local_statistics(create_network(name, width=4))
