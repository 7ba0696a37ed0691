"""Blurred images: alignment, light, borders, determinism and errors."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from tafm_loss.blur import BlurSynthesizer
from tafm_loss.blur.convolve import convolution, fast_length
from tafm_loss.blur.transfer import from_linear, to_linear


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("size", [(31, 47), (40, 40), (37, 64)])
@pytest.mark.parametrize("kernel", [3, 15, 33])
def test_fft_convolution_equals_a_direct_one(size: tuple[int, int], kernel: int) -> None:
    images = rand(2, 3, *size, dtype=torch.float64)
    kernels = rand(2, 2, kernel, kernel, seed=1, dtype=torch.float64)
    half = kernel // 2
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    for level in range(2):
        for index in range(2):
            weight = kernels[level, index].flip(0, 1)[None, None]
            direct = F.conv2d(padded[index][:, None], weight)[:, 0]
            torch.testing.assert_close(
                convolution(kernels, padded.shape[2:])(padded)[level, index], direct, rtol=1e-10, atol=1e-10
            )


def test_fast_lengths_have_small_prime_factors_only() -> None:
    assert [fast_length(n) for n in (1, 11, 13, 121, 544)] == [1, 12, 14, 125, 560]
    for n in range(1, 300):
        length = rest = fast_length(n)
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1 and n <= length < 1.2 * n + 3


def test_a_point_of_light_becomes_its_kernel_where_it_was() -> None:
    image = torch.zeros(1, 1, 81, 81, dtype=torch.float64)
    image[..., 40, 40] = 1.0
    synthesizer = BlurSynthesizer((0.0, 6.0, 14.0), transfer=None)
    kernels = synthesizer.sample(1, generator=torch.Generator().manual_seed(1))
    levels = synthesizer(image, kernels=kernels)
    half = kernels.kernels.shape[-1] // 2
    crop = levels[:, 0, 0, 40 - half : 41 + half, 40 - half : 41 + half]
    torch.testing.assert_close(crop, kernels.kernels[:, 0].double(), atol=1e-7, rtol=0)


def test_the_level_of_extent_zero_is_the_image_itself() -> None:
    images = rand(2, 3, 50, 60)
    assert torch.equal(BlurSynthesizer((0.0, 5.0))(images)[0], images)


def test_light_adds_up_in_linear_light() -> None:
    image = torch.full((1, 3, 61, 61), 0.1)
    image[..., 30, 30] = 1.0
    linear, encoded = BlurSynthesizer((8.0,)), BlurSynthesizer((8.0,), transfer=None)
    kernels = linear.sample(1, generator=torch.Generator().manual_seed(2))
    blurred = linear(image, kernels=kernels)[0]
    margin = kernels.kernels.shape[-1] // 2
    light = F.pad(to_linear(image, "srgb"), (margin,) * 4, mode="reflect")
    expected = F.conv2d(light, kernels.kernels[0].flip(-2, -1).expand(3, 1, -1, -1), groups=3)
    torch.testing.assert_close(to_linear(blurred, "srgb"), expected.clamp(0, 1), atol=1e-6, rtol=1e-5)
    assert blurred.max() < 1 and blurred[0, 0, 25:36, 25:36].max() > encoded(image, kernels=kernels)[0, 0, 0].max()


@pytest.mark.parametrize("transfer", ["srgb", 2.2, 1.0, None])
def test_transfers_invert_each_other_with_finite_gradients(transfer: str | float | None) -> None:
    values = torch.linspace(0, 1, 1001, dtype=torch.float64, requires_grad=True)
    back = from_linear(to_linear(values, transfer), transfer)
    (gradient,) = torch.autograd.grad(back.sum(), values)
    torch.testing.assert_close(back.detach(), values.detach(), atol=2e-6, rtol=0)
    assert gradient.isfinite().all()


def test_srgb_transfer_agrees_with_the_standard() -> None:
    values = torch.tensor([0.0, 0.02, 0.04045, 0.2, 0.5, 1.0], dtype=torch.float64)
    expected = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values.tolist()]
    torch.testing.assert_close(to_linear(values, "srgb"), torch.tensor(expected, dtype=torch.float64))


def test_flat_images_stay_flat() -> None:
    images = torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1).expand(3, 3, 70, 50)
    for level in BlurSynthesizer((3.0, 20.0), kind={"shake": 1, "defocus": 1})(images):
        torch.testing.assert_close(level, images, atol=2e-5, rtol=0)


def test_stronger_levels_are_farther_from_the_image() -> None:
    images = F.interpolate(rand(8, 3, 24, 24), size=(96, 96), mode="nearest")
    levels = BlurSynthesizer((0.0, 2.0, 5.0, 10.0, 25.0))(images, generator=torch.Generator().manual_seed(3))
    error = (levels - images).square().mean(dim=(2, 3, 4))
    assert (error[1:] > error[:-1]).all()


def test_each_image_is_blurred_by_its_own_kernel() -> None:
    images = rand(3, 3, 48, 56)
    synthesizer = BlurSynthesizer((0.0, 4.0, 8.0))
    drawn = synthesizer.sample(3, generator=torch.Generator().manual_seed(4))
    together = synthesizer(images, kernels=drawn)
    alone = synthesizer(
        images[1:2], kernels=drawn._replace(kernels=drawn.kernels[:, 1:2], extents=drawn.extents[:, 1:2])
    )
    torch.testing.assert_close(together[:, 1:2], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_images_is_kept(dtype: torch.dtype) -> None:
    images = rand(1, 3, 40, 40).to(dtype).to(memory_format=torch.channels_last)
    before = images.clone()
    levels = BlurSynthesizer((0.0, 6.0))(images)
    assert levels.dtype == dtype and levels.isfinite().all() and torch.equal(images, before)


def test_gradients_reach_the_image_and_are_right() -> None:
    synthesizer = BlurSynthesizer((2.0,))
    drawn = synthesizer.sample(1, generator=torch.Generator().manual_seed(5))
    images = 0.1 + 0.8 * rand(1, 1, 9, 9, dtype=torch.float64)
    drawn = drawn._replace(kernels=drawn.kernels.double())
    assert torch.autograd.gradcheck(lambda x: synthesizer(x, kernels=drawn), images.requires_grad_())
    extreme = torch.zeros(1, 3, 20, 20).index_fill(3, torch.arange(10), 1.0).requires_grad_()
    synthesizer(extreme, kernels=drawn)[0].sum().backward()
    assert extreme.grad is not None and extreme.grad.isfinite().all()


def test_it_has_no_state_copies_and_pickles() -> None:
    synthesizer = BlurSynthesizer((0.0, 3.0), kind={"shake": 1, "linear": 1})
    images = rand(2, 3, 32, 32)
    expected = synthesizer(images, generator=torch.Generator().manual_seed(6))
    assert not synthesizer.state_dict()
    for twin in (copy.deepcopy(synthesizer), pickle.loads(pickle.dumps(synthesizer))):
        assert torch.equal(twin(images, generator=torch.Generator().manual_seed(6)), expected)


def test_an_empty_batch_has_empty_levels() -> None:
    assert BlurSynthesizer((0.0, 3.0))(torch.empty(0, 3, 32, 32)).shape == (2, 0, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extents": ()}, "extents must"),
        ({"extents": (0.0,)}, "extents must"),
        ({"extents": (5.0, 5.0)}, "extents must"),
        ({"extents": (-1.0, 5.0)}, "extents must"),
        ({"extents": (1.0, float("nan"))}, "extents must"),
        ({"kind": "zoom"}, "unknown kind of blur 'zoom'; choose from shake"),
        ({"kind": {"shake": -1.0, "linear": 2.0}}, "probabilities"),
        ({"kind": {"shake": 0.0}}, "probabilities"),
        ({"transfer": "rec709"}, "transfer must"),
        ({"transfer": 0.0}, "transfer must"),
        ({"jitter": -1.0}, "jitter must"),
        ({"impulse": 2.0}, "impulse must"),
        ({"extent_jitter": 1.0}, "extent_jitter must"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlurSynthesizer(**arguments)  # type: ignore[arg-type]


def test_images_that_cannot_be_blurred_are_refused() -> None:
    synthesizer = BlurSynthesizer((0.0, 25.0))
    with pytest.raises(TypeError, match="255"):
        synthesizer(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        synthesizer(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match=r"25\.0 px needs a 45 px kernel"):
        synthesizer(torch.zeros(1, 3, 22, 64))
    assert synthesizer(torch.zeros(1, 3, 23, 64)).shape == (2, 1, 3, 23, 64)
    with pytest.raises(ValueError, match="kernels are for 2 images, got 1"):
        synthesizer(torch.zeros(1, 3, 64, 64), kernels=synthesizer.sample(2))
    with pytest.raises(TypeError, match=r"kernels must come from sample\(\), got Tensor"):
        synthesizer(torch.zeros(1, 3, 64, 64), kernels=torch.ones(1, 1, 3, 3))  # type: ignore[arg-type]
    for value in (255.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
            synthesizer(torch.full((1, 3, 64, 64), value))
    assert BlurSynthesizer((5.0,), transfer=None)(torch.full((1, 3, 64, 64), 255.0)).max() > 254
    with pytest.raises(TypeError, match="generator must be"):
        synthesizer.sample(1, generator=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must not be negative"):
        synthesizer.sample(-1)
