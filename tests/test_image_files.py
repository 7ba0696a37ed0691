"""Image files: those that are found, and what becomes of every mode, of damage, and of what lies about them."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tafm_loss import _image_files
from tafm_loss.images import find_images, read_header, read_image, read_pixels


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


def test_values_without_a_known_range_are_refused(tmp_path: Path) -> None:
    for mode in ("F", "I"):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (8, 8), 1).save(path)
        with pytest.raises(ValueError, match=f"cannot be read as an image: its values .*mode {mode}.* no known range"):
            read_image(path)


PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
TURNED = torch.from_numpy(np.rot90(PIXELS, -1).copy()).permute(2, 0, 1)  # as the orientation 6 says
ORIENTATION_6 = bytes.fromhex("0112 0003 0000 0001 0006 0000")
OF_A_RATIONAL = (8 + 2 + 2 * 12 + 4).to_bytes(4, "big")
DAMAGED_EXIF = {
    "a rational of -1/0": bytes.fromhex("011a 000a 0000 0001") + OF_A_RATIONAL,
    "text where a number belongs": bytes.fromhex("0100 0002 0000 0004") + b"iso\0",
    "a negative short": bytes.fromhex("0100 0008 0000 0001 ffff 0000"),
}


@pytest.mark.parametrize("entry", DAMAGED_EXIF.values(), ids=DAMAGED_EXIF)
def test_pixels_are_used_and_turned_whatever_else_the_exif_data_hold(tmp_path: Path, entry: bytes) -> None:
    rational = bytes.fromhex("ffffffff 00000000")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + ORIENTATION_6 + entry + bytes(4) + rational
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_pixels(tmp_path / "a.png"), TURNED)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_tiff_is_turned_once_whatever_else_its_tags_hold(
    tmp_path: Path, damaged: bool, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(PIXELS).save(path, tiffinfo={0x0112: 6}, dpi=(72, 72), compression=compression)
    data = path.read_bytes()
    resolution = bytes.fromhex("1a01 0500")
    assert data.count(resolution) == 1
    if damaged:
        place = int.from_bytes(data[data.index(resolution) + 8 :][:4], "little")
        data = data[:place] + bytes.fromhex("ffffffff 00000000") + data[place + 8 :]
        data = data.replace(resolution, bytes.fromhex("1a01 0a00"))
    path.write_bytes(data)
    assert torch.equal(read_pixels(path), TURNED)


def test_exif_data_that_are_cut_off_do_not_turn(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0")
    assert torch.equal(read_pixels(tmp_path / "a.png"), torch.from_numpy(PIXELS).permute(2, 0, 1))


def test_a_file_of_another_format_under_the_suffix_of_an_image_is_not_opened_by_its_reader(tmp_path: Path) -> None:
    # Pillow would start Ghostscript for it.
    Image.fromarray(PIXELS).save(tmp_path / "a.png", "EPS")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: it is none of the formats BMP, JPEG"):
        read_pixels(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_pixels, read_header])
def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: .*no regular file"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["grey", "colour"])
def test_sixteen_bits_of_which_the_upper_are_empty_are_warned_about_once_a_folder(tmp_path: Path, mode: str) -> None:
    def write(name: str, largest: int) -> Path:
        values = np.full((2, 3), largest, dtype=">u2")
        if mode == "grey":
            Image.fromarray(values.astype(np.uint16)).save(tmp_path / name)
        else:
            rows = b"".join(b"\0" + np.repeat(row, 3).tobytes() for row in values)
            chunks = [(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
            packed = b"".join(
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                for kind, data in (*chunks, (b"IEND", b""))
            )
            (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + packed)
        return tmp_path / name

    paths = [write(f"{number}.png", 4095) for number in range(2)]
    bright = write("bright.png", 0x4000)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for path in (*paths, bright):
            read_pixels(path)
    (warning,) = told
    assert "lowest 12 bits alone" in str(warning.message) and "multiply the values by 16" in str(warning.message)


def make(*paths: Path) -> None:
    """Write images, and the folders they lie in."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4), 7).save(path)


def names(folder: Path) -> list[str]:
    """Return which images are found in a folder."""
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_links_to_folders_are_followed_and_no_folder_is_searched_twice(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    make(root / "z" / "1.png", tmp_path / "elsewhere" / "2.png", tmp_path / "elsewhere" / "deeper" / "3.png")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    assert names(root) == ["a/2.png", "a/deeper/3.png", "z/1.png"]
    (root / "again").symlink_to(root / "z")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    with pytest.warns(UserWarning, match=r"passed over \(2\): .*photos/again \(it leads to a folder that is searched"):
        assert names(root) == ["a/2.png", "a/deeper/3.png", "z/1.png"]


def test_hidden_files_and_folders_are_passed_over_unless_they_are_named(tmp_path: Path) -> None:
    root = tmp_path / ".photos"
    make(root / "1.png", root / "._1.png", root / ".ipynb_checkpoints" / "1-checkpoint.png")
    assert names(root) == ["1.png"]


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "1.png", tmp_path / "locked" / "2.png")
    scandir = os.scandir

    def locked(folder: Path) -> object:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(_image_files.os, "scandir", locked)
    with pytest.warns(UserWarning, match=r"folders are passed over \(1\): .*locked \(Permission denied\)"):
        assert names(tmp_path) == ["1.png"]
    with pytest.raises(PermissionError, match="locked"):
        find_images(tmp_path / "locked")


def test_images_of_other_formats_are_named(tmp_path: Path) -> None:
    make(tmp_path / "1.png", tmp_path / "2.gif")
    with pytest.warns(UserWarning, match=r"other formats are passed over; save them as PNG \(1\): .*2\.gif"):
        assert names(tmp_path) == ["1.png"]
