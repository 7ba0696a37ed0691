"""Generated scenes: range, determinism, and the statistics that make them stand in for photographs."""

import pytest
import torch
import torch.nn.functional as F

from tafm_loss.scenes import generate_scenes


def test_scenes_are_images_and_depend_on_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first = generate_scenes(2, (40, 56), generator=torch.Generator().manual_seed(1))
    again = generate_scenes(2, (40, 56), generator=torch.Generator().manual_seed(1))
    assert first.shape == (2, 3, 40, 56) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(generate_scenes(2, (40, 56)), first)


def test_a_seed_paints_the_same_scenes_in_every_version() -> None:
    # The bundled backbone was trained on them.
    scenes = generate_scenes(4, (32, 40), generator=torch.Generator().manual_seed(4))
    cells = F.adaptive_avg_pool2d(scenes.mean(1, keepdim=True), (2, 3)).flatten(1)
    expected = [
        [494, 353, 502, 479, 351, 320],
        [416, 432, 357, 496, 429, 72],
        [164, 145, 176, 167, 168, 179],
        [579, 495, 459, 456, 469, 368],
    ]
    torch.testing.assert_close(cells, torch.tensor(expected) / 1000, rtol=0, atol=1e-3)
    steps = scenes.diff(dim=-1).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(steps, torch.tensor([556, 490, 223, 549]) / 1e4, rtol=0, atol=1e-4)
    chroma = (scenes - scenes.mean(1, keepdim=True)).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(chroma, torch.tensor([499, 396, 755, 670]) / 1e4, rtol=0, atol=1e-4)


def test_gradients_are_sparse_and_the_spectrum_falls() -> None:
    scenes = generate_scenes(12, 128, generator=torch.Generator().manual_seed(2))
    step = scenes.diff(dim=-1).flatten()
    kurtosis = ((step - step.mean()) ** 4).mean() / step.var() ** 2
    assert kurtosis > 10, "photographs have heavy-tailed gradients; a Gaussian has 3"
    grey = scenes.mean(1)
    window = torch.hann_window(128)
    power = (
        torch.fft.fft2((grey - grey.mean(dim=(1, 2), keepdim=True)) * window * window[:, None]).abs().square().mean(0)
    )
    frequency = torch.fft.fftfreq(128)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    low, high = ((radius > a) & (radius < b) for a, b in ((0.03, 0.05), (0.3, 0.5)))
    slope = (power[high].mean() / power[low].mean()).log() / torch.tensor(0.4 / 0.04).log()
    assert -3.5 < slope < -1.5, "photographs fall about as f^-2"


def test_sizes_that_hold_no_scene_are_refused() -> None:
    assert generate_scenes(0, 16).shape == (0, 3, 16, 16)
    for n, size in ((-1, 32), (1, 4), (1, (32, 7))):
        with pytest.raises(ValueError, match="at least 8 px"):
            generate_scenes(n, size)  # type: ignore[arg-type]
