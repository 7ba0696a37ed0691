"""Reading image files of every mode, and the one check of what callers pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tafm_loss.images import (
    check_images,
    check_unit_range,
    find_images,
    read_header,
    read_image,
    read_pixels,
    unit_noise,
)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    torch.testing.assert_close(read_image(path), torch.ones(3, 4, 5))


def test_values_and_orientation(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    expected = torch.from_numpy(np.rot90(pixels, -1).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(read_image(tmp_path / "turned.png"), expected)


def test_headers_are_read_without_pixels_and_images_are_found_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "folder.png").mkdir()
    for name in ("b/2.PNG", "a.jpg", "b/1.webp"):
        Image.new("L", (5, 4), 7).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == ["a.jpg", "b/1.webp", "b/2.PNG"]
    whole = (tmp_path / "b" / "2.PNG").read_bytes()
    (tmp_path / "b" / "2.PNG").write_bytes(whole[:-20])
    assert read_header(tmp_path / "b" / "2.PNG") == ((5, 4), "L")
    pixels = read_pixels(tmp_path / "b" / "1.webp")
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 4, 5)


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    torch.testing.assert_close(read_image(tmp_path / "deep.png"), torch.full((3, 4, 4), 128 / 255))


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:500])
    for name in ("text.png", "half.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "nowhere.png")


def test_messages_name_the_argument_and_the_remedy() -> None:
    for images, error, message in (
        ([1.0], TypeError, "pred must be a torch.Tensor, got list"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"pred must be .* got torch.uint8; .* / 255"),
        (torch.zeros(3, 8, 8), ValueError, r"\(N, C, H, W\), got \(3, 8, 8\); add a batch axis"),
        (torch.zeros(1, 4, 8, 8), ValueError, "must have 3 channels, got 4"),
        (torch.zeros(1, 3, 8, 7), ValueError, "at least 8 px high and wide, got 8 x 7"),
    ):
        with pytest.raises(error, match=message):
            check_images(images, "pred", minimum_size=8)  # type: ignore[arg-type]
    check_images(torch.zeros(0, 1, 8, 8), "pred", channels=None)
    with pytest.raises(ValueError, match="at least one channel"):
        check_images(torch.zeros(1, 0, 8, 8), "pred", channels=None)


def test_values_may_overshoot_a_little_and_no_more() -> None:
    for images in (torch.tensor([-0.04, 1.04]), torch.empty(0)):
        check_unit_range(images, "pred")
    for value in (-0.06, 1.06, float("nan")):
        with pytest.raises(ValueError, match=r"pred must have values in \[0, 1\], got .*; divide 8-bit values by 255"):
            check_unit_range(torch.tensor([0.5, value]), "pred")


def test_values_without_a_known_range_are_refused(tmp_path: Path) -> None:
    for mode in ("F", "I"):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (8, 8), 1).save(path)
        with pytest.raises(ValueError, match=f"cannot be read as an image: its values .*mode {mode}.* no known range"):
            read_image(path)


def test_unit_noise_is_normal_of_the_type_and_shape_asked_for_and_each_image_can_have_its_own() -> None:
    like = torch.zeros(2, 3, 64, 64, dtype=torch.float16)
    noise = unit_noise(like, torch.Generator().manual_seed(0))
    assert noise.dtype == torch.float16 and noise.shape == like.shape
    assert noise.float().mean().abs() < 0.03 and noise.float().std() == pytest.approx(1, abs=0.03)
    own = unit_noise(like, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert torch.equal(own[1], unit_noise(like[1], torch.Generator().manual_seed(2))) and not torch.equal(*own)
    torch.manual_seed(4)
    drawn = unit_noise(like.double())
    torch.manual_seed(4)
    assert torch.equal(drawn, torch.randn(like.shape, dtype=torch.float64))
    with pytest.raises(TypeError, match="generator must be"):
        unit_noise(like, 3)  # type: ignore[arg-type]
