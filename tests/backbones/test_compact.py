"""The bundled network: what its layers promise, whatever the weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.backbones.compact import COMPACT_CONFIG, FLOOR, BlurPool, CompactNetwork, Stem


@pytest.fixture
def network() -> CompactNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CompactNetwork()


def test_maps_have_the_channels_and_strides_of_the_config(network: CompactNetwork) -> None:
    for size in ((64, 96), (33, 47), (16, 16)):
        for tap, features in network(torch.rand(1, 3, *size)).items():
            channels, stride = COMPACT_CONFIG.taps[tap]
            assert features.shape == (1, channels, size[0] // stride, size[1] // stride)


def test_it_is_cut_after_the_deepest_tap() -> None:
    network = CompactNetwork(("stage2",))
    assert list(network(torch.rand(1, 3, 32, 32))) == ["stage2"] and len(network.stages) == 1


def test_a_constant_gradient_in_the_stem_is_a_constant_gradient_in_the_image(network: CompactNetwork) -> None:
    images = torch.zeros(1, 3, 24, 24, requires_grad=True)
    learned = network.stem(images)[:, :-3]
    weights = torch.rand(learned.shape[1], generator=torch.Generator().manual_seed(1)).view(1, -1, 1, 1)
    (gradient,) = torch.autograd.grad((learned * weights).sum(), images)
    inner = gradient[..., 6:-6, 6:-6]
    torch.testing.assert_close(inner, inner.mean(dim=(2, 3), keepdim=True).expand_as(inner), atol=1e-5, rtol=1e-5)


def patterns() -> list[Tensor]:
    sign = torch.tensor([1.0, -1.0]).repeat(16)
    flat = torch.ones(32)
    return [torch.outer(y, x).expand(1, 3, 32, 32) for y, x in ((sign, sign), (flat, sign), (sign, flat))]


def test_noise_at_the_nyquist_frequencies_is_seen(network: CompactNetwork) -> None:
    flat = torch.zeros(1, 3, 32, 32)
    for index, pattern in enumerate(patterns()):
        change = (F.relu(network.stem(flat + 0.05 * pattern)) - F.relu(network.stem(flat))).detach()[..., 2:-2, 2:-2]
        assert change[:, :-3].abs().max() < 1e-5, "the learned filters are blind there"
        seen = change[:, -3:].abs().mean(dim=(0, 2, 3))
        assert seen[index] == pytest.approx(0.05 * 3, rel=1e-4)
        assert seen.sum() == pytest.approx(0.05 * 3, rel=1e-4)


def test_colour_noise_of_the_finest_detail_has_no_gradient(network: CompactNetwork) -> None:
    sharp = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    pred = (sharp + 0.1).requires_grad_()
    near, far = network(pred), network(sharp)
    loss = torch.stack([(near[tap] - far[tap]).square().mean() for tap in near]).sum()
    (gradient,) = torch.autograd.grad(loss, pred)
    colour = (gradient - gradient.mean(1, keepdim=True))[..., 8:-8, 8:-8]
    power = torch.fft.fft2(colour).abs().square().sum(dim=(0, 1))
    assert max(power[16].max(), power[:, 16].max()) < 1e-3 * power.max()


def test_every_stage_has_its_floor(network: CompactNetwork) -> None:
    flat = network(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(flat["stage1"][:, -3:].norm(dim=1), torch.full((1, 32, 32), FLOOR))
    for tap in ("stage2", "stage3", "stage4"):
        assert (flat[tap][:, -1] == FLOOR).all()


def test_blur_pooling_is_the_binomial_filter() -> None:
    impulse = torch.zeros(1, 2, 8, 8)
    impulse[0, 0, 3, 3] = 1.0
    pooled = BlurPool(2)(impulse)
    row = torch.tensor([0.0, 3.0, 1.0, 0.0]) / 8
    torch.testing.assert_close(pooled[0, 0], torch.outer(row, row))
    assert pooled[0, 1].abs().max() == 0


def test_the_stem_keeps_its_promise_for_any_weights() -> None:
    stem = Stem(11)
    with torch.no_grad():
        stem.fine.uniform_(-3, 3)
    pattern = patterns()[0]
    inner = (stem(pattern) - stem(torch.zeros_like(pattern)))[:, :-3, 2:-2, 2:-2]
    assert inner.abs().max() < 1e-4


def test_shapes_can_be_asked_for_without_values() -> None:
    network = CompactNetwork().to("meta")
    maps = network(torch.empty(1, 3, 33, 48, device="meta"))
    assert [tuple(features.shape[2:]) for features in maps.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_the_stem_keeps_its_digits_under_autocast() -> None:
    network = CompactNetwork(["stage1"])
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        features = network(images)["stage1"]
    assert torch.equal(features, network(images)["stage1"])
