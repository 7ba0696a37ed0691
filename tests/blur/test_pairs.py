"""Folders of pairs: what is in them, resumption, and refusals."""

import csv
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tafm_loss import __version__
from tafm_loss.blur import BlurSynthesizer, blur_extent, pairs
from tafm_loss.blur.light import add_sensor_noise
from tafm_loss.blur.pairs import PairsReport, crop_like, write_pairs
from tafm_loss.images import read_image

SIZE = (40, 44)


def synthesizer(**options: object) -> BlurSynthesizer:
    return BlurSynthesizer(**{"extents": (4.0, 8.5), "extent_jitter": 0.2, **options})  # type: ignore[arg-type]


def write(source: Path, out: Path, **options: object) -> PairsReport:
    blur = options.pop("synthesizer", None) or synthesizer()
    return write_pairs(source, out, blur, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with sub-folders of RGB, RGBA, 8-bit and 16-bit grey images."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), dtype=np.uint8)
    root = tmp_path / "photos"
    (root / "walk" / "day 1").mkdir(parents=True)
    Image.fromarray(noise[..., :3]).save(root / "b.png")
    Image.fromarray(noise).save(root / "walk" / "a.v2.png")
    Image.fromarray(noise[..., 0]).save(root / "walk" / "day 1" / "grey.TIF")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 256).save(root / "walk" / "deep.png")
    (root / "notes.txt").write_text("no image")
    return root


