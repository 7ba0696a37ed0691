"""GOPRO_Large and GOPRO_Large_all: their layouts, with what is known to go wrong in them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.deblurring.data import gopro
from examples.deblurring.data.gopro import gopro_pairs
from examples.deblurring.data.gopro_all import AveragedFrames, official_length
from examples.deblurring.data.pairs import PairedImages
from examples.deblurring.data.trees import make_tree
from tests.examples.deblurring.packed import touch


def touch_gopro(root: Path, split: str, scenes: dict[str, int]) -> None:
    for scene, count in scenes.items():
        for number in range(1, count + 1):
            for kind in ("blur", "blur_gamma", "sharp"):
                touch(root / split / scene / kind / f"{number:06}.png")


# ---- GOPRO_Large ----


def test_the_scene_tables_of_gopro_have_the_published_totals() -> None:
    assert {split: (len(scenes), sum(scenes.values())) for split, scenes in gopro.SCENES.items()} == {
        "train": (22, 2103),
        "test": (11, 1111),
    }
    assert not gopro.SCENES["train"].keys() & gopro.SCENES["test"].keys()


def test_gopro_reads_the_blur_that_is_asked_for(tmp_path: Path) -> None:
    make_tree("gopro", tmp_path, "test")
    plain, gamma = (gopro_pairs(tmp_path, "test", blur=blur, complete=False) for blur in ("blur", "blur_gamma"))
    assert plain[0].blurred == tmp_path / "test" / "GOPR0384_11_00" / "blur" / "000001.png"
    assert gamma[0].blurred == tmp_path / "test" / "GOPR0384_11_00" / "blur_gamma" / "000001.png"
    assert plain[0].sharp == gamma[0].sharp == tmp_path / "test" / "GOPR0384_11_00" / "sharp" / "000001.png"
    assert plain[0][2:] == ("GOPR0384_11_00", "GOPR0384_11_00-000001")
    assert not torch.equal(PairedImages(plain)[0].blurred, PairedImages(gamma)[0].blurred)
    with pytest.raises(ValueError, match="one of blur, blur_gamma, got 'gamma'"):
        gopro_pairs(tmp_path, "test", blur="gamma")


def test_gopro_asserts_scenes_and_counts_unless_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = {"A": 2, "B": 3, "C": 1}
    monkeypatch.setitem(gopro.SCENES, "train", published)
    touch_gopro(tmp_path, "train", published)
    assert len(gopro_pairs(tmp_path, "train")) == 6
    shutil.rmtree(tmp_path / "train" / "A")
    for kind in ("blur", "sharp"):
        (tmp_path / "train" / "B" / kind / "000002.png").unlink()
    touch_gopro(tmp_path, "train", {"D": 1})
    with pytest.raises(
        ValueError,
        match="scene A is missing, scene B has 2 pairs and not 3, scene D is none of the published ones; restore it, "
        "or take what is there with complete=False",
    ):
        gopro_pairs(tmp_path, "train")
    assert len(gopro_pairs(tmp_path, "train", complete=False)) == 4


def test_gopro_is_in_natural_order_by_scene_and_index(tmp_path: Path) -> None:
    for name in ("9", "10", "000011"):
        for kind in ("blur", "sharp"):
            touch(tmp_path / "test" / "scene10" / kind / f"{name}.png")
            touch(tmp_path / "test" / "scene9" / kind / f"{name}.png")
    names = [pair.name for pair in gopro_pairs(tmp_path, "test", complete=False)]
    assert names == [f"scene{scene}-{name}" for scene in (9, 10) for name in ("9", "10", "000011")]


@pytest.mark.parametrize(("kept", "lost"), [("blur", "sharp"), ("sharp", "blur")])
def test_an_image_without_counterpart_is_named_with_their_number(tmp_path: Path, kept: str, lost: str) -> None:
    touch_gopro(tmp_path, "train", {"A": 5})
    for number in (2, 4):
        (tmp_path / "train" / "A" / lost / f"{number:06}.png").unlink()
    with pytest.raises(ValueError, match="2 of 5 images have no counterpart") as caught:
        gopro_pairs(tmp_path, "train", complete=False)
    assert str(tmp_path / "train" / "A" / kept / "000002.png") in str(caught.value)
    assert str(tmp_path / "train" / "A" / lost) in str(caught.value)


def test_hidden_files_of_macos_are_no_images(tmp_path: Path) -> None:
    touch_gopro(tmp_path, "train", {"A": 2})
    touch(tmp_path / "train" / "A" / "blur" / "._000001.png")
    (tmp_path / "train" / ".cache").mkdir()
    assert len(gopro_pairs(tmp_path, "train", complete=False)) == 2


def test_a_root_one_level_off_is_told_where_it_may_be(tmp_path: Path) -> None:
    root = tmp_path / "GOPRO_Large"
    touch_gopro(root, "train", {"A": 1})
    for wrong in (tmp_path, root / "train", root / "train" / "A"):
        with pytest.raises(NotADirectoryError, match="did you mean") as caught:
            gopro_pairs(wrong, "train")
        assert f"did you mean {root} as root?" in str(caught.value)
    with pytest.raises(NotADirectoryError, match=r"no folder .*test; .*GOPRO_Large holds train"):
        gopro_pairs(root, "test")
    with pytest.raises(NotADirectoryError, match=r"no folder .*nowhere$"):
        gopro_pairs(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="one of train, test, got 'val'"):
        gopro_pairs(root, "val")


# ---- GOPRO_Large_all ----


def write_frames(folder: Path, count: int, first: int = 1) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / f"{number:06}.png")
    return frames


def as_pixels(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame.astype(np.uint8)).permute(2, 0, 1)


def test_the_official_lengths_go_by_the_camera_number() -> None:
    scenes = [scene for part in gopro.SCENES.values() for scene in part]
    lengths = {scene: official_length(scene) for scene in scenes}
    assert {scene for scene, length in lengths.items() if length == 7} == {"GOPR0372_07_00", "GOPR0372_07_01"}
    assert {scene for scene, length in lengths.items() if length == 13} == {"GOPR0378_13_00"}
    assert set(lengths.values()) == {7, 11, 13}


@pytest.mark.parametrize(("scene", "length"), [("GOPR0372_07_00", 7), ("GOPR0378_13_00", 13), ("GOPR0384_11_01", 11)])
def test_an_official_exposure_is_the_exact_rounded_mean_of_its_window(tmp_path: Path, scene: str, length: int) -> None:
    frames = write_frames(tmp_path / "train" / scene, 2 * length + 3, first=5)
    pairs = AveragedFrames(tmp_path, "train", complete=False)
    assert len(pairs) == 2
    for index, sample in enumerate((pairs[0], pairs[1])):
        window = frames[index * length : (index + 1) * length].astype(np.int64)
        # In integers: half of the divisor is added before the division.
        assert torch.equal(sample.blurred, as_pixels((2 * window.sum(0) + length) // (2 * length)))
        assert torch.equal(sample.sharp, as_pixels(window[length // 2]))
        assert pairs.pairs[index].name == f"{scene}-{5 + index * length + length // 2:06}"
        assert pairs.pairs[index].scene == scene


def test_with_a_gamma_frames_are_averaged_in_linear_light(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "test" / "GOPR0384_11_00", 11)
    blurred = AveragedFrames(tmp_path, "test", gamma=2.2, complete=False)[0].blurred
    expected = 255 * ((frames / 255.0) ** 2.2).mean(0) ** (1 / 2.2)
    assert np.abs(blurred.permute(1, 2, 0).numpy() - expected).max() <= 0.501


def test_missing_misnumbered_and_too_few_frames_are_errors(tmp_path: Path) -> None:
    scene = tmp_path / "test" / "GOPR0384_11_00"
    write_frames(scene, 12)
    (scene / "000009.png").rename(scene / "000013.png")
    with pytest.raises(ValueError, match="frame 9 is missing between 000008 and 000010"):
        AveragedFrames(tmp_path, "test", complete=False)
    (scene / "000013.png").rename(scene / "mask.png")
    with pytest.raises(ValueError, match="holds mask; frames must be called by their number"):
        AveragedFrames(tmp_path, "test", complete=False)
    (scene / "mask.png").unlink()
    for number in (10, 11, 12):
        (scene / f"{number:06}.png").unlink()
    with pytest.raises(ValueError, match="holds 8 frames, but an exposure takes 11"):
        AveragedFrames(tmp_path, "test", complete=False)


@pytest.mark.parametrize("frames", [4, 1, 13, 3.0, True])
def test_a_number_of_frames_that_has_no_middle_or_no_room_is_an_error(tmp_path: Path, frames: object) -> None:
    write_frames(tmp_path / "test" / "GOPR0384_11_00", 11)
    with pytest.raises(ValueError, match="frames must be"):
        AveragedFrames(tmp_path, "test", frames=frames, complete=False)


def test_the_scenes_of_gopro_all_are_asserted_and_their_counts_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree("gopro_all", tmp_path, "test", scenes=2)
    with pytest.raises(ValueError, match=r"scene GOPR0385_11_01 is missing, .* and 6 more; restore it"):
        AveragedFrames(tmp_path, "test")
    monkeypatch.setitem(gopro.SCENES, "test", {"GOPR0384_11_00": 100, "GOPR0384_11_05": 100})
    assert len(AveragedFrames(tmp_path, "test")) == 4
