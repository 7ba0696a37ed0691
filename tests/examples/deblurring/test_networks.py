"""The deblurring networks: sizes and costs as published, what flows where, and what training asks of them."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from examples.deblurring.models.networks import create_network, list_networks
from tests.examples.deblurring.small_networks import KINDS, SMALL, images, small


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_network(name)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- against the study ----


@pytest.mark.parametrize(
    ("name", "count", "gmac", "entries"),
    [
        ("mimo-unet", 6_807_171, 63.7, 244),
        ("mimo-unet-plus", 16_107_651, 150.7, 244 + 12 * 6 * 4),
        ("hinet", 88_668_806, 157.6, 186),
        ("mprnet", 20_127_073, 759.4, 316),
        ("nafnet-32", 17_111_907, 15.96, 664),
        ("nafnet-64", 67_888_835, 63.05, 664),
    ],
)
def test_parameters_cost_and_state_are_those_published(name: str, count: int, gmac: float, entries: int) -> None:
    network = on_meta(name)
    assert parameters(network) == count
    assert len(network.state_dict()) == entries
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=0.002)


def test_one_prelu_serves_all_55_blocks_of_mprnet() -> None:
    network = on_meta("mprnet")
    names = [name for name in network.state_dict() if name.endswith(".body.1.weight")]
    assert len(names) == 55
    assert len({id(network.get_parameter(name)) for name in names}) == 1
    assert names[0] == "shallow_feat1.1.body.1.weight"


# ---- what training asks of all of them ----


def test_every_network_is_tested_here() -> None:
    assert list_networks() == list(SMALL)


@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_finite_lists_whose_gradients_reach_every_parameter(name: str) -> None:
    unreached = []
    # The few hidden units of an attention may all be dead by chance; not for each seed.
    for seed in (0, 3, 4):
        network = small(name, seed=seed)
        outputs = network(images())
        assert isinstance(outputs, list) and outputs[-1].shape == (1, 3, 32, 48)
        assert all(output.isfinite().all() for output in outputs)
        sum(output.square().sum() for output in outputs).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        unreached.append({n for n, p in network.named_parameters() if not p.grad.any()})
    assert set.intersection(*unreached) == set()


@pytest.mark.parametrize("name", KINDS)
def test_weights_follow_from_the_seed_and_the_global_random_state_does_not_notice(name: str) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (create_network(name, seed=seed, **SMALL[name]) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


# ---- sizes and arguments ----


@pytest.mark.parametrize("name", ["mimo-unet", "hinet", "mprnet"])
def test_sizes_that_do_not_fit_are_refused_in_words(name: str) -> None:
    network = small(name)
    with pytest.raises(ValueError, match=rf"multiples of {network.multiple} px, got 32 x 50; pad"):
        network(images(32, 50))


@pytest.mark.parametrize("name", ["mimo-unet", "hinet", "mprnet", "nafnet-32"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 0, 32)])
def test_what_is_no_batch_of_rgb_images_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        small(name)(torch.zeros(shape))


@pytest.mark.parametrize("name", ["nafnet-32", "residual-unet", "bdirnet"])
@pytest.mark.parametrize("size", [(16, 16), (21, 37)])
def test_networks_that_pad_take_any_size(name: str, size: tuple[int, int]) -> None:
    network = small(name)
    assert network.multiple == 1
    assert network(images(*size))[0].shape[-2:] == size


def test_an_unknown_name_is_answered_with_those_that_are_near_or_with_all() -> None:
    with pytest.raises(ValueError, match="no network is called 'NAFNet'; did you mean nafnet-"):
        create_network("NAFNet")
    with pytest.raises(ValueError, match="there are mimo-unet, mimo-unet-plus, hinet, mprnet, nafnet-32"):
        create_network("restormer")


@pytest.mark.parametrize("name", SMALL)
def test_an_unknown_option_is_answered_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has no option depth; it has width"):
        create_network(name, depth=4)


BAD: list[tuple[str, dict, str]] = [
    ("mimo-unet", {"width": 3}, "even"),
    ("mimo-unet", {"blocks": 0}, "blocks must be an integer of 1 or more, got 0"),
    ("mimo-unet", {"blocks": 1, "width": 4, "dropout": 1.0}, "dropout"),
    ("mimo-unet", {"blocks": 1, "width": 4, "dropout": math.nan}, "dropout"),
    ("hinet", {"width": 5}, "even"),
    ("hinet", {"width": True}, "width must be an integer"),
    ("hinet", {"width": 4, "hin_levels": [5]}, "hin_levels be of 0 to 4"),
    ("mprnet", {"width": 32}, "a multiple of 24"),
    ("nafnet-32", {"encoder_blocks": [1, 1]}, "a number for each level"),
    ("nafnet-32", {"encoder_blocks": [], "decoder_blocks": []}, "a number for each level"),
    ("nafnet-32", {"encoder_blocks": [1, 1, 0, 1]}, "blocks must be"),
    ("nafnet-32", {"width": 32.0}, "width must be an integer"),
]


@pytest.mark.parametrize(("name", "options", "told"), BAD)
def test_options_out_of_range_are_refused(name: str, options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        create_network(name, **options)
