"""Where scenes come from: folders of every kind of image, frames, tensors, data sets; and what is refused."""

import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

from tafm_loss.blur.frames import FrameExposures
from tafm_loss.finetune import sources
from tafm_loss.finetune.sources import UnusableImageError, open_source
from tafm_loss.images import read_image, read_pixels


def noise_image(height: int = 40, width: int = 48, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write_truncated(path: Path) -> None:
    noise_image(96, 96).save(path)
    path.write_bytes(path.read_bytes()[:3000])


# ---- folders ----


def test_a_folder_gives_its_images_of_any_size_with_their_scenes(tmp_path: Path) -> None:
    for name, size in (
        ("b.png", (40, 48)),
        ("video/1.png", (64, 40)),
        ("video/2.png", (64, 40)),
        ("a/b/c.bmp", (41, 50)),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise_image(*size, seed=len(name)).save(tmp_path / name)
    source = open_source(tmp_path, 32)
    paths = ["a/b/c.bmp", "b.png", "video/1.png", "video/2.png"]
    for index, path in enumerate(paths):
        assert torch.equal(source[index].levels[0], read_image(tmp_path / path)), path
        assert source[index].extents.tolist() == [0.0]
    assert len(source.scenes) == 4 and [str(scene) for scene in source.scenes] == ["a/b", "b.png", "video", "video"]
    assert source.description == f"4 images of {tmp_path.name}"


def test_files_of_the_only_sub_folder_are_scenes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for seed in range(3):
        noise_image(seed=seed).save(tmp_path / "deep" / f"{seed}.png")
    assert len(set(open_source(str(tmp_path), 32).scenes)) == 3


def test_an_image_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    image = noise_image()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    expected = torch.from_numpy(np.rot90(np.asarray(image), -1).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(open_source(tmp_path, 32)[0].levels[0], expected)


def test_images_that_become_rgb_are_named_in_one_warning(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "RGB"):
        noise_image(mode=mode).save(tmp_path / f"{mode}.png")
    noise_image(mode="CMYK").save(tmp_path / "CMYK.jpg")
    Image.fromarray(np.full((40, 40), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.warns(UserWarning) as caught:
        source = open_source(tmp_path, 32)
    (warning,) = caught
    assert "5 of 6 images become RGB" in str(warning.message) and "; and 2 more" in str(warning.message)
    assert "CMYK.jpg (CMYK); " in str(warning.message) and "skipped" not in str(warning.message)
    for index, path in enumerate(sorted(tmp_path.iterdir())):
        assert torch.equal(source[index].levels[0], read_image(path)), path


def test_images_that_are_too_small_or_no_images_are_skipped_with_their_reasons(tmp_path: Path) -> None:
    noise_image(40, 40).save(tmp_path / "good.png")
    noise_image(31, 40).save(tmp_path / "flat.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning) as caught:
        source = open_source(tmp_path, 32)
    (warning,) = caught
    for part in (
        "3 of 4 images are skipped",
        "flat.png must be at least 32 px high and wide, got 31 x 40 px",
        "text.png cannot be read as an image",
        "gone.png",
    ):
        assert part in str(warning.message)
    assert len(source.scenes) == 1 and source.description.startswith("1 images")


def test_opening_a_folder_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise_image().save(tmp_path / "image.png")
    monkeypatch.setattr(sources, "read_pixels", None)
    open_source(tmp_path, 32)


def test_a_corrupt_image_is_found_on_reading_and_read_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise_image(96, 96).save(tmp_path / "a.png")
    write_truncated(tmp_path / "b.jpg")
    decoded: list[str] = []
    monkeypatch.setattr(sources, "read_pixels", lambda path: decoded.append(path.stem) or read_pixels(path))
    source = open_source(tmp_path, 32)
    with pytest.warns(UserWarning, match=r"skipped: .*b\.jpg cannot be read as an image: .*truncated") as caught:
        for _ in range(2):
            with pytest.raises(UnusableImageError, match=r"b\.jpg"):
                source[1]
        first = source.first_usable([1, 0])
    assert len(caught) == 1
    assert first is not None and torch.equal(first.levels, source[0].levels)
    assert source.first_usable([1, 1]) is None and list(source.faults) == [1]
    assert decoded == ["b", "a"]


def test_a_folder_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        open_source(tmp_path / "nowhere", 32)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"there is no image \(\.bmp.*\) in "):
        open_source(tmp_path, 32)
    for seed in range(5):
        noise_image(20, 20).save(tmp_path / f"{seed}.png")
    with pytest.raises(ValueError, match=r"all are skipped \(5\): .*0\.png must be at least 32 px.*; and 2 more"):
        open_source(tmp_path, 32)


def test_images_stay_in_memory_up_to_the_bound_and_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        noise_image(40, 40, seed=seed).save(tmp_path / f"{seed}.png")
    decoded: list[str] = []

    def counted(path: Path) -> Tensor:
        decoded.append(path.stem)
        return read_pixels(path)

    monkeypatch.setattr(sources, "read_pixels", counted)
    monkeypatch.setattr(sources, "MEMORY_BYTES", 2 * 3 * 40 * 40)
    source = open_source(tmp_path, 32)
    first = [source[index].levels.clone() for index in (2, 0, 1)]
    again = [source[index].levels for index in (2, 0, 1)]
    assert decoded == ["2", "0", "1", "1"]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_a_caller_does_to_an_item_does_not_reach_the_memory(tmp_path: Path) -> None:
    noise_image().save(tmp_path / "image.png")
    source = open_source(tmp_path, 32)
    source[0].levels.zero_()
    assert torch.equal(source[0].levels[0], read_image(tmp_path / "image.png"))


def test_threads_that_read_the_same_images_get_the_same_and_count_their_memory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        noise_image(40, 40, seed=seed).save(tmp_path / f"{seed}.png")
    together = threading.Barrier(4)
    decoded: list[str] = []

    def read_at_once(path: Path) -> Tensor:
        decoded.append(path.stem)
        if path.stem == "0":
            together.wait(5)
        return read_pixels(path)

    monkeypatch.setattr(sources, "read_pixels", read_at_once)
    # Counted once, the image that four threads decode at once leaves room for the other two.
    monkeypatch.setattr(sources, "MEMORY_BYTES", 3 * 3 * 40 * 40)
    source = open_source(tmp_path, 32)
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(lambda _: source[0].levels[0], range(4)))
    assert all(torch.equal(item, read_image(tmp_path / "0.png")) for item in items)
    for index in (1, 2, 0, 1, 2):
        assert torch.equal(source[index].levels[0], read_image(tmp_path / f"{index}.png"))
    assert decoded == ["0"] * 4 + ["1", "2"]


# ---- frames ----


def write_frames(folder: Path, lefts: list[int], *, texture: bool = True) -> None:
    folder.mkdir(parents=True)
    canvas = np.asarray(noise_image(16, 40).resize((160, 64), Image.Resampling.BICUBIC))
    for number, left in enumerate(lefts):
        frame = canvas[:, left : left + 64] if texture else np.full((64, 64, 3), 90, dtype=np.uint8)
        Image.fromarray(frame).save(folder / f"{number}.png")


def test_exposures_keep_their_levels_extents_and_scenes(tmp_path: Path) -> None:
    write_frames(tmp_path / "one", [0, 3, 6, 9, 12] * 2)
    write_frames(tmp_path / "two", [0, 4, 8, 12, 16])
    exposures = FrameExposures(tmp_path)
    source = open_source(exposures, 32)
    assert list(source.scenes) == ["one", "one", "two"] and source.description == "2 scenes of frames"
    for index in range(3):
        assert torch.equal(source[index].levels, exposures[index].levels)
        assert torch.equal(source[index].extents, exposures[index].extents)


def test_exposures_without_rising_extents_or_of_small_or_unreadable_frames_are_skipped(tmp_path: Path) -> None:
    write_frames(tmp_path / "grey", [0] * 5, texture=False)
    write_frames(tmp_path / "moving", [0, 3, 6, 9, 12])
    write_frames(tmp_path / "still", [0] * 5)
    write_frames(tmp_path / "torn", [0, 3, 6, 9, 12])
    (tmp_path / "torn" / "3.png").write_bytes(b"no image")
    source = open_source(FrameExposures(tmp_path), 64)
    with pytest.warns(UserWarning) as caught:
        first = source.first_usable([0, 2, 3, 1])
    assert len(caught) == 3 and all(str(warning.message).startswith("skipped: ") for warning in caught)
    assert "extents that do not rise: 0, nan, nan px" in source.faults[0]
    assert "extents that do not rise: 0, 0, 0 px" in source.faults[2]
    assert "3.png cannot be read as an image" in source.faults[3]
    assert first is not None and bool((first.extents.diff() > 0).all())
    with pytest.warns(UserWarning, match="must be at least 65 px high and wide"):
        assert open_source(FrameExposures(tmp_path), 65).first_usable([1]) is None


def test_exposures_without_a_sharp_frame_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "one", [0, 3, 6, 9, 12, 15, 18])
    with pytest.raises(ValueError, match=r"got counts \(1, 3\)"):
        open_source(FrameExposures(tmp_path, (1, 3)), 32)
    with pytest.raises(ValueError, match=r"got counts \(3, 5, 7\); write counts=\(1, 3, 5, 7\)"):
        open_source(FrameExposures(tmp_path, (3, 5, 7)), 32)


# ---- tensors and data sets ----


class Stream(IterableDataset[Tensor]):
    """An iterable that also has a length, as PyTorch allows."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.images)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def test_tensors_in_any_container_are_the_same_source(images: Tensor) -> None:
    labels = torch.arange(4)
    for container in (
        images,
        list(images),
        tuple(images.double()),
        [(image, 7) for image in images],
        (image for image in images),
        dict(enumerate(images)).values(),
        TensorDataset(images),
        TensorDataset(images, labels),
        Stream(images),
    ):
        source = open_source(container, 40)
        assert len(source.scenes) == 4 and len(set(source.scenes)) == 4
        for index in range(4):
            levels, extents = source[index]
            assert torch.equal(levels, images[index][None]) and extents.tolist() == [0.0]
            assert levels.dtype == torch.float32 and not levels.requires_grad


def test_an_iterable_is_read_once_and_a_data_set_only_when_asked(images: Tensor) -> None:
    class Counting(TensorDataset):
        asked: list[int] = []  # noqa: RUF012

        def __getitem__(self, index: int) -> Any:
            self.asked.append(index)
            return super().__getitem__(index)

    dataset = Counting(images, torch.arange(4))
    source = open_source(dataset, 40)
    assert dataset.asked == [] and source.description == "4 images of Counting"
    source[2]
    assert dataset.asked == [2]
    source = open_source(iter(list(images)), 40)
    assert torch.equal(source[1].levels, source[1].levels) and source.description == "4 tensors"


def test_a_data_set_is_never_asked_by_two_threads_at_once(images: Tensor) -> None:
    class Single(TensorDataset):
        busy = threading.Lock()

        def __getitem__(self, index: int) -> Any:
            assert self.busy.acquire(blocking=False), "asked by two threads"
            try:
                threading.Event().wait(0.002)
                return super().__getitem__(index)
            finally:
                self.busy.release()

    source = open_source(Single(images), 40)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda index: source[index % 4].levels[0], range(12)))
    assert torch.equal(torch.stack(read[:4]), images)


def test_grey_is_repeated_and_alpha_dropped_with_one_warning(images: Tensor) -> None:
    mixed = [images[0], images[1, :1], torch.cat([images[2], images[2, :1]])]
    with pytest.warns(UserWarning, match=r"2 of 3 images become RGB: images\[1\] \(1 channels\); images\[2\] \(4"):
        eager = open_source(mixed, 40)

    class Mixed(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return mixed[index]

    lazy = open_source(Mixed(torch.zeros(3)), 40)
    with pytest.warns(UserWarning, match=r"images become RGB, the first of them images\[1\]") as caught:
        items = [lazy[index] for index in (0, 1, 2, 1)]
    assert len(caught) == 1
    for index, expected in enumerate((images[0], images[1, :1].expand(3, -1, -1), images[2])):
        assert torch.equal(eager[index].levels[0], expected) and torch.equal(items[index].levels[0], expected)


def test_small_overshoots_are_clipped(images: Tensor) -> None:
    levels = open_source([images[0] * 1.04, images[1] - 0.04], 40)
    assert levels[0].levels.max() == 1 and levels[1].levels.min() == 0


def test_tensors_that_are_too_small_are_skipped_at_once_and_of_a_data_set_on_reading(images: Tensor) -> None:
    mixed = [images[0, :, :39], images[1]]
    with pytest.warns(
        UserWarning, match=r"1 of 2 images are skipped: images\[0\] must be at least 40 px .*got 39 x 48"
    ):
        source = open_source(mixed, 40)
    assert len(source.scenes) == 1 and torch.equal(source[0].levels[0], images[1])
    with pytest.raises(ValueError, match=r"all are skipped \(4\): images\[0\] must be at least 41 px"):
        open_source(images, 41)
    dataset = open_source(TensorDataset(images), 41)
    with pytest.warns(UserWarning, match=r"skipped: images\[3\] must be at least 41 px"):
        assert dataset.first_usable([3]) is None


@pytest.mark.parametrize("lazy", [False, True])
def test_tensors_that_are_no_images_are_refused_and_named(images: Tensor, lazy: bool) -> None:
    class Lazy(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return items[index]

    for wrong, error, message in (
        ((images[0] * 255).byte(), TypeError, r"images\[1\] must be .* got torch.uint8; .*images.float\(\) / 255"),
        (images[0] * 255, ValueError, r"images\[1\] must have values in \[0, 1\]"),
        (images[0].where(images[0] < 0.9, torch.nan), ValueError, r"images\[1\] must have values in .* got nan"),
        (images, ValueError, r"images\[1\] must have shape \(3, H, W\), got \(4, 3, 40, 48\); .*not batches"),
        (images[0].permute(1, 2, 0), ValueError, r"images\[1\] must have shape \(3, H, W\), got \(40, 48, 3\)"),
        (images[0, :2], ValueError, r"images\[1\] must have shape \(3, H, W\), got \(2, 40, 48\)"),
        (noise_image(), TypeError, r"images\[1\] must be a torch.Tensor, got Image"),
        ((), TypeError, r"images\[1\] must be a torch.Tensor, got tuple"),
    ):
        items: list[Any] = [images[0], wrong]
        with pytest.raises(error, match=message), warnings.catch_warnings():
            warnings.simplefilter("error")
            open_source(Lazy(torch.zeros(2)) if lazy else items, 32)[1]


def test_what_holds_no_images_is_refused(images: Tensor) -> None:
    for wrong in (None, 7, {"a": images[0]}, b"images"):
        with pytest.raises(TypeError, match=f"images must be a folder, .* got {type(wrong).__name__}"):
            open_source(wrong, 32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\), got \(3, 40, 48\)"):
        open_source(images[0], 32)
    with pytest.raises(TypeError, match="images must be a floating-point tensor"):
        open_source(images.byte(), 32)
