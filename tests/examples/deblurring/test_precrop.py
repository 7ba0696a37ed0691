"""Crops of a data set on disk: where they lie, what they are cut of, and that nothing else is taken for them."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.deblurring import precrop
from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import PairedImages
from examples.deblurring.data.trees import make_tree
from examples.deblurring.precrop import crop_starts, write_crops
from tafm_loss.images import read_pixels


def flat_tree(root: Path) -> PairedImages:
    make_tree("flat", root, "train", size=(40, 56))
    pairs = open_pairs("flat", root, "train")
    assert isinstance(pairs, PairedImages)
    return pairs


def command(*arguments: object) -> int:
    return precrop.main([*map(str, arguments), "--size", "32", "--step", "16"])


def test_crops_cover_an_image_and_the_last_ones_are_flush() -> None:
    for length, size, step in ((1280, 512, 256), (720, 512, 256), (512, 512, 256), (1025, 512, 256), (7, 3, 2)):
        starts = crop_starts(length, size, step)
        assert starts[0] == 0
        assert starts[-1] + size == length
        assert starts == sorted(set(starts))
        assert all(after - before <= step for before, after in pairwise(starts))
    assert crop_starts(511, 512, 256) == []
    # The published 16,824 crops of GOPRO_Large.
    assert 2103 * len(crop_starts(1280, 512, 256)) * len(crop_starts(720, 512, 256)) == 16824


def test_precropping_writes_the_crops_of_an_image_in_the_layout_of_the_flat_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree("gopro", tmp_path / "gopro", "train", scenes=1, size=(40, 56))
    arguments = ["gopro", str(tmp_path / "gopro"), str(tmp_path / "out"), "--size", "32", "--step", "16"]
    monkeypatch.setattr(sys, "argv", ["precrop", *arguments, "--incomplete"])
    assert precrop.main() == 0
    assert "12 crops of 2 images" in capsys.readouterr().out
    crops = open_pairs("flat", tmp_path / "out", "train")
    assert [pair.name for pair in crops.pairs][:7] == [
        *(f"GOPR0372_07_00-000001_s00{number}" for number in range(1, 7)),
        "GOPR0372_07_00-000002_s001",
    ]
    assert {pair.scene for pair in crops.pairs} == {"GOPR0372_07_00"}
    whole = open_pairs("gopro", tmp_path / "gopro", "train", complete=False)[0]
    # The last of two rows and three columns: flush with the right and the bottom border.
    assert torch.equal(crops[5].blurred, whole.blurred[:, 8:, 24:])
    assert torch.equal(crops[2].sharp, whole.sharp[:, :32, 24:])

    monkeypatch.setattr(sys, "argv", ["precrop", *arguments])
    assert precrop.main() == 2
    assert "precrop: error: GOPRO_Large train" in capsys.readouterr().err


def test_crops_are_not_written_into_the_source_or_among_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat_tree(tmp_path / "flat")
    before = sorted(tmp_path.rglob("*"))
    assert command("flat", tmp_path / "flat", tmp_path / "flat") == 2
    assert "holds other files and no precrop.json: name a new folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    # Nor are crops cut again in place.
    assert command("flat", tmp_path / "flat", tmp_path / "out") == 0
    before = sorted(tmp_path.rglob("*"))
    assert command("flat", tmp_path / "out", tmp_path / "out") == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_that_its_exif_data_turn_is_cut_as_it_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (40, 72, 3), dtype=np.uint8)
    for half in ("input", "target"):
        (tmp_path / "train" / half).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / half / "a-1.jpg", exif=exif)
    assert command("flat", tmp_path, tmp_path / "out") == 0
    whole = open_pairs("flat", tmp_path, "train")[0].sharp
    assert whole.shape == (3, 72, 40)
    crops = open_pairs("flat", tmp_path / "out", "train")
    expected = [whole[:, top : top + 32, left : left + 32] for top in (0, 16, 32, 40) for left in (0, 8)]
    assert len(crops) == len(expected)
    assert all(torch.equal(crops[index].sharp, crop) for index, crop in enumerate(expected))


def test_precropping_is_taken_up_where_it_was_interrupted(tmp_path: Path) -> None:
    pairs = flat_tree(tmp_path / "flat")
    out = tmp_path / "out"
    assert write_crops(pairs, out, {}, size=32, step=16, progress=False) == 24
    kept, lost = out / "input" / "scene1-000001_s001.png", out / "target" / "scene2-000002_s006.png"
    image = read_pixels(lost)
    kept.write_bytes(b"kept")
    lost.unlink()
    assert write_crops(pairs, out, {}, size=32, step=16, progress=False) == 24
    assert kept.read_bytes() == b"kept"
    assert torch.equal(read_pixels(lost), image)
    assert not list(out.rglob("*.tmp"))


def test_precropping_refuses_other_crops_small_images_and_gaps(tmp_path: Path) -> None:
    pairs = flat_tree(tmp_path / "flat")
    write_crops(pairs, tmp_path / "out", {}, size=40, step=16, progress=False)
    with pytest.raises(ValueError, match="made with other settings: size is 40 there and 32 now; name"):
        write_crops(pairs, tmp_path / "out", {}, size=32, step=16, progress=False)
    others = PairedImages([*pairs.pairs[1:], pairs.pairs[0]._replace(name="another")])
    with pytest.raises(ValueError, match="made with other settings: names_sha256 is "):
        write_crops(others, tmp_path / "out", {}, size=40, step=16, progress=False)
    with pytest.raises(ValueError, match=r"crops of 41 px do not fit into .*scene1-000001.png of 56 x 40 px"):
        write_crops(pairs, tmp_path / "small", {}, size=41, step=16, progress=False)
    with pytest.raises(ValueError, match="or the image has gaps; got 33"):
        write_crops(pairs, tmp_path / "gaps", {}, size=32, step=33, progress=False)
