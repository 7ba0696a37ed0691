"""Sensor noise: its variance in linear light, saturation, determinism and errors."""

import pytest
import torch

from tafm_loss.blur.light import add_sensor_noise, from_linear, to_linear
from tests.seeds import seeded


@pytest.mark.parametrize("transfer", ["srgb", 2.2, None])
@pytest.mark.parametrize(("shot", "read"), [(8.9e-5, 2.9e-5), (0.0, 1e-2), (1e-3, 5e-3)])
def test_the_variance_of_linear_light_is_that_of_the_formula(
    transfer: str | float | None, shot: float, read: float
) -> None:
    light = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    images = from_linear(light, transfer).view(1, 3, 1, 1).expand(1, 3, 200, 200)
    noisy = to_linear(add_sensor_noise(images, shot=shot, read=read, transfer=transfer, generator=seeded()), transfer)
    # Of 40000 samples, the variance scatters by 0.7 %.
    torch.testing.assert_close(noisy.var(dim=(0, 2, 3)), shot * light + read**2, rtol=0.04, atol=0)
    torch.testing.assert_close(noisy.mean(dim=(0, 2, 3)), light, rtol=0, atol=4 * (shot + read**2) ** 0.5 / 200)


def test_noise_of_different_pixels_and_channels_is_independent() -> None:
    noise = add_sensor_noise(torch.full((2, 3, 64, 64), 0.5), read=0.02, generator=seeded()) - 0.5
    rows = noise.reshape(6, -1)
    assert (torch.corrcoef(rows) - torch.eye(6)).abs().max() < 0.07
    assert abs(float(torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1])) < 0.03


def test_saturated_values_stay_even_with_the_rounding_error_of_a_convolution() -> None:
    images = torch.full((1, 3, 16, 16), 0.9)
    images[..., :8] = 1.0
    images[..., :4] -= 1e-6
    noisy = add_sensor_noise(images, shot=1e-2, read=1e-2, generator=seeded())
    assert torch.equal(noisy[..., :8], images[..., :8])
    assert (noisy[..., 8:] != images[..., 8:]).any()
    assert noisy.min() >= 0 and noisy.max() <= 1


def test_no_noise_is_the_identity() -> None:
    images = torch.rand(2, 3, 32, 32, generator=seeded())
    for transfer in ("srgb", None):
        same = add_sensor_noise(images, shot=0, read=0, transfer=transfer)
        torch.testing.assert_close(same, images, atol=1e-6, rtol=0)


def test_noise_follows_the_global_seed_or_leaves_it_alone_with_a_generator() -> None:
    images = torch.full((1, 3, 16, 16), 0.5)
    noisy = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        noisy.append(add_sensor_noise(images))
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])
    assert not torch.equal(add_sensor_noise(images), noisy[2])
    state = torch.get_rng_state()
    assert torch.equal(add_sensor_noise(images, generator=seeded(3)), noisy[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, torch.full((1, 3, 16, 16), 0.5))
    assert add_sensor_noise(images[:0]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_images_is_kept(dtype: torch.dtype) -> None:
    images = torch.rand(1, 3, 16, 16, generator=seeded()).to(dtype)
    noisy = add_sensor_noise(images, read=0.05, generator=seeded())
    assert noisy.dtype == dtype and noisy.isfinite().all() and not torch.equal(noisy, images)


def test_gradients_are_finite_at_black_and_white() -> None:
    images = torch.zeros(1, 1, 4, 4).index_fill(3, torch.arange(2), 1.0).requires_grad_()
    add_sensor_noise(images, read=0, generator=seeded()).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_what_makes_no_sense_is_refused() -> None:
    images = torch.zeros(1, 3, 8, 8)
    for noise in ({"shot": -1.0}, {"read": float("nan")}, {"shot": float("inf")}):
        with pytest.raises(ValueError, match="shot and read noise must be finite and not negative"):
            add_sensor_noise(images, **noise)
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        add_sensor_noise(images + 255)
    with pytest.raises(TypeError, match="255"):
        add_sensor_noise(images.byte())
    with pytest.raises(TypeError, match="generator must be"):
        add_sensor_noise(images, generator=3)  # type: ignore[arg-type]
