"""Results on the same images are set side by side; others are not."""

import json
import shutil
from pathlib import Path

import pytest

from examples.deblurring import compare
from examples.deblurring.data.files import encode_png
from tafm_loss.images import read_pixels
from tests.examples.deblurring.evaluation_runs import NETWORK, SCENES, Evaluate, write_weights


def test_results_are_compared_with_the_first_one(
    run_on: Evaluate, network_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_weights(tmp_path / "other.safetensors", shift=0.05)
    assert run_on("input", out="blurred") == run_on(network_file, *NETWORK, out="near") == 0
    assert run_on(other, *NETWORK, out="far", metrics="psnr") == 0
    capsys.readouterr()
    folders = [str(tmp_path / name) for name in ("blurred", "near", "far")]
    assert compare.main([*folders, "--out", str(tmp_path / "c"), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "Mean over images of the method's value less that of blurred." in shown
    content = json.loads((tmp_path / "c" / "comparison.json").read_text())
    means = {label: found["mean_over_images"]["psnr"] for label, found in content["results"].items()}
    assert list(means) == ["blurred", "near", "far"]
    for label in ("near", "far"):
        difference = content["differences"][label]["psnr"]
        assert difference["mean"] == pytest.approx(means[label] - means["blurred"])
        assert difference["scenes"] == SCENES and difference["exact"] and difference["p_holm"] >= difference["p"]
    assert "ssim" not in content["differences"]["far"] and "psnr_input" not in content["differences"]["far"]
    assert "SSIM (RGB) was not measured of far." in shown
    page = (tmp_path / "c" / "page.html").read_text()
    # The input is one of the results, and is shown once all the same.
    assert page.count("<figcaption>input") == page.count("<figcaption>near") == page.count("<figcaption>far") == 3
    assert "<figcaption>blurred" not in page


def test_what_cannot_be_compared_is_refused(
    run_on: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*folders: str) -> str:
        assert compare.main([*(str(tmp_path / folder) for folder in folders), "--out", str(tmp_path / "c")]) == 2
        return capsys.readouterr().err

    assert run_on("input", out="a") == run_on("input", "--limit", "2", out="b") == 0
    assert "2 images are in one of the two results alone" in refused("a", "b")
    assert "needs two results or more, got 1" in refused("a")
    assert "given twice" in refused("a", "a")
    assert "holds no evaluation" in refused("a", "gone")
    (tmp_path / "b" / "summary.json").unlink()
    assert "has not come to its end" in refused("a", "b")
    settings = json.loads((tmp_path / "a" / "settings.json").read_text())
    (tmp_path / "d").mkdir()
    for name in ("images.csv", "summary.json"):
        (tmp_path / "d" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    (tmp_path / "d" / "settings.json").write_text(json.dumps(settings | {"split": "train"}))
    assert 'split is "test" and "train"' in refused("a", "d")
    assert "given twice" in refused("a", "a/../a")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("metrics", ["psnr", "ssim"])
def test_results_on_other_pixels_of_the_same_names_are_refused(
    metrics: str, run_on: Evaluate, gopro_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "GOPRO"
    shutil.copytree(gopro_root, root)
    blurred = sorted(root.glob("test/*/blur/*.png"))[1]
    blurred.write_bytes(encode_png(read_pixels(blurred).flip(2)))
    assert run_on("input", out="a", metrics=metrics) == run_on("input", out="b", root=root, metrics=metrics) == 0
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 2
    error = capsys.readouterr().err
    assert "a and b are not of the same images: of 1, the input has another PSNR" in error and blurred.stem in error
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("gone", ["weights", "data"])
def test_tables_need_neither_data_nor_weights(
    gone: str, run_on: Evaluate, gopro_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, root = write_weights(tmp_path / "w.safetensors"), tmp_path / "GOPRO"
    shutil.copytree(gopro_root, root)
    assert run_on("input", out="a", root=root) == run_on(file, *NETWORK, out="b", root=root) == 0
    file.unlink() if gone == "weights" else shutil.rmtree(root)
    capsys.readouterr()
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    shown = capsys.readouterr()
    assert "There are no crops, for images cannot be restored again: " in shown.err and "gain" in shown.out
    page = (tmp_path / "c" / "page.html").read_text()
    assert "There are no crops" in page and "<img" not in page and "Differences from a" in page


def test_the_files_of_an_evaluation_are_not_replaced_by_those_of_a_comparison(
    run_on: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on("input", out="a") == run_on("input", out="b") == 0
    before = (tmp_path / "a" / "table.md").read_bytes()
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "a")]) == 2
    assert "holds an evaluation, whose tables the comparison's would replace" in capsys.readouterr().err
    assert (tmp_path / "a" / "table.md").read_bytes() == before


def test_results_of_different_versions_are_said_to_be_so(
    run_on: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on("input", out="a") == run_on("input", out="b") == 0
    folders = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]
    assert compare.main(folders) == 0
    assert "different versions" not in capsys.readouterr().out
    path = tmp_path / "b" / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "0.0.9"}))
    assert compare.main(folders) == 0
    shown = capsys.readouterr().out
    assert "are of different versions of tafm-loss" in shown and "tafm-loss 0.0.9." in shown
