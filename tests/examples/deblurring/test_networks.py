"""The deblurring networks: sizes and costs as published, what flows where, and what training asks of them."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from examples.deblurring.models.networks import create_network, list_networks
from tests.examples.deblurring.small_networks import KINDS, SMALL, images, seeded, small


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


MODULES = {
    "mimo-unet": {
        "context_half": 16_413,
        "context_quarter": 64_573,
        "stem": 896,
        "down_half": 18_496,
        "down_quarter": 73_856,
        "encoders.0": 147_968,
        "encoders.1": 590_848,
        "encoders.2": 2_361_344,
        "attention_half": 36_928,
        "attention_quarter": 147_584,
        "fuse_full": 16_448,
        "fuse_half": 51_328,
        "decoders.0": 2_361_344,
        "decoders.1": 590_848,
        "decoders.2": 147_968,
        "up_half": 131_136,
        "up_full": 32_800,
        "reduce_half": 8_256,
        "reduce_full": 2_080,
        "out_quarter": 3_459,
        "out_half": 1_731,
        "out_full": 867,
    },
    "hinet": {
        "down_path_1.0": 143_552,
        "down_path_1.1": 491_904,
        "down_path_1.2": 1_966_848,
        "down_path_1.3": 7_866_368,
        "down_path_1.4": 14_684_160,
        "down_path_2.0": 217_408,
        "down_path_2.1": 787_072,
        "down_path_2.2": 3_147_008,
        "down_path_2.3": 12_585_984,
        "down_path_2.4": 14_684_160,
        **{f"up_path_{stage}.0": 9_701_376 for stage in (1, 2)},
        **{f"up_path_{stage}.1": 2_425_856 for stage in (1, 2)},
        **{f"up_path_{stage}.2": 606_720 for stage in (1, 2)},
        **{f"up_path_{stage}.3": 151_808 for stage in (1, 2)},
        **{f"skip_conv_{stage}.0": 2_359_808 for stage in (1, 2)},
        **{f"skip_conv_{stage}.1": 590_080 for stage in (1, 2)},
        **{f"skip_conv_{stage}.2": 147_584 for stage in (1, 2)},
        **{f"skip_conv_{stage}.3": 36_928 for stage in (1, 2)},
        "sam12": 40_451,
        "cat12": 8_256,
        "last": 1_731,
        "conv_01": 1_792,
        "conv_02": 1_792,
    },
    # Without the PReLU, which is in all of them.
    "mprnet": {
        **{f"shallow_feat{stage}": 170_496 + 2_592 for stage in (1, 2, 3)},
        "stage1_encoder": 2_513_664,
        "stage2_encoder": 2_647_296,
        "stage1_decoder": 3_067_776,
        "stage2_decoder": 3_067_776,
        "stage3_orsnet": 7_901_184,
        **{f"stage3_orsnet.orb{group}": 2_572_288 for group in (1, 2, 3)},
        "sam12": 9_792,
        "sam23": 9_792,
        "concat12": 165_888,
        "concat23": 221_184,
        "tail": 3_456,
    },
    "nafnet-32": {
        "encoders.0": 8_224,
        "encoders.1": 30_784,
        "encoders.2": 118_912,
        "encoders.3": 13_081_600,
        "middle_blks": 1_851_904,
        "decoders.0": 467_200,
        "decoders.1": 118_912,
        "decoders.2": 30_784,
        "decoders.3": 8_224,
        "ups": 696_320,
        "downs": 697_280,
        "intro": 896,
        "ending": 867,
    },
}


@pytest.mark.parametrize("name", MODULES)
def test_every_part_has_the_parameters_of_the_study(name: str) -> None:
    network = on_meta(name)
    shared = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, nn.PReLU)
        for parameter in [*module.parameters()]
    }
    found = {
        part: sum(p.numel() for p in network.get_submodule(part).parameters() if id(p) not in shared)
        for part in MODULES[name]
    }
    assert found == MODULES[name]
    tops = {part: count for part, count in found.items() if part.count(".") == 0 or part.rsplit(".", 1)[0] not in found}
    assert sum(tops.values()) + len(shared) == parameters(network)


def test_hinet_of_half_width_and_with_norms_at_all_levels_counts_as_published() -> None:
    with torch.device("meta"):
        assert parameters(create_network("hinet", width=32)) == 22_176_070
        assert parameters(create_network("hinet", hin_levels=range(5))) == 88_669_702


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
def test_outputs_are_finite_lists_with_the_restored_image_last(name: str) -> None:
    outputs = small(name)(images())
    assert isinstance(outputs, list)
    assert outputs[-1].shape == (1, 3, 32, 48)
    assert all(output.isfinite().all() for output in outputs)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_the_outputs_reach_every_parameter(name: str) -> None:
    unreached = []
    # The few hidden units of an attention may all be dead by chance; not for each seed.
    for seed in (0, 3, 4):
        network = small(name, seed=seed)
        sum(output.square().sum() for output in network(images())).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        unreached.append({n for n, p in network.named_parameters() if not p.grad.any()})
    assert set.intersection(*unreached) == set()


@pytest.mark.parametrize("name", ["mimo-unet", "hinet", "mprnet"])
def test_each_output_alone_has_a_gradient_in_the_first_layers(name: str) -> None:
    first = {"mimo-unet": "stem.weight", "hinet": "conv_01.weight", "mprnet": "shallow_feat1.0.weight"}[name]
    network = small(name)
    for output in network(images()):
        (gradient,) = torch.autograd.grad(output.sum(), network.get_parameter(first), retain_graph=True)
        assert gradient.any()


@pytest.mark.parametrize("name", KINDS)
def test_half_precision_stays_near_single_precision(name: str) -> None:
    network, batch = small(name), images()
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = network(batch)
    for output, expected in zip(half, network(batch), strict=True):
        assert output.isfinite().all()
        assert (output.float() - expected).norm() < 0.05 * expected.norm()


def test_layer_norm_computes_in_single_precision_under_autocast() -> None:
    norm = small("nafnet-32").encoders[0][0].norm1
    features = torch.randn(1, 4, 3, 3, generator=seeded()).bfloat16() + 100
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, norm(features.float()))


@pytest.mark.parametrize("name", KINDS)
def test_weights_follow_from_the_seed_and_the_global_random_state_does_not_notice(name: str) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (create_network(name, seed=seed, **SMALL[name]) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_a_state_dict_goes_into_another_network_strictly(name: str) -> None:
    source, target = small(name, seed=1), small(name, seed=2)
    target.load_state_dict(source.state_dict(), strict=True)
    with torch.no_grad():
        found, expected = target.eval()(images())[-1], source.eval()(images())[-1]
    assert torch.equal(found, expected)


# ---- sizes and arguments ----


@pytest.mark.parametrize("name", KINDS)
def test_an_odd_multiple_of_what_a_network_asks_for_is_enough(name: str) -> None:
    network = small(name)
    step = network.multiple
    batch = images(3 * step, 5 * step) if step > 1 else images(19, 33)
    assert network(batch)[-1].shape == batch.shape


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


def test_a_name_stands_for_options_and_any_of_them_can_be_changed() -> None:
    assert len(create_network("mimo-unet-plus", width=2).encoders[0]) == 20
    assert len(create_network("mimo-unet-plus", width=2, blocks=3).encoders[0]) == 3
    network = create_network("nafnet-32", width=2, encoder_blocks=[1, 2], middle_blocks=3, decoder_blocks=[1, 1])
    assert [len(level) for level in network.encoders] == [1, 2] and len(network.middle_blks) == 3
    assert network(images(5, 6))[0].shape == (1, 3, 5, 6)


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
