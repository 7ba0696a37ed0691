"""Blurred images: alignment, light, borders, determinism and errors."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import fftconvolve
from torch.utils.data import DataLoader, Dataset

from tafm_loss.blur import BlurSynthesizer
from tafm_loss.blur import convolution as room
from tafm_loss.blur.convolution import convolution, fast_length
from tafm_loss.blur.light import from_linear, highlight_gains, to_linear
from tests.seeds import seeded


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=dtype)


@pytest.mark.parametrize("size", [(67, 71), (80, 80), (73, 128)])
@pytest.mark.parametrize("kernel", [3, 5, 7, 9, 15, 33, 63])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_convolution_equals_a_direct_one(
    size: tuple[int, int], kernel: int, dtype: torch.dtype, tolerance: float
) -> None:
    images = rand(2, 3, *size, dtype=dtype)
    kernels = rand(2, 2, kernel, kernel, seed=1, dtype=dtype)
    kernels = kernels / kernels.sum(dim=(-2, -1), keepdim=True)
    found = convolution(kernels, size)(images)
    for level in range(2):
        for index in range(2):
            weight = kernels[level, index].flip(0, 1)[None, None].double()
            direct = F.conv2d(images[index][:, None].double(), weight)[:, 0]
            torch.testing.assert_close(found[level, index].double(), direct, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(700, 90), (260, 530), (385, 384)])
def test_blocks_of_a_large_image_leave_no_seams(size: tuple[int, int]) -> None:
    images = rand(1, 1, *size, dtype=torch.float64)
    kernels = rand(2, 1, 31, 31, seed=1, dtype=torch.float64)
    for level, blurred in enumerate(convolution(kernels, size)(images)):
        expected = fftconvolve(images[0, 0].numpy(), kernels[level, 0].numpy(), mode="valid")
        torch.testing.assert_close(blurred[0, 0], torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("border", ["reflect", "replicate"])
def test_borders_continue_the_image(border: str) -> None:
    images = rand(1, 3, 40, 44, dtype=torch.float64)
    blur = BlurSynthesizer((0.0, 6.0), border=border, transfer=None)
    drawn = blur.sample(1, generator=seeded(1))
    half = drawn.kernels.shape[-1] // 2
    padded = np.pad(
        images.numpy(), ((0, 0), (0, 0), (half, half), (half, half)), mode={"replicate": "edge"}.get(border, border)
    )
    expected = fftconvolve(padded, drawn.kernels[1, :, None].double().numpy(), mode="valid", axes=(2, 3))
    torch.testing.assert_close(blur(images, kernels=drawn)[1], torch.from_numpy(expected))


@pytest.mark.parametrize(("roll_deg", "other"), [(0.0, "reflect"), (3.0, "replicate")])
def test_valid_levels_are_the_interior_of_others(roll_deg: float, other: str) -> None:
    images = rand(2, 3, 60, 50)
    valid, reflect = (BlurSynthesizer((0.0, 3.0, 9.0), roll_deg=roll_deg, border=b) for b in ("valid", other))
    drawn = valid.sample(2, image_size=(60, 50), generator=seeded(1))
    size = drawn.kernels.shape[-1]
    half = size // 2
    levels = valid(images, kernels=drawn)
    assert levels.shape == (3, 2, 3, 60 - size + 1, 50 - size + 1)
    assert torch.equal(levels[0], images[..., half:-half, half:-half])
    torch.testing.assert_close(levels, reflect(images, kernels=drawn)[..., half:-half, half:-half])


def test_fast_lengths_have_small_prime_factors_only() -> None:
    assert [fast_length(n) for n in (1, 11, 13, 121, 289, 544)] == [1, 12, 14, 125, 294, 560]


def test_light_adds_up_in_linear_light() -> None:
    image = torch.full((1, 3, 61, 61), 0.1)
    image[..., 30, 30] = 1.0
    linear, encoded = BlurSynthesizer((8.0,)), BlurSynthesizer((8.0,), transfer=None)
    kernels = linear.sample(1, generator=seeded(2))
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
    if transfer == "srgb":
        standard = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        torch.testing.assert_close(to_linear(values, "srgb"), standard)


@pytest.mark.parametrize("roll_deg", [0.0, 2.0])
def test_the_first_level_is_the_image_and_stronger_ones_are_farther_from_it(roll_deg: float) -> None:
    images = F.interpolate(rand(8, 3, 24, 24), size=(96, 96), mode="nearest")
    blur = BlurSynthesizer((0.0, 2.0, 5.0, 10.0, 25.0), roll_deg=roll_deg)
    levels = blur(images, generator=seeded(3))
    assert torch.equal(levels[0], images)
    error = (levels - images).square().mean(dim=(2, 3, 4))
    assert (error[1:] > error[:-1]).all()


def test_each_image_is_blurred_by_its_own_kernel() -> None:
    images = rand(3, 3, 48, 56)
    blur = BlurSynthesizer((0.0, 4.0, 8.0))
    drawn = blur.sample(3, generator=seeded(4))
    together = blur(images, kernels=drawn)
    for order in ([1], [2, 0, 1]):
        alone = drawn._replace(kernels=drawn.kernels[:, order], extents=drawn.extents[:, order])
        torch.testing.assert_close(blur(images[order], kernels=alone), together[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("roll_deg", [0.0, 2.0])
@pytest.mark.parametrize("planes", [1, 2, 3, 7, 100])
def test_what_is_worked_on_at_a_time_changes_neither_levels_nor_gradients(
    planes: int, roll_deg: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = rand(5, 3, 48, 56).requires_grad_()
    blur = BlurSynthesizer((0.0, 3.0, 6.0), roll_deg=roll_deg)
    drawn = blur.sample(5, image_size=(48, 56), generator=seeded(4))
    weights = rand(3, 5, 3, 48, 56, seed=1)
    expected = blur(images, kernels=drawn)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), images)
    monkeypatch.setattr(room, "_planes_at_once", lambda *_: planes)
    found = blur(images, kernels=drawn)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(blur(images.detach(), kernels=drawn), expected.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), images)[0], gradient)


@pytest.mark.parametrize("roll_deg", [0.0, 3.0])
@pytest.mark.parametrize("border", ["reflect", "replicate", "valid"])
@pytest.mark.parametrize("kind", ["shake", "linear", "defocus", "gaussian"])
@pytest.mark.parametrize("transfer", [None, "srgb", 2.2])
def test_options_go_with_each_other(kind: str, border: str, transfer: str | float | None, roll_deg: float) -> None:
    blur = BlurSynthesizer((0.0, 4.0, 9.0), kind=kind, border=border, transfer=transfer, roll_deg=roll_deg)
    flat = torch.full((2, 3, 60, 52), 0.4)
    levels = blur(flat, generator=seeded())
    torch.testing.assert_close(levels, torch.full_like(levels, 0.4), rtol=0, atol=5e-6)
    assert (levels.shape[-2:] == (60, 52)) == (border != "valid")


def test_highlights_leave_streaks_that_only_add_light() -> None:
    image = torch.full((1, 3, 61, 61), 0.1)
    image[..., 28:32, 28:32] = 1.0
    plain, lamp = BlurSynthesizer((0.0, 20.0)), BlurSynthesizer((0.0, 20.0), highlight_gain=50.0)
    drawn = plain.sample(1, generator=seeded(2))
    without, streak = plain(image, kernels=drawn), lamp(image, kernels=drawn)
    assert torch.equal(streak[0], image) and (streak >= without - 1e-4).all()
    assert (streak[1] >= 1 - 1e-6).sum() > 3 * (without[1] > 0.5).sum() > 0
    assert streak.max() <= 1


def test_gains_rise_from_the_threshold_to_white() -> None:
    light = torch.tensor([0.0, 0.5, 0.8, 0.9, 1.0, 1.12])
    torch.testing.assert_close(highlight_gains(light, 5.0, 0.8), torch.tensor([1.0, 1.0, 1.0, 3.0, 5.0, 5.0]))


def test_bright_surfaces_of_one_colour_are_no_lamps() -> None:
    images = torch.tensor([1.0, 0.2, 0.3]).view(1, 3, 1, 1).expand(1, 3, 40, 40)
    plain, lamp = BlurSynthesizer((9.0,)), BlurSynthesizer((9.0,), highlight_gain=50.0)
    torch.testing.assert_close(lamp(images), plain(images))


def test_a_blur_of_a_thousandth_of_a_px_is_no_blur() -> None:
    images = rand(2, 3, 40, 40)
    for kind in ("shake", "linear", "defocus", "gaussian"):
        torch.testing.assert_close(BlurSynthesizer((1e-3,), kind=kind)(images)[0], images, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_images_is_kept(dtype: torch.dtype) -> None:
    images = rand(1, 3, 40, 40).to(dtype).to(memory_format=torch.channels_last)
    before = images.clone()
    levels = BlurSynthesizer((0.0, 6.0))(images)
    assert levels.dtype == dtype and levels.isfinite().all() and torch.equal(images, before)


@pytest.mark.parametrize("layout", ["channels last", "strided", "expanded"])
def test_any_layout_of_memory_will_do(layout: str) -> None:
    images = rand(2, 3, 40, 80)
    images = {
        "channels last": images.to(memory_format=torch.channels_last),
        "strided": images[..., ::2],
        "expanded": images[:, :1].expand(-1, 3, -1, -1),
    }[layout]
    blur = BlurSynthesizer((0.0, 3.0, 6.0))
    drawn = blur.sample(2, generator=seeded(1))
    assert torch.equal(blur(images, kernels=drawn), blur(images.contiguous(), kernels=drawn))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_is_blurred_alike(channels: int) -> None:
    images = rand(1, 1, 40, 40).expand(1, channels, 40, 40)
    levels = BlurSynthesizer((0.0, 6.0))(images)
    assert levels.shape == (2, 1, channels, 40, 40) and torch.equal(levels, levels[:, :, :1].expand_as(levels))


@pytest.mark.parametrize("roll_deg", [0.0, 3.0])
@pytest.mark.parametrize("extents", [(0.0, 2.0), (0.0, 6.0)])
def test_modes_of_torch_change_neither_kernels_nor_blur(extents: tuple[float, ...], roll_deg: float) -> None:
    images = rand(1, 3, 40, 40)
    blur = BlurSynthesizer(extents, roll_deg=roll_deg)
    expected = blur(images, generator=seeded(1))
    with torch.inference_mode():
        assert torch.equal(blur(images, generator=seeded(1)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(blur(images, generator=seeded(1)), expected)


@pytest.mark.parametrize("extent", [2.0, 6.0])
def test_it_can_be_compiled(extent: float) -> None:
    images = rand(2, 3, 40, 40)
    blur = BlurSynthesizer((0.0, extent))
    drawn = blur.sample(2, generator=seeded(1))
    compiled = torch.compile(blur, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, kernels=drawn), blur(images, kernels=drawn))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("roll_deg", [0.0, 2.0])
def test_a_gpu_gives_what_the_cpu_gives(roll_deg: float) -> None:
    images = rand(3, 3, 64, 72)
    blur = BlurSynthesizer((0.0, 2.0, 8.0), roll_deg=roll_deg)
    expected = blur(images, generator=seeded(1))
    found = blur(images.cuda(), generator=seeded(1))
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("transfer", "extent", "roll_deg"),
    [(None, 4.0, 0.0), ("srgb", 2.0, 0.0), ("srgb", 4.0, 0.0), (2.2, 4.0, 0.0), ("srgb", 1.5, 5.0)],
)
def test_gradients_reach_the_image_and_are_right(transfer: str | float | None, extent: float, roll_deg: float) -> None:
    blur = BlurSynthesizer((extent,), transfer=transfer, roll_deg=roll_deg)
    drawn = blur.sample(1, image_size=(9, 8), generator=seeded(5))
    drawn = drawn._replace(kernels=drawn.kernels.double())
    images = 0.1 + 0.8 * rand(1, 2, 9, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: blur(x, kernels=drawn), images.requires_grad_())


@pytest.mark.parametrize("transfer", [None, "srgb", 2.2])
def test_gradients_are_finite_at_black_and_white(transfer: str | float | None) -> None:
    images = torch.zeros(1, 3, 20, 20).index_fill(3, torch.arange(10), 1.0).requires_grad_()
    gain = 1.0 if transfer is None else 10.0
    BlurSynthesizer((0.0, 4.0), transfer=transfer, highlight_gain=gain)(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().sum() > 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_rounding_beyond_black_and_white_takes_no_gradient_away(value: float) -> None:
    images = torch.full((1, 1, 64, 64), value, requires_grad=True)
    BlurSynthesizer((6.0,))(images).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad.mean(), torch.tensor(1.0), rtol=0, atol=1e-3)
    assert images.grad[..., 20:44, 20:44].std() < 1e-2


def test_it_has_no_state_copies_and_pickles() -> None:
    synthesizer = BlurSynthesizer((0.0, 3.0), kind={"shake": 1, "linear": 1})
    images = rand(2, 3, 32, 32)
    expected = synthesizer(images, generator=seeded(6))
    assert not synthesizer.state_dict()
    for twin in (copy.deepcopy(synthesizer), pickle.loads(pickle.dumps(synthesizer))):
        assert torch.equal(twin(images, generator=seeded(6)), expected)


class Blurred(Dataset[torch.Tensor]):
    """A data set that blurs in the workers of its loader, by a seed for each image or by those of the workers."""

    def __init__(self, *, seeded: bool) -> None:
        self.blur = BlurSynthesizer((0.0, 4.0), extent_jitter=0.5)
        self.seeded = seeded

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.seeded:
            return self.blur(rand(1, 3, 32, 32, seed=index), generator=seeded(index))[:, 0]
        return self.blur.sample(1).extents


def test_workers_of_a_data_loader_give_what_the_main_process_gives() -> None:
    alone, workers = (torch.cat(list(DataLoader(Blurred(seeded=True), batch_size=2, num_workers=n))) for n in (0, 2))
    assert torch.equal(alone, workers)


def test_without_a_generator_each_worker_of_a_data_loader_draws_by_its_own_seed() -> None:
    epochs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        epochs.append(torch.cat(list(DataLoader(Blurred(seeded=False), batch_size=1, num_workers=2)))[:, 1, 0])
    assert torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0], epochs[2])
    # Two workers take turns: what one drew first and second, and the other.
    assert len(epochs[0].unique()) == 4


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("extents", [(0.0, 3.0), (3.0,), (0.0, 8.0)])
def test_an_empty_batch_has_empty_levels(extents: tuple[float, ...], gradient: bool) -> None:
    images = torch.empty(0, 3, 32, 32, requires_grad=gradient)
    assert BlurSynthesizer(extents)(images).shape == (len(extents), 0, 3, 32, 32)


def test_its_repr_names_what_decides_the_blur() -> None:
    text = repr(BlurSynthesizer((0.0, 3.0), kind={"linear": 1.0, "shake": 3.0}, transfer=2.2, border="valid"))
    for part in ("(0.0, 3.0)", "'linear': 0.25", "transfer=2.2", "border='valid'", "highlight_gain=1.0", "jitter=2.0"):
        assert part in text


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
        ({"roll_deg": -1.0}, "roll_deg must be"),
        ({"roll_deg": 1.0, "grid": 2}, "grid must be None, or an integer of 3 or more"),
        ({"impulse": 2.0}, "impulse must"),
        ({"extent_jitter": 1.0}, "extent_jitter must"),
        ({"extents": (1e-4,)}, "extents must .* 0.001 to 1000 px"),
        ({"extents": (5.0, 1000.1)}, "extents must .* 0.001 to 1000 px"),
        ({"extents": (10.0, 10.0000001)}, "extents must"),
        ({"transfer": 50.0}, "transfer must"),
        ({"transfer": True}, "transfer must"),
        ({"jitter": float("inf")}, "jitter must"),
        ({"highlight_gain": float("inf")}, "highlight_gain must"),
        ({"border": "wrap"}, "border must be one of reflect, replicate, valid"),
        ({"highlight_gain": 0.5}, "highlight_gain must"),
        ({"highlight_gain": 2.0, "transfer": None}, "highlight_gain needs light that saturates"),
        ({"highlight_threshold": 1.0}, "highlight_threshold must"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlurSynthesizer(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extents": 5.0}, "extents must be a sequence of lengths"),
        ({"extents": "12"}, "extents must be a sequence of lengths"),
        ({"kind": None}, "kind must be one of shake"),
        ({"kind": ["shake"]}, "kind must be one of shake"),
    ],
)
def test_options_of_the_wrong_type_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
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
    for number in (-1, 1.5):
        with pytest.raises(ValueError, match="n must be a number of scenes"):
            synthesizer.sample(number)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one channel"):
        synthesizer(torch.zeros(1, 0, 64, 64))


def test_kernels_that_cannot_be_of_this_synthesizer_are_refused() -> None:
    blur, images = BlurSynthesizer((0.0, 5.0, 10.0)), torch.zeros(2, 3, 64, 64)
    drawn = blur.sample(2)
    with pytest.raises(ValueError, match=r"drawn for other extents .* first level is not sharp"):
        blur(images, kernels=BlurSynthesizer((5.0, 10.0, 12.0)).sample(2))
    with pytest.raises(ValueError, match="each kernel must sum to 1"):
        blur(images, kernels=drawn._replace(kernels=1.01 * drawn.kernels))
    for shape in ((3, 2, 12, 12), (3, 2, 11, 13), (2, 2, 11, 11), (3, 2, 3, 4, 11, 11), (3, 2, 1, 1, 11, 11)):
        with pytest.raises(ValueError, match="kernels must be"):
            blur(images, kernels=drawn._replace(kernels=torch.ones(shape)))
