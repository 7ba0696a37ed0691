"""Restoring images: what the network sees, and that tiles, grids and turns are put back where they belong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from examples.deblurring.evaluation.inference import restore
from tests.examples.deblurring.small_networks import small


class Stub(nn.Module):
    """Return what a function makes of the images, after an output to be ignored; keep what was seen."""

    def __init__(self, function: Callable[[Tensor], Tensor] = lambda images: images, multiple: int = 1) -> None:
        super().__init__()
        self.function, self.multiple = function, multiple
        self.seen: list[Tensor] = []
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen.append(images)
        return [torch.zeros_like(images), self.function(images)]


class Strided(nn.Module):
    """Two halvings and doublings with a skip, as small as it goes; its receptive field is below 32 px a side."""

    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.down = nn.ModuleList(nn.Conv2d(8, 8, 3, stride=2, padding=1) for _ in range(2))
            self.up = nn.ModuleList(nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1) for _ in range(2))
            self.last = nn.Conv2d(8, 3, 3, padding=1)
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = skip = self.first(images).relu()
        for layer in [*self.down, *self.up]:
            x = layer(x).relu()
        return [images, images + self.last(x + skip)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_images_are_padded_by_reflection_to_the_multiple_and_cropped_back() -> None:
    images = draw(2, 3, 21, 30)
    network = Stub(multiple=16)
    assert torch.equal(restore(network, images), images)
    (seen,) = network.seen
    assert seen.shape == (2, 3, 32, 32)
    assert torch.equal(seen[:, :, 21:, :30], images[:, :, 9:20].flip(2))
    assert torch.equal(seen[:, :, :21, 30:], images[:, :, :, [28, 27]])


def test_a_side_too_short_to_reflect_is_padded_with_its_last_row_or_column() -> None:
    images = draw(1, 3, 8, 12)
    network = Stub(multiple=16)
    assert torch.equal(restore(network, images), images)
    (seen,) = network.seen
    assert torch.equal(seen[:, :, 8:, :12], images[:, :, 7:].expand(-1, -1, 8, -1))
    assert torch.equal(seen[:, :, :8, 12:], images[:, :, :, [10, 9, 8, 7]])


def test_the_last_output_is_taken_and_clamped_after_the_mean() -> None:
    # The flips give ramp * 4 - 1 and its mirror image: their mean is 1 everywhere, that of clamped ones is not.
    ramp = torch.linspace(0, 1, 9).expand(1, 3, 9, 9)
    network = Stub(lambda images: 4 * ramp - 1)
    torch.testing.assert_close(restore(network, ramp), (4 * ramp - 1).clamp(0, 1))
    torch.testing.assert_close(restore(network, ramp, ensemble=4), torch.ones(1, 3, 9, 9))


@pytest.mark.parametrize("ensemble", [4, 8])
def test_an_ensemble_sees_different_turns_and_commutes_with_every_one_of_them(ensemble: int) -> None:
    images = draw(1, 3, 12, 16)
    network = Stub(lambda x: x.cumsum(3) / 16)
    output = restore(network, images, ensemble=ensemble)
    assert len({tuple(seen.flatten().tolist()) for seen in network.seen}) == ensemble
    torch.testing.assert_close(restore(network, images.flip(2, 3), ensemble=ensemble), output.flip(2, 3))
    if ensemble == 8:
        torch.testing.assert_close(restore(network, images.mT, ensemble=8), output.mT)


@pytest.mark.parametrize("size", [(150, 201), (96, 96), (64, 161), (97, 40)])
def test_tiles_give_what_the_full_image_gives_where_the_receptive_field_fits(size: tuple[int, int]) -> None:
    images = draw(2, 3, *size)
    network = Strided()
    full = restore(network, images)
    assert (full - images).abs().mean() > 0.01
    torch.testing.assert_close(restore(network, images, tile=96, overlap=32), full, atol=1e-4, rtol=0)


def test_tiles_keep_to_the_grid_of_a_network_that_pads_itself() -> None:
    images = draw(1, 3, 330, 300)
    network = small("residual-unet").eval()
    full = restore(network, images)
    assert (full - images).abs().mean() > 0.01
    torch.testing.assert_close(restore(network, images, tile=256, overlap=104), full, atol=1e-4, rtol=0)


def test_the_grid_of_hinet_has_three_by_five_crops_of_a_gopro_image() -> None:
    places = torch.arange(720 * 1280, dtype=torch.float64).view(1, 1, 720, 1280).expand(-1, 3, -1, -1) / (720 * 1280)
    network = Stub(multiple=16)
    torch.testing.assert_close(restore(network, places, grid=256), places)
    assert {tuple(seen.shape[2:]) for seen in network.seen} == {(256, 256)}
    starts = [divmod(round(float(seen[0, 0, 0, 0]) * 720 * 1280), 1280) for seen in network.seen]
    assert starts == [(top, left) for top in (0, 232, 464) for left in (0, 256, 512, 768, 1024)]


def test_overlapping_crops_of_the_grid_are_averaged() -> None:
    network = Stub(lambda x: torch.full_like(x, 0.2 * len(network.seen)))
    # Two crops of 4 columns: 0 to 3 and 2 to 5; the first crop gives 0.2, the second 0.4.
    restored = restore(network, draw(1, 3, 3, 6), grid=4)
    expected = torch.tensor([0.2, 0.2, 0.3, 0.3, 0.4, 0.4]).expand(1, 3, 3, 6)
    torch.testing.assert_close(restored, expected)


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training mode; call network.eval\(\)"):
        restore(Strided().train(), draw(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 256, "grid": 256}, "tile or grid, not both"),
        ({"ensemble": 2}, "one of 1, 4, 8, got 2"),
        ({"tile": 100, "overlap": 8}, "multiple of 32 px"),
        ({"tile": 128, "overlap": 64}, r"at least 2 x overlap \+ 32"),
        ({"tile": 128, "overlap": -1}, "overlap=-1"),
        ({"grid": 0}, "at least 1 px"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restore(Stub(), draw(1, 3, 8, 8), **options)  # type: ignore[arg-type]


def test_a_network_that_does_not_keep_to_the_interface_is_refused() -> None:
    class Bare(nn.Identity):
        multiple = 1

    with pytest.raises(TypeError, match="Bare must return a list with the restored images last, got Tensor"):
        restore(Bare().eval(), draw(2, 3, 8, 8))
    with pytest.raises(TypeError, match="Identity must have a positive integer attribute `multiple`, got None"):
        restore(nn.Identity().eval(), draw(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"shape of its input \(1, 3, 8, 8\), got \(1, 3, 4, 8\)"):
        restore(Stub(lambda images: images[:, :, ::2]), draw(1, 3, 8, 8))


def test_images_of_another_range_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match="divide 8-bit values by 255"):
        restore(Stub(), 255 * draw(1, 3, 8, 8))
    with pytest.raises(TypeError, match="floating-point"):
        restore(Stub(), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