def table(out: Path) -> list[dict[str, str]]:
    with (out / "pairs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as file:
        assert file.mode == "RGB"
        return torch.from_numpy(np.array(file)).permute(2, 0, 1)


def names_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_the_folders_hold_pairs_of_the_same_names_with_their_sources_and_settings(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write(source, out) == PairsReport(written=8, kept=0, skipped=[])
    stems = ["b", "walk/a.v2", "walk/day 1/grey", "walk/deep"]
    expected = {f"{stem}_{extent}px.png" for stem in stems for extent in ("4", "8p5")}
    assert names_of(out / "input") == names_of(out / "target") == expected
    assert len(contents(out)) == 2 * 8 + 2
    for row in table(out):
        target = pixels(out / "target" / f"{row['name']}.png")
        assert torch.equal(target, (read_image(source / row["source"]) * 255).round().byte())
    stored = torch.from_numpy(np.array(Image.open(source / "b.png"))).permute(2, 0, 1)
    assert torch.equal(pixels(out / "target" / "b_4px.png"), stored)
    # One extent keeps the names as they are.
    assert write(source, tmp_path / "one", synthesizer=BlurSynthesizer((4.0,)), seed=3, read_noise=0.5).written == 4
    assert names_of(tmp_path / "one" / "input") == {f"{stem}.png" for stem in stems}
    found = json.loads((tmp_path / "one" / "settings.json").read_text())
    fixed = {"version": __version__, "source": "photos", "seed": 3, "shot_noise": 0.0, "read_noise": 0.5}
    fixed |= {"synthesizer": "BlurSynthesizer", "layout": "input-target"}
    assert found == {**fixed, **json.loads(json.dumps(BlurSynthesizer((4.0,)).settings()))}


def test_the_table_and_the_seed_in_it_remake_every_blurred_image(source: Path, tmp_path: Path) -> None:
    blur = synthesizer(kind={"shake": 1, "defocus": 1, "linear": 1})
    write(source, tmp_path / "out", synthesizer=blur, seed=5, shot_noise=1e-3, read_noise=1e-2)
    rows = table(tmp_path / "out")
    assert [row["source"] for row in rows[::2]] == ["b.png", "walk/a.v2.png", "walk/day 1/grey.TIF", "walk/deep.png"]
    seeds = {int(row["seed"]) for row in rows}
    assert len(seeds) == 4 and max(seeds) > 2**24
    for index, row in enumerate(rows):
        level = index % 2
        generator = torch.Generator().manual_seed(int(row["seed"]))
        drawn = blur.sample(1, generator=generator)
        levels = blur(read_image(source / row["source"])[None], kernels=drawn)[:, 0]
        noisy = add_sensor_noise(levels, shot=1e-3, read=1e-2, generator=generator)
        assert torch.equal(
            pixels(tmp_path / "out" / "input" / f"{row['name']}.png"), (noisy[level] * 255).round().byte()
        )
        assert row["kind"] == ("shake", "linear", "defocus", "gaussian")[int(drawn.kinds)]
        assert float(row["extent_px"]) == pytest.approx(float(drawn.extents[level]), abs=1e-4)
        assert float(row["measured_px"]) == pytest.approx(float(blur_extent(drawn.kernels)[level]), abs=1e-4)
        assert float(row["measured_px"]) == pytest.approx(float(row["extent_px"]), rel=0.1)


def test_blur_that_varies_is_measured_over_the_image_and_read_noise_alone_is_noise(
    source: Path, tmp_path: Path
) -> None:
    blur = BlurSynthesizer((6.0, 9.0), roll_deg=3.0)
    state = torch.get_rng_state()
    for noise in (0.0, 0.1):
        write(source, tmp_path / str(noise), synthesizer=blur, read_noise=noise)
    assert torch.equal(torch.get_rng_state(), state)
    for row in table(tmp_path / "0.1"):
        assert float(row["measured_px"]) == pytest.approx(float(row["extent_px"]), rel=0.05)
    clean, noisy = (pixels(tmp_path / noise / "input" / "b_6px.png") for noise in ("0.0", "0.1"))
    assert not torch.equal(clean, noisy)


class Cropping(BlurSynthesizer):
    """Crops what it has blurred, unlike above and below to the left and right."""

    def forward(self, *arguments: Any, **options: Any) -> torch.Tensor:
        return super().forward(*arguments, **options)[..., 3:-3, 5:-5]


def test_targets_are_cropped_as_the_blurred_images_are(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out", synthesizer=Cropping((4.0,)))
    write(source, tmp_path / "whole", synthesizer=BlurSynthesizer((4.0,)))
    for folder in ("input", "target"):
        whole = pixels(tmp_path / "whole" / folder / "b.png")
        assert torch.equal(pixels(tmp_path / "out" / folder / "b.png"), whole[:, 3:-3, 5:-5])


def test_pairs_depend_on_the_seed_but_not_on_what_else_is_in_the_folder(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "all")
    write(source, tmp_path / "other seed", seed=1)
    (source / "b.png").unlink()
    write(source, tmp_path / "fewer")
    every, fewer = contents(tmp_path / "all"), contents(tmp_path / "fewer")
    for name, data in fewer.items():
        assert name == "pairs.csv" or data == every[name]
    other = contents(tmp_path / "other seed")
    assert all(other[name] != data for name, data in every.items() if name.startswith("input"))
    assert all(other[name] == data for name, data in every.items() if name.startswith("target"))


class Interruption(BaseException):
    """What may come at any time, as KeyboardInterrupt does."""


@pytest.mark.parametrize("error", [OSError("no space left"), Interruption()], ids=["full disk", "interrupted"])
@pytest.mark.parametrize("files", [0, 1, 2, 6, 7])
def test_an_interrupted_run_is_taken_up_to_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, files: int
) -> None:
    noise = {"shot_noise": 1e-3}
    write(source, tmp_path / "whole", **noise)
    out, left, write_file = tmp_path / "out", [files], pairs.write_atomically

    def fail_after_some(path: Path, data: bytes) -> None:
        if path.suffix == ".png" or not files:
            if not left[0]:
                raise error
            left[0] -= 1
        write_file(path, data)

    monkeypatch.setattr(pairs, "write_atomically", fail_after_some)
    with pytest.raises(type(error)):
        write(source, out, **noise)
    monkeypatch.undo()
    complete = names_of(out / "input") & names_of(out / "target")
    assert len(complete) == files // 2
    if complete:
        assert {f"{row['name']}.png" for row in table(out)} == complete
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    report = write(source, out, **noise)
    assert (report.written, report.kept) == (8 - files // 2, files // 2)
    assert contents(out) == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_what_is_there_is_not_blurred_again_and_a_lost_table_is_made_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, tmp_path / "out")
    whole = contents(tmp_path / "out")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("blurred again")

    monkeypatch.setattr(BlurSynthesizer, "forward", refuse)
    assert write(source, tmp_path / "out") == PairsReport(0, 8, [])
    (tmp_path / "out" / "pairs.csv").unlink()
    assert write(source, tmp_path / "out") == PairsReport(0, 8, [])
    assert contents(tmp_path / "out") == whole
    # Pairs whose source has gone stay in the table.
    (source / "b.png").unlink()
    assert write(source, tmp_path / "out") == PairsReport(0, 6, [])
    assert contents(tmp_path / "out") == whole


def test_other_settings_are_refused_and_named(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(source, out)
    whole = contents(out)
    with pytest.raises(ValueError, match=r"seed is 0 there and 1 now; shot_noise is 0\.0 there and 0\.1 now; name ano"):
        write(source, out, seed=1, shot_noise=0.1)
    with pytest.raises(ValueError, match=r"extents is \[4\.0, 8\.5\] there and \[5\.0\] now"):
        write(source, out, synthesizer=synthesizer(extents=(5.0,)))
    shutil.copytree(source, tmp_path / "renamed")
    with pytest.raises(ValueError, match='source is "photos" there and "renamed" now'):
        write(tmp_path / "renamed", out)
    assert contents(out) == whole
    for text in ("{", "[]"):
        (out / "settings.json").write_text(text)
        with pytest.raises(ValueError, match=r"settings\.json is not what made these pairs"):
            write(source, out)


def test_the_layout_names_the_folders_and_nothing_else(source: Path, tmp_path: Path) -> None:
    usual, other = tmp_path / "usual", tmp_path / "other"
    write(source, usual)
    assert write(source, other, layout="blur-sharp").written == write(source, other, layout="blur-sharp").kept == 8
    assert contents(other / "blur") == contents(usual / "input")
    assert contents(other / "sharp") == contents(usual / "target")
    assert {path.name for path in other.iterdir() if path.is_dir()} == {"blur", "sharp"}
    with pytest.raises(ValueError, match='layout is "blur-sharp" there and "input-target" now'):
        write(source, other)
    with pytest.raises(ValueError, match="layout must be input-target or blur-sharp, got 'sharp-blur'"):
        write(source, tmp_path / "none", layout="sharp-blur")


def older(out: Path) -> None:
    """Turn a folder into one that was begun when names had dots and there was one layout."""
    settings = json.loads((out / "settings.json").read_text())
    del settings["layout"]
    (out / "settings.json").write_text(json.dumps(settings))
    for path in out.rglob("*_8p5px.png"):
        path.rename(path.with_name(path.name.replace("8p5", "8.5")))


@pytest.mark.parametrize("extents", [(4.0, 8.0), (8.5,)])
def test_an_older_folder_without_dots_is_taken_up(source: Path, tmp_path: Path, extents: tuple[float, ...]) -> None:
    blur = synthesizer(extents=extents)
    pairs_there = write(source, tmp_path / "out", synthesizer=blur).written
    older(tmp_path / "out")
    before = contents(tmp_path / "out")
    assert write(source, tmp_path / "out", synthesizer=blur) == PairsReport(0, pairs_there, [])
    assert contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match='layout is "input-target" there and "blur-sharp" now'):
        write(source, tmp_path / "out", synthesizer=blur, layout="blur-sharp")


def test_an_older_folder_with_dots_in_its_names_is_refused(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out")
    older(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"pairs of older names, with a dot as in NAME_8\.5px: name another folder"):
        write(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_folder_of_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.png").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds other files and no settings\.json: name a new folder"):
        write(source, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine.png": b"mine"}
    with pytest.raises(NotADirectoryError, match="is a file"):
        write(source, tmp_path / "out" / "mine.png")
    (tmp_path / "empty").mkdir()
    assert write(source, tmp_path / "empty").written == 8


def test_overlapping_folders_are_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    for read, written in ((source, source), (source, source / "out"), (source / "walk", source), (Path(), source)):
        before = contents(source)
        with pytest.raises(ValueError, match="may lie in the other"):
            write(read, written)
        assert contents(source) == before
    assert write(source, tmp_path / "photos pairs").written == 8


@pytest.mark.parametrize(("first", "second"), [("a.bmp", "a.png"), ("A.png", "a.webp")])
def test_two_sources_of_one_name_are_both_named(tmp_path: Path, first: str, second: str) -> None:
    (tmp_path / "in").mkdir()
    for name in (first, second):
        Image.new("RGB", SIZE).save(tmp_path / "in" / name)
    with pytest.raises(ValueError, match=rf"{first} and .*{second} would become the same pair a: rename one"):
        write(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_used_are_skipped_and_named(source: Path, tmp_path: Path) -> None:
    (source / "broken.jpg").write_text("no image")
    (source / "lost.png").symlink_to(tmp_path / "nowhere.png")
    Image.new("RGB", (9, 40)).save(source / "walk" / "narrow.png")
    with pytest.warns(UserWarning, match="skipped") as caught:
        report = write(source, tmp_path / "out")
    assert (report.written, report.kept) == (8, 0)
    messages = [str(warning.message) for warning in caught]
    reasons = {
        source / "broken.jpg": "cannot be read as an image",
        source / "lost.png": "No such file",
        source / "walk" / "narrow.png": "allow at most",
    }
    assert [path for path, _ in report.skipped] == list(reasons)
    for (path, reason), message in zip(report.skipped, messages, strict=True):
        assert reasons[path] in reason and message == f"skipped {path}: {reason}"
    assert len(table(tmp_path / "out")) == 8


def test_nothing_is_written_if_no_image_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=r"there is no image \(\.bmp, .*\) in .*in"):
        write(tmp_path / "in", tmp_path / "out")
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "small.png")
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"none of the 1 images .*small\.png: .*allow at most"),
    ):
        warnings.simplefilter("ignore", UserWarning)
        write(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arguments_that_make_no_sense_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"extents above 0, got \(0\.0, 5\.0\)"):
        write(source, tmp_path / "out", synthesizer=BlurSynthesizer((0.0, 5.0)))
    with pytest.raises(TypeError, match="must be a BlurSynthesizer, got str"):
        write(source, tmp_path / "out", synthesizer="shake")
    with pytest.raises(ValueError, match="shot and read noise must"):
        write(source, tmp_path / "out", shot_noise=-1.0)
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*nowhere"):
        write(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_are_never_made_of_pairs_by_way_of_a_link(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out")
    (source / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match=r"photos/link/.* leads into the folder of the pairs, .*out: remove that link"):
        write(source, tmp_path / "out")


def test_a_blur_that_fits_no_image_is_not_drawn(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tafm_loss.blur.synthesizer.point_spread_functions", None)
    with pytest.raises(ValueError, match=r"an extent of 900\.0 px needs a"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        write(source, tmp_path / "out", synthesizer=BlurSynthesizer((900.0,)))


def test_cropping_like_a_smaller_image_keeps_the_centre() -> None:
    image = torch.arange(35.0).view(1, 5, 7)
    assert torch.equal(crop_like(image, torch.empty(1, 3, 5)), image[:, 1:4, 1:6])
    assert torch.equal(crop_like(image, image), image)


def test_halves_of_pairs_do_not_mix(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(source, out)
    before = contents(out)
    names = sorted(name for name in before if name.startswith("input/b"))
    for name in names:
        (out / name).unlink()
    write(source, out)
    assert contents(out) == before
    head, _, *rows = (out / "pairs.csv").read_text().splitlines(keepends=True)
    (out / "pairs.csv").write_text("".join([head, *rows]))
    write(source, out)
    assert contents(out) == before
    for name in names:
        (out / name).unlink()
    path = source / "b.png"
    Image.new("RGB", Image.open(path).size, (9, 9, 9)).save(path)
    with pytest.warns(UserWarning, match=r"skipped .*b\.png.*is there without its other half and of other content"):
        report = write(source, out)
    assert [skipped.name for skipped, _ in report.skipped] == [path.name]
    assert not any((out / name).exists() for name in names)


@pytest.mark.parametrize(
    "damage", ["a\n", "oops", "a,b\n1,2\n", "name,source,kind,extent_px,measured_px,seed\na\n", b"\xff\xfe"]
)
def test_a_damaged_table_is_named(damage: str | bytes, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(source, out)
    whole = (out / "pairs.csv").read_bytes()
    (out / "pairs.csv").write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    if damage in ("a\n", "oops"):
        # A header without rows: nothing is lost, and rows are drawn again.
        write(source, out)
        assert (out / "pairs.csv").read_bytes() == whole
        return
    with pytest.raises(ValueError, match=r"pairs\.csv is no table .*: delete it, and it is made anew"):
        write(source, out)


@pytest.mark.skipif(sys.platform != "linux", reason="file names need not be UTF-8 on Linux only")
def test_names_that_are_long_or_not_utf8_do_no_harm(source: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(source / f"{'n' * 230}.png")
    Image.new("RGB", (64, 64)).save(os.fsencode(source) + b"/\xff.png", format="PNG")
    with pytest.warns(UserWarning, match="its name is not UTF-8"):
        report = write(source, tmp_path / "out")
    assert len(report.skipped) == 1
    assert len(list((tmp_path / "out" / "input").glob("nnn*"))) >= 1


def test_of_many_reasons_the_most_telling_one_is_given(source: Path, tmp_path: Path) -> None:
    (source / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"none of the .* can be used; .*needs a"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_pairs(source, tmp_path / "out", BlurSynthesizer((500.0,)), progress=False)
