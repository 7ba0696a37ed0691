"""Results on the same images are set side by side; others are not."""

import json
from pathlib import Path

import pytest

from examples.deblurring import compare
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
    assert "ssim" not in content["differences"]["far"]
    page = (tmp_path / "c" / "page.html").read_text()
    # The input is one of the results, and is shown once all the same.
    assert page.count("<figcaption>input") == page.count("<figcaption>near") == page.count("<figcaption>far") == 3
    assert "<figcaption>blurred" not in page


def test_saved_images_are_compared_without_the_weights(run_on: Evaluate, tmp_path: Path) -> None:
    file = write_weights(tmp_path / "w.safetensors")
    assert run_on("input", out="a") == run_on(file, *NETWORK, "--save-images", out="b") == 0
    file.unlink()
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0


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
    assert not (tmp_path / "c").exists()
