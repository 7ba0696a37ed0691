"""What flows where in the deblurring networks: each join against the tables of the study."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.deblurring.models.networks import create_network
from tests.examples.deblurring.small_networks import images, small


def seen(network: nn.Module, batch: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """What went into and came out of each module by its name, and the outputs."""
    into, out = {}, {}
    for name, module in network.named_modules():

        def record(_: nn.Module, inputs: tuple, output: object, name: str = name) -> None:
            into[name], out[name] = inputs[0], output

        module.register_forward_hook(record)
    return into, out, network.eval()(batch)


def cut(x: Tensor, *widths: int) -> list[Tensor]:
    return list(x.split(list(widths), 1))


def larger(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def test_mimo_unet_is_wired_as_its_table_says() -> None:
    batch = images()
    into, out, outputs = seen(small("mimo-unet"), batch)
    halves, quarters = batch[..., ::2, ::2], batch[..., ::4, ::4]
    assert torch.equal(into["context_half.convs.0"], halves) and torch.equal(into["context_quarter.convs.0"], quarters)
    assert torch.equal(into["context_half.merge"][:, :3], halves)
    down = out["down_half"].relu()
    assert torch.equal(into["attention_half.merge"], down * out["context_half"])
    assert torch.equal(into["encoders.1"], down + out["attention_half.merge"])
    full, half, quarter = (out[f"encoders.{level}"] for level in range(3))
    for expected, found in zip(
        [full, larger(half, 2), larger(quarter, 4)], cut(into["fuse_full.convs.0"], 4, 8, 16), strict=True
    ):
        assert torch.equal(found, expected)
    for expected, found in zip(
        [full[..., ::2, ::2], half, larger(quarter, 2)], cut(into["fuse_half.convs.0"], 4, 8, 16), strict=True
    ):
        assert torch.equal(found, expected)
    assert torch.equal(into["decoders.0"], quarter)
    assert torch.equal(into["reduce_half"], torch.cat([out["up_half"].relu(), out["fuse_half"]], 1))
    assert torch.equal(into["reduce_full"], torch.cat([out["up_full"].relu(), out["fuse_full"]], 1))
    assert torch.equal(into["up_half"], out["decoders.0"]) and torch.equal(into["up_full"], out["decoders.1"])
    assert torch.equal(outputs[0], out["out_quarter"] + quarters)
    assert torch.equal(outputs[1], out["out_half"] + halves)
    assert torch.equal(outputs[2], out["out_full"] + batch)
    block = into["encoders.0.0.first"]
    assert torch.equal(out["encoders.0.0"], block + out["encoders.0.0.second"])


def test_hinet_is_wired_as_its_table_says() -> None:
    batch = images()
    network = small("hinet")
    into, out, outputs = seen(network, batch)
    for level in range(4):
        encoded, decoded = out[f"down_path_1.{level}"], out[f"up_path_1.{3 - level}"]
        assert torch.equal(into[f"skip_conv_1.{3 - level}"], encoded)
        assert torch.equal(into[f"down_path_2.{level}.csff_enc"], encoded)
        assert torch.equal(into[f"down_path_2.{level}.csff_dec"], decoded)
        joined = torch.cat([out[f"up_path_2.{level}.up"], out[f"skip_conv_2.{level}"]], 1)
        assert torch.equal(into[f"up_path_2.{level}.conv_block"], joined)
    assert torch.equal(into["cat12"], torch.cat([out["conv_02"], out["sam12"][0]], 1))
    gate = torch.sigmoid(out["sam12.conv3"])
    assert torch.equal(out["sam12"][0], out["up_path_1.3"] + out["sam12.conv1"] * gate)
    assert torch.equal(outputs[0], out["sam12.conv2"] + batch) and torch.equal(into["sam12.conv3"], outputs[0])
    assert torch.equal(outputs[1], out["last"] + batch)

    before, half = out["down_path_1.3.conv_1"], out["down_path_1.3.conv_1"].shape[1] // 2
    norm = network.down_path_1[3].norm
    normalised = F.instance_norm(before[:, :half], weight=norm.weight, bias=norm.bias)
    expected = F.leaky_relu(torch.cat([normalised, before[:, half:]], 1), 0.2)
    torch.testing.assert_close(into["down_path_1.3.conv_2"], expected)
    block = F.leaky_relu(out["down_path_1.3.conv_2"], 0.2) + out["down_path_1.3.identity"]
    torch.testing.assert_close(out["down_path_1.3"], block)


def test_mprnet_is_wired_as_its_table_says() -> None:
    batch = images(n=2)
    network = small("mprnet")
    into, out, outputs = seen(network, batch)
    top, bottom = batch[:, :, :16], batch[:, :, 16:]
    quarters = torch.cat([top[..., :24], bottom[..., :24], top[..., 24:], bottom[..., 24:]])
    assert torch.equal(into["shallow_feat1"], quarters)
    encoded = out["stage1_encoder"][0]
    left, right = encoded[:4], encoded[4:]
    assert torch.equal(into["stage1_decoder"][0], torch.cat([left, right], 3))
    assert torch.equal(into["shallow_feat2"], torch.cat([top, bottom]))
    assert torch.equal(into["concat12"], torch.cat([out["shallow_feat2"], out["sam12"][0]], 1))
    assert torch.equal(into["concat23"], torch.cat([out["shallow_feat3"], out["sam23"][0]], 1))
    for level in range(3):
        assert torch.equal(into[f"stage2_encoder.csff_enc{level + 1}"], into["stage1_decoder"][level])
        assert torch.equal(into[f"stage2_encoder.csff_dec{level + 1}"], out["stage1_decoder"][level])
        assert out["stage1_decoder"][level].shape == (4, 24 + 12 * level, 16 >> level, 48 >> level)
        assert out["stage2_decoder"][level].shape == (2, 24 + 12 * level, 32 >> level, 48 >> level)
    assert torch.equal(into["sam12.conv1"], out["stage1_decoder"][0])
    assert torch.equal(into["sam23.conv1"], out["stage2_decoder"][0])
    assert torch.equal(into["stage3_orsnet.up_enc1"], into["stage2_decoder"][1])
    assert torch.equal(into["stage3_orsnet.up_dec2"], out["stage2_decoder"][2])
    joined = out["stage3_orsnet.orb1"] + out["stage3_orsnet.conv_enc1"] + out["stage3_orsnet.conv_dec1"]
    assert torch.equal(into["stage3_orsnet.orb2"], joined)
    assert torch.equal(into["stage3_orsnet.conv_enc3"], out["stage3_orsnet.up_enc2"])
    assert torch.equal(outputs[2], out["tail"] + batch)
    attended = out["stage3_orsnet.orb1.body.0.body"]
    weights = out["stage3_orsnet.orb1.body.0.CA.conv_du"]
    assert torch.equal(out["stage3_orsnet.orb1.body.0"], into["stage3_orsnet.orb1.body.0"] + attended * weights)


def test_a_block_of_nafnet_is_what_its_formula_says() -> None:
    block = small("nafnet-32").encoders[1][0]
    x = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))

    def normalised(x: Tensor, norm: nn.Module) -> Tensor:
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]

    gated = block.conv2(block.conv1(normalised(x, block.norm1)))
    gated = gated[:, :8] * gated[:, 8:]
    y = x + block.beta * block.conv3(gated * block.sca[1](gated.mean((2, 3), keepdim=True)))
    gated = block.conv4(normalised(y, block.norm2))
    expected = y + block.gamma * block.conv5(gated[:, :8] * gated[:, 8:])
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_nafnet_pads_with_zeros_to_multiples_of_16_and_crops() -> None:
    network, batch = small("nafnet-32"), images(17, 30)
    padded = network(F.pad(batch, (0, 2, 0, 15)))[0]
    assert torch.equal(network(batch)[0], padded[..., :17, :30])


def test_dropout_is_that_of_mimo_unet_plus_and_of_training_alone() -> None:
    batch = images()
    assert small("mimo-unet").dropout.p == 0
    network = small("mimo-unet-plus")
    assert network.dropout.p == 0.1 and isinstance(network.dropout, nn.Dropout2d)
    network.dropout.p = 0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [network(batch)[2] for _ in range(2)]
    assert not torch.equal(*drawn)
    network.eval()
    assert torch.equal(network(batch)[2], network(batch)[2])


def test_an_image_of_which_hinet_leaves_one_px_is_refused_in_words() -> None:
    network = small("hinet").eval()
    with pytest.raises(ValueError, match=r"16 x 16 px are too small for HINet, .* H or W must be 32 px or more"):
        network(images(16, 16))
    assert network(images(16, 32))[-1].shape[-2:] == (16, 32)
    shallow = create_network("hinet", width=4, hin_levels=(3,))
    assert shallow(images(16, 16))[-1].shape[-2:] == (16, 16)
