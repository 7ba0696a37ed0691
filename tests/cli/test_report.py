"""`tafm-loss report` as a user meets it."""

import json
import sys
from pathlib import Path

import pytest

import tafm_loss
from tafm_loss.cli import main
from tafm_loss.report import collected as module


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail as a user's mistake does, and return its last line."""
    assert main(["report", *arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("tafm-loss: error: ")
    return line


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of five images and a file that is none."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for index in range(5):
        Image.effect_noise((50, 40), 40 + index).convert("RGB").save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "photos" / "z.jpg").write_text("not an image")
    return tmp_path / "photos"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.recovery
    monkeypatch.setattr(module, "recovery", lambda *args, **options: whole(*args, **options, steps=2))


def test_one_backbone(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None) -> None:
    out = tmp_path / "a" / "out"
    assert main(["report", "tafm-compact", "--images", str(photos), "--out", str(out), "--most", "3"]) == 0
    captured = capsys.readouterr()
    figures = json.loads((out / "report.json").read_text())
    name = tafm_loss.create_backbone("tafm-compact").config.name
    assert list(figures) == [name] and figures[name]["images"] == 3
    assert captured.out.splitlines()[0].strip() == name and str(out / "report.png") in captured.out
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    skipped = [line for line in captured.err.splitlines() if "z.jpg" in line]
    assert len(skipped) == 1 and skipped[0].startswith("tafm-loss: ")
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "report.png"]


def test_before_and_after(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None) -> None:
    saved = tafm_loss.save_backbone(tafm_loss.create_backbone("tafm-compact", layers=["stage1"]), tmp_path / "tuned")
    weights = str(saved / "model.safetensors")
    command = ["report", str(saved), "--images", str(photos), "--out", str(tmp_path / "out"), "--most", "2"]
    assert main([*command, "--before", "tafm-compact", "--before-weights", weights]) == 0
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(figures) == ["before", "after"]
    # The same weights by two ways.
    assert figures["before"]["selectivity"] == figures["after"]["selectivity"]
    assert capsys.readouterr().out.splitlines()[0].split() == ["before", "after"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tafm-compakt"], "no backbone is called 'tafm-compakt'; did you mean 'tafm-compact'"),
        (["tafm-compact", "--before", "nowhere/"], "nowhere/"),
        (["tafm-compact", "--before-weights", "x.pth"], "--before, which is not given"),
        (["tafm-compact", "--weights", "x.pth"], "x.pth"),
        (["tafm-compact", "--most", "0"], "--most must be at least 1, got 0"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert message in fails(capsys, *arguments, "--images", str(photos), "--out", str(out))
    assert not out.exists()


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no folder" in fails(capsys, "tafm-compact", "--images", str(tmp_path / "nowhere"))


def test_without_matplotlib_it_says_what_to_install_before_measuring(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "tafm-loss[plots]"' in fails(
        capsys, "tafm-compact", "--images", str(photos), "--out", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()
