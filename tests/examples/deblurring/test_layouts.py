"""The layouts of RealBlur, HIDE, REDS and flat folders, with what is known to go wrong in them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from examples.deblurring.data import hide, realblur, reds
from examples.deblurring.data.files import encode_png
from examples.deblurring.data.flat import flat_pairs, scene_of
from examples.deblurring.data.hide import hide_pairs
from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import PairedImages, count_scenes
from examples.deblurring.data.realblur import realblur_pairs
from examples.deblurring.data.reds import reds_pairs
from examples.deblurring.data.trees import make_tree
from tafm_loss import BlurSynthesizer
from tafm_loss.blur import write_pairs
from tests.examples.deblurring.packed import touch

J = realblur.FOLDERS["J"]


# ---- RealBlur ----


def test_the_list_files_of_realblur_are_read_with_their_trailing_spaces_and_without_a_last_line_feed(
    tmp_path: Path,
) -> None:
    make_tree("realblur_j", tmp_path, "train")
    text = (tmp_path / "RealBlur_J_train_list.txt").read_text()
    assert text.count("\n") == 3
    assert all(line.endswith(".png ") for line in text.split("\n"))
    pairs = realblur_pairs("J", tmp_path, "train", complete=False)
    assert [pair.name for pair in pairs] == [f"scene00{s}_blur_{m}" for s in (1, 2) for m in (1, 2)]
    assert pairs[0].sharp == tmp_path / J / "scene001" / "gt" / "gt_1.png"
    assert pairs[0].blurred == tmp_path / J / "scene001" / "blur" / "blur_1.png"


def test_the_lists_may_lie_above_and_the_root_may_be_the_folder_of_images(tmp_path: Path) -> None:
    root = tmp_path / "RealBlur"
    make_tree("realblur_j", root, "train")
    expected = realblur_pairs("J", root, "train", complete=False)
    assert realblur_pairs("J", root / J, "train", complete=False) == expected
    (root / "RealBlur_J_train_list.txt").rename(tmp_path / "RealBlur_J_train_list.txt")
    assert realblur_pairs("J", root, "train", complete=False) == expected
    with pytest.raises(NotADirectoryError, match=r"did you mean .*RealBlur as root\?"):
        realblur_pairs("J", tmp_path, "train", complete=False)
    (tmp_path / "RealBlur_J_train_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no RealBlur_J_train_list.txt in .* or above it"):
        realblur_pairs("J", root, "train", complete=False)


def test_names_in_the_list_that_are_not_on_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(realblur.COUNTS, "train", (4, 2))
    make_tree("realblur_j", tmp_path, "train")
    assert len(realblur_pairs("J", tmp_path, "train")) == 4
    for half in ("gt/gt_2.png", "blur/blur_2.png"):
        (tmp_path / J / "scene001" / half).unlink()
    with pytest.raises(ValueError, match=r"2 files that .* names are missing: .*blur_2.png, .*gt_2.png; restore them"):
        realblur_pairs("J", tmp_path, "train")
    assert len(realblur_pairs("J", tmp_path, "train", complete=False)) == 3
    (tmp_path / J / "scene002" / "gt" / "gt_1.png").unlink()
    with pytest.raises(ValueError, match=r"1 files that .* missing: .*gt_1.png; .* or remove their counterparts"):
        realblur_pairs("J", tmp_path, "train", complete=False)
    shutil.rmtree(tmp_path / J / "scene001")
    shutil.rmtree(tmp_path / J / "scene002")
    with pytest.raises(ValueError, match="none of the 4 pairs"):
        realblur_pairs("J", tmp_path, "train", complete=False)


def test_a_scene_in_both_parts_and_a_broken_line_are_errors(tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_tree("realblur_j", tmp_path, split)
    train, test = (tmp_path / f"RealBlur_J_{split}_list.txt" for split in ("train", "test"))
    test.write_text(test.read_text() + "\n" + train.read_text().split("\n")[0])
    with pytest.raises(ValueError, match=r"1 scenes are in both the train and the test list in .*: scene001"):
        realblur_pairs("J", tmp_path, "train", complete=False)
    train.write_text("one two three")
    with pytest.raises(ValueError, match="line 1: expected the sharp and the blurred file, got 'one two three'"):
        realblur_pairs("J", tmp_path, "train", complete=False)


def test_a_line_whose_files_are_swapped_or_of_two_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    make_tree("realblur_j", tmp_path, "train")
    list_file = tmp_path / "RealBlur_J_train_list.txt"
    first, second, *_ = list_file.read_text().split("\n")
    sharp, blurred = first.split()
    for line in (f"{blurred} {sharp}", f"{sharp} {blurred.replace('blur_1', 'blur_2')}", f"{sharp} {sharp}"):
        list_file.write_text(f"{second}\n{line} ")
        with pytest.raises(ValueError, match=r"list.txt, line 2: expected SCENE/gt/gt_M.png and .* of one scene"):
            realblur_pairs("J", tmp_path, "train", complete=False)


# ---- HIDE ----


def test_hide_takes_both_test_folders_and_scenes_are_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree("hide", tmp_path, "test", scenes=2, frames=3)
    make_tree("hide", tmp_path, "train")
    pairs = hide_pairs(tmp_path, "test", complete=False)
    assert [pair.name for pair in pairs] == [f"{n}fromGOPR{r}.MP4" for r in (1096, 1097) for n in (1, 2, 3)]
    assert [pair.scene for pair in pairs] == ["GOPR1096"] * 3 + ["GOPR1097"] * 3
    assert {pair.blurred.parent.name for pair in pairs} == {"test-close-ups", "test-long-shot"}
    assert {pair.sharp.parent for pair in pairs} == {tmp_path / "GT"}
    assert hide_pairs(tmp_path, "train", complete=False)[0].scene == "GOPR0950"
    with pytest.raises(ValueError, match="6 pairs, expected 2025"):
        hide_pairs(tmp_path, "test")
    monkeypatch.setitem(hide.COUNTS, "test", 6)
    assert hide_pairs(tmp_path, "test") == pairs


def test_a_sharp_image_of_hide_may_lack_the_mp4_in_its_name_but_not_be_missing(tmp_path: Path) -> None:
    make_tree("hide", tmp_path, "test")
    first = tmp_path / "GT" / "1fromGOPR1096.MP4.png"
    first.rename(tmp_path / "GT" / "1fromGOPR1096.png")
    assert hide_pairs(tmp_path, "test", complete=False)[0].sharp.name == "1fromGOPR1096.png"
    (tmp_path / "GT" / "1fromGOPR1096.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 images have no counterpart in .*GT: .*1fromGOPR1096.MP4.png"):
        hide_pairs(tmp_path, "test", complete=False)


def test_a_close_up_and_a_long_shot_of_hide_of_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    make_tree("hide", tmp_path, "test")
    first, second = (tmp_path / "test" / folder for folder in ("test-close-ups", "test-long-shot"))
    name = next(first.iterdir()).name
    shutil.copy(first / name, second / name)
    with pytest.raises(ValueError, match="have one name, for which there is one sharp image only") as caught:
        hide_pairs(tmp_path, "test", complete=False)
    assert f"{first / name} and {second / name}" in str(caught.value)


# ---- REDS ----


def test_reds_has_its_kinds_of_blur_and_every_tenth_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree("reds", tmp_path, "val", frames=12, size=(16, 24))
    pairs = reds_pairs(tmp_path, "val", complete=False)
    assert [pair.name for pair in pairs][9:13] == ["000-00000009", "000-00000010", "000-00000011", "001-00000000"]
    assert pairs[0].sharp == tmp_path / "val" / "val_sharp" / "000" / "00000000.png"
    compressed = reds_pairs(tmp_path, "val300", blur="blur_jpeg", complete=False)
    assert [pair.name for pair in compressed] == ["000-00000009", "001-00000009"]
    assert compressed[0].blurred == tmp_path / "val" / "val_blur_jpeg" / "000" / "00000009.jpg"
    with pytest.raises(NotADirectoryError, match=r"val_blur_comp; .*val holds val_blur, val_blur_jpeg, val_sharp"):
        reds_pairs(tmp_path, "val", blur="blur_comp")
    with pytest.raises(ValueError, match=r"scene 002 is missing, .* and 27 more; restore it"):
        reds_pairs(tmp_path, "val")
    monkeypatch.setitem(reds.SCENES, "val", {"000": 12, "001": 100})
    with pytest.raises(ValueError, match="scene 001 has 12 pairs and not 100"):
        reds_pairs(tmp_path, "val")
    monkeypatch.setitem(reds.SCENES, "val", {"000": 12, "001": 12})
    assert len(reds_pairs(tmp_path, "val")) == 24


def test_the_tables_of_reds_have_the_published_totals() -> None:
    assert {split: sum(scenes.values()) for split, scenes in reds.SCENES.items()} == {
        "train": 24000,
        "val": 3000,
        "val300": 300,
    }


# ---- flat ----


def test_a_scene_is_read_from_names_of_all_kinds() -> None:
    for name in (
        "GOPR0384_11_00-000001",
        "GOPR0384_11_00_000001",
        "GOPR0384_11_00-000001_s003",
        "GOPR0384_11_00-000001_s1000",
    ):
        assert scene_of(name) == "GOPR0384_11_00"
    assert scene_of("100007") == "100007"
    assert scene_of("street_10px") == "street"


@pytest.mark.parametrize("form", [("input", "target"), ("blur", "sharp")])
def test_flat_folders_are_found_in_a_part_and_in_the_root(tmp_path: Path, form: tuple[str, str]) -> None:
    for name in ("a_9.png", "a_10.png"):
        for half in form:
            touch(tmp_path / "set" / "train" / half / name)
    pairs = flat_pairs(tmp_path / "set", "train")
    assert [(pair.scene, pair.name) for pair in pairs] == [("a", "a_9"), ("a", "a_10")]
    assert pairs[0].blurred.parent.name == form[0]
    assert flat_pairs(tmp_path / "set" / "train", "all") == pairs
    with pytest.raises(ValueError, match=r'itself holds .* pass split="all"'):
        flat_pairs(tmp_path / "set" / "train", "train")
    with pytest.raises(NotADirectoryError, match=r"did you mean .*set as root\?"):
        flat_pairs(tmp_path, "train")
    with pytest.raises(ValueError, match="must hold the folders input and target or blur and sharp, and holds train"):
        flat_pairs(tmp_path / "set", "all")


def test_flat_folders_may_have_the_part_in_their_names_and_sub_folders(tmp_path: Path) -> None:
    for half in ("test_blur", "test_sharp", "train_blur", "train_sharp"):
        touch(tmp_path / half / "000_resized" / "00000013.png")
    (pair,) = flat_pairs(tmp_path, "test")
    assert (pair.scene, pair.name, pair.sharp.parts[-3]) == ("000_resized", "000_resized-00000013", "test_sharp")
    with pytest.raises(NotADirectoryError, match=r"no folder .*val; .* holds test_blur, test_sharp"):
        flat_pairs(tmp_path, "val")


def test_frames_of_one_video_are_one_scene_and_come_as_tensors(tmp_path: Path) -> None:
    make_tree("flat", tmp_path / "video", "all", scenes=1, frames=3, size=(16, 24))
    for path in (tmp_path / "video").rglob("*.png"):
        path.rename(path.with_name(path.name.removeprefix("scene1-")))
    assert [pair.scene for pair in flat_pairs(tmp_path / "video", "all")] == ["000001", "000002", "000003"]
    pairs = open_pairs("flat", tmp_path / "video", "all", one_scene=True)
    assert {pair.scene for pair in pairs.pairs} == {"video"}
    blurred, sharp = (torch.stack(images) / 255 for images in zip(*pairs, strict=True))
    assert blurred.shape == sharp.shape == (3, 3, 16, 24) and blurred.dtype == torch.float32
    assert torch.equal(sharp[1] * 255, pairs[1].sharp.float()) and not torch.equal(blurred, sharp)


@pytest.mark.parametrize(
    ("folder", "split", "count", "scenes"),
    [("gopro-scene", "all", 21, 1), ("reds-320x180", "train", 20, 2), ("reds-320x180", "test", 40, 4)],
)
def test_real_pairs_are_read(
    folder: str, split: str, count: int, scenes: int, shared_path: Callable[[str], Path]
) -> None:
    pairs = open_pairs("flat", shared_path(f"data/{folder}"), split, one_scene=folder == "gopro-scene")
    assert len(pairs) == count and len(count_scenes(pairs.pairs)) == scenes
    blurred, sharp = pairs[0]
    assert blurred.shape == sharp.shape and not torch.equal(blurred, sharp)


def test_flat_halves_may_differ_in_suffix_but_two_of_a_name_may_not(tmp_path: Path) -> None:
    touch(tmp_path / "input" / "a.jpg")
    touch(tmp_path / "target" / "a.png")
    assert len(flat_pairs(tmp_path, "all")) == 1
    touch(tmp_path / "input" / "a.bmp")
    with pytest.raises(ValueError, match="differ in their suffix alone"):
        flat_pairs(tmp_path, "all")


@pytest.mark.parametrize("layout", ["input-target", "blur-sharp"])
def test_flat_reads_what_the_package_writes(tmp_path: Path, layout: str) -> None:
    for name in ("b/1", "a"):
        path = tmp_path / "sharp" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(torch.zeros(3, 40, 40, dtype=torch.uint8)))
    blur = BlurSynthesizer((2.5, 4.0))
    write_pairs(tmp_path / "sharp", tmp_path / "pairs", blur, layout=layout, progress=False)
    pairs = flat_pairs(tmp_path / "pairs", "all")
    assert [(pair.scene, pair.name) for pair in pairs] == [
        ("a", "a_2p5px"),
        ("a", "a_4px"),
        ("b-1", "b-1_2p5px"),
        ("b-1", "b-1_4px"),
    ]
    assert PairedImages(pairs)[0].sharp.shape == (3, 40, 40)
