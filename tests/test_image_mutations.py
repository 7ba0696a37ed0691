"""Image files changed at random: their pixels are read, or a ValueError that names the file says why not."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image

from tafm_loss.images import read_header, read_pixels
from tests.weights.test_mutations import damaged_bytes

RANDOM = np.random.default_rng(0)
COLOUR = Image.fromarray(RANDOM.integers(0, 256, (24, 32, 3), dtype=np.uint8))
DEEP = Image.fromarray(RANDOM.integers(0, 65536, (24, 32), dtype=np.uint16))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8827] = 6, "a camera", 100
    exif.get_ifd(0x8769)[0x829A] = (1, 60)
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


IMAGES = {
    "jpeg": encoded(COLOUR, "JPEG"),
    "png": encoded(COLOUR, "PNG"),
    "16-bit png": encoded(DEEP, "PNG"),
    "tiff": encoded(COLOUR, "TIFF"),
    "tiff by lzw": encoded(COLOUR, "TIFF", compression="tiff_lzw"),
    "tiff by deflate": encoded(COLOUR, "TIFF", compression="tiff_deflate"),
    "webp": encoded(COLOUR, "WEBP"),
    "bmp": encoded(COLOUR, "BMP"),
}


@pytest.mark.parametrize("data", IMAGES.values(), ids=IMAGES)
def test_random_mutations_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image.png"
    outcomes = {"read": 0, "refused": 0}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged_bytes(data))
    def check(mutated: bytes) -> None:
        path.write_bytes(mutated)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_header(path)
                pixels = read_pixels(path)
        except ValueError as error:
            outcomes["refused"] += 1
            assert str(path) in str(error) and len(str(error)) < 3000
        else:
            outcomes["read"] += 1
            assert pixels.shape[0] == 3 and pixels.dtype == torch.uint8

    check()
    assert outcomes["read"] >= 1 and outcomes["refused"] >= 1


def test_an_image_that_claims_to_be_enormous_is_refused_before_its_memory_is_taken(tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")  # in 110 kB
    with pytest.raises(
        ValueError, match=r"bomb\.png cannot be read as an image: Image size \(900000000 pixels\) exceeds"
    ):
        read_pixels(tmp_path / "bomb.png")
