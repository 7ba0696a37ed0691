"""Exposures from video frames: averages, alignment, order, growth, and every refusal."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tafm_loss.blur.frames import FrameExposures
from tafm_loss.images import read_image
from tafm_loss.scenes import generate_scenes

CANVAS = (255 * generate_scenes(1, (64, 320), generator=torch.Generator().manual_seed(0))[0]).byte()


def write_frame(path: Path, left: int = 0, size: int = 64) -> None:
    """Write the part of the canvas that begins `left` px from its left border."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(CANVAS[:, :size, left : left + size].permute(1, 2, 0).numpy()).save(path)


def write_scene(folder: Path, lefts: list[int]) -> list[Path]:
    """Write one frame for each position, numbered as in GOPRO_Large_all, and return the files."""
    paths = [folder / f"{place:06d}.png" for place in range(1, 1 + len(lefts))]
    for path, left in zip(paths, lefts, strict=True):
        write_frame(path, left)
    return paths


def stored(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float64).transpose(2, 0, 1) / 255


def srgb_to_light(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def light_to_srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


CURVES = {
    None: (lambda values: values, lambda light: light),
    2.2: (lambda values: values**2.2, lambda light: light ** (1 / 2.2)),
    "srgb": (srgb_to_light, light_to_srgb),
}


@pytest.mark.parametrize("transfer", list(CURVES))
def test_levels_are_averages_of_light_about_the_centre_frame(tmp_path: Path, transfer: str | float | None) -> None:
    paths = write_scene(tmp_path / "scene", [0, 2, 4, 6, 8])
    exposure = FrameExposures(tmp_path, transfer=transfer)[0]
    to_light, from_light = CURVES[transfer]
    assert exposure.counts == (1, 3, 5) and exposure.scene == "scene" and exposure.centre == str(paths[2])
    assert torch.equal(exposure.levels[0], read_image(paths[2]))
    for level, covered in ((1, paths[1:4]), (2, paths)):
        mean = from_light(np.mean([to_light(stored(path)) for path in covered], axis=0))
        np.testing.assert_allclose(exposure.levels[level].numpy(), mean, atol=2e-5)


def test_frames_are_averaged_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(1, 13):
        write_frame(tmp_path / f"{number}.png", 3 * number)
    exposures = FrameExposures(tmp_path)
    # Exposures do not overlap, and what remains is dropped.
    assert [Path(exposure.centre).name for exposure in exposures] == ["3.png", "8.png"] and len(exposures) == 2
    assert exposures[-1].scene == "."
    torch.testing.assert_close(exposures[1].extents, 3 * torch.tensor([0.0, 8.0, 24.0]).sqrt(), atol=0.1, rtol=0)


def test_scenes_are_folders_at_any_depth_in_natural_order(tmp_path: Path) -> None:
    for name in ("train/day10", "train/day9/a", "train/day9", "test/b"):
        write_scene(tmp_path / name, [0, 1, 2])
    (tmp_path / "train" / "notes.txt").write_text("no frame")
    scenes = [exposure.scene for exposure in FrameExposures(tmp_path, (1, 3))]
    assert scenes == ["test/b", "train/day9", "train/day9/a", "train/day10"]


def test_extents_are_unknown_without_texture(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (32, 32), (90, 90, 90)).save(tmp_path / f"{number}.png")
    exposure = FrameExposures(tmp_path, (1, 3))[0]
    assert exposure.extents[0] == 0 and exposure.extents[1].isnan()
    torch.testing.assert_close(exposure.levels, torch.full((2, 3, 32, 32), 90 / 255), atol=1e-6, rtol=0)


def test_exposures_grow_until_the_content_has_moved_far_enough(tmp_path: Path) -> None:
    fast = [4 * place for place in range(17)]
    slow = [fast[-1] + 1 + place for place in range(30)]
    paths = write_scene(tmp_path / "scene", fast + slow)
    exposures = list(FrameExposures(tmp_path, (1, 3, 5), least_path=15.5))
    # Frames 0..4, 5..9 and 10..14 move by 16 px each. The next ones move by 4, then by 1 px: 13 take 4 + 11 px,
    # 15 take 17. The last 17 frames reach 16 px once more.
    assert [exposure.counts for exposure in exposures] == [(1, 3, 5)] * 3 + [(1, 9, 15), (1, 11, 17)]
    assert [paths.index(Path(exposure.centre)) for exposure in exposures] == [2, 7, 12, 22, 38]
    assert all(exposure.extents.diff().min() > 0 for exposure in exposures)


def test_grown_counts_stay_odd_centred_and_rising(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", list(range(60)))
    (exposure,) = FrameExposures(tmp_path, (3, 5, 7, 15), least_path=40.5)
    # 43 frames move by 42 px; 43 / 15 times the counts is 8.6, 14.3, 20.1 and 43.
    assert exposure.counts == (9, 15, 21, 43)
    truth = torch.tensor([math.sqrt(count**2 - 1) for count in exposure.counts])
    torch.testing.assert_close(exposure.extents, truth, atol=0.3, rtol=0)


def test_a_scene_that_stands_still_is_left_out_with_a_warning(tmp_path: Path) -> None:
    write_scene(tmp_path / "still", [5] * 9)
    moving = write_scene(tmp_path / "moving", [0, 4, 8])
    with pytest.warns(UserWarning, match=r"scene 'still' nowhere moves by 6 px"):
        exposures = FrameExposures(tmp_path, (1, 3), least_path=6)
    assert [exposure.centre for exposure in exposures] == [str(moving[1])]
    with pytest.warns(UserWarning, match="nowhere"), pytest.raises(ValueError, match=r"no scene in .* moves by 99 px"):
        FrameExposures(tmp_path, (1, 3), least_path=99)


def test_every_second_frame_is_a_numbering_without_gaps(tmp_path: Path) -> None:
    for number in (2, 4, 6):
        write_frame(tmp_path / f"GOPR0372_07-{number:04d}.png", number)
    assert FrameExposures(tmp_path, (3,))[0].centre.endswith("GOPR0372_07-0004.png")


def test_workers_give_the_exposures_of_the_dataset(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", [2 * place for place in range(15)])
    exposures = FrameExposures(tmp_path)
    loaded = list(DataLoader(exposures, batch_size=None, num_workers=1))
    again = pickle.loads(pickle.dumps(exposures))
    assert [exposure.centre for exposure in loaded] == [exposure.centre for exposure in exposures]
    for index, exposure in enumerate(loaded):
        for twin in (exposures[index], again[index]):
            assert torch.equal(exposure.levels, twin.levels) and torch.equal(exposure.extents, twin.extents)


def test_folders_without_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*missing"):
        FrameExposures(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("no frame")
    with pytest.raises(ValueError, match=r"there is no frame \(.bmp, .*\) in "):
        FrameExposures(tmp_path)


def test_scenes_of_too_few_frames_are_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "short", [0] * 4)
    with pytest.raises(ValueError, match=r"scene 'short' in .* has 4 frames, but an exposure takes 5"):
        FrameExposures(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["000001", "000002", "000004", "000005"], r"'scene': .*000003\.png is missing between 000002\.png and 000004"),
        (["a-10", "a-12", "a-14", "a-18"], r"'scene': .*a-16\.png is missing between a-14\.png and a-18\.png"),
        (["1", "2", "9"], r"'scene': .*3\.png is missing between 2\.png and 9\.png"),
        (["1", "2", "last"], r"'scene': the name of .*last\.png holds no number"),
        (["a1", "a2", "b1"], r"'scene': the number of .*b1\.png does not rise after a2\.png"),
        (["1", "2", "02", "5"], r"'scene': the number of .* does not rise"),
    ],
)
def test_frames_that_are_not_consecutive_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write_frame(tmp_path / "scene" / f"{name}.png")
    with pytest.raises(ValueError, match=message):
        FrameExposures(tmp_path, (1, 3))


def test_frames_of_different_size_are_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", [0] * 3)
    write_frame(tmp_path / "scene" / "000002.png", size=48)
    message = r"scene 'scene': .*000002\.png has 48 x 48 px, but 000001\.png has 64 x 64 px"
    with pytest.raises(ValueError, match=message):
        FrameExposures(tmp_path, (1, 3))[0]
    with pytest.raises(ValueError, match=message):
        FrameExposures(tmp_path, (1, 3), least_path=1)


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for counts in ((), (1,), (2, 4), (3, 3), (5, 3), (-1, 3), (1, 3.5), (0, 3)):
        with pytest.raises(ValueError, match="counts must be odd numbers that rise strictly and end above 1, got"):
            FrameExposures(tmp_path, counts)  # type: ignore[arg-type]
    for counts in (3, "135"):
        with pytest.raises(TypeError, match="counts must be a sequence of odd numbers"):
            FrameExposures(tmp_path, counts)  # type: ignore[arg-type]
    for least_path in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="least_path must be a length above 0 px, or None, got"):
            FrameExposures(tmp_path, least_path=least_path)
    with pytest.raises(ValueError, match="transfer must be"):
        FrameExposures(tmp_path, transfer="rec709")


def test_unreadable_and_vanished_frames_are_named_when_they_are_read(tmp_path: Path) -> None:
    paths = write_scene(tmp_path / "scene", [0] * 3)
    exposures = FrameExposures(tmp_path, (1, 3))
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(ValueError, match=r"scene.000002\.png cannot be read as an image"):
        exposures[0]
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"scene.000002\.png"):
        exposures[0]
    with pytest.raises(IndexError):
        exposures[1]
