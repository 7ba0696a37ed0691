"""The folder of an evaluation: who may write to it, which settings may go on in it, and what its tables say of them."""

import os
import shutil
from pathlib import Path

import pytest
from torch import Tensor

from examples.deblurring.evaluation.metrics import Measurement
from examples.deblurring.evaluation.settings import read_settings, with_defaults
from tafm_loss.runs import locked
from tests.examples.deblurring.evaluation_runs import NETWORK, Evaluate, Refused


def names(folder: Path) -> list[str]:
    return [line.split(",")[0] for line in (folder / "images.csv").read_text().splitlines()[1:]]


def test_two_evaluations_do_not_write_to_one_folder_at_once(run_on: Evaluate, refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out):
        assert f"{out} is in use by process {os.getpid()} on " in refused("input")
        assert [path.name for path in out.iterdir()] == [".lock"]
    assert run_on("input") == 0 and len(names(out)) == 4


def test_the_limit_may_grow_and_never_shrink(
    run_on: Evaluate, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run_on("input", "--limit", "2") == 0
    before = names(out)
    assert run_on("input", "--limit", "3") == 0
    assert names(out)[:2] == before and len(names(out)) == 3 and read_settings(out).limit == 3
    assert "limit is 3 there and 2 now" in refused("input", "--limit", "2")
    # What was said of three images is not taken for what there is of four.
    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "__call__", interrupt)
        assert run_on("input") == 130
    assert not (out / "summary.json").exists()
    assert run_on("input") == 0 and len(names(out)) == 4 and read_settings(out).limit is None


def interrupt(self: Measurement, restored: Tensor, sharp: Tensor) -> dict[str, float]:
    raise KeyboardInterrupt


def test_other_spellings_of_the_same_settings_are_the_same(
    run_on: Evaluate, gopro_root: Path, network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_on(network_file, *NETWORK) == 0
    monkeypatch.chdir(network_file.parent)
    assert run_on(network_file.name, *NETWORK, root=f"{gopro_root}/../{gopro_root.name}/", complete="False") == 0
    settings = read_settings(tmp_path / "out")
    assert settings.root == str(gopro_root.resolve())
    assert settings.network is not None and settings.network.weights == str(network_file.resolve())


def test_options_that_are_not_given_are_recorded_with_their_defaults() -> None:
    assert with_defaults("gopro", {"complete": False}) == {"blur": "blur", "complete": False}
    found = with_defaults("synthetic", {"seed": 3})
    assert found["extents"] == [3.0, 13.0] and found["kind"] == "shake" and found["seed"] == 3
    assert with_defaults("flat", {}) == {"one_scene": False}
    with pytest.raises(ValueError, match="no data set"):
        with_defaults("photos", {})


def test_the_table_says_what_was_evaluated_and_by_which_version(
    run_on: Evaluate, network_file: Path, tmp_path: Path
) -> None:
    assert run_on(network_file, *NETWORK, "--grid", "32") == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert 'gopro, test (blur "blur", complete false): residual-unet (width 4)' in table
    assert f"weights {network_file.parent.name}/{network_file.name}, sha256" in table
    assert "grid of 32 px (images no larger are seen whole)" in table
    assert f"; tafm-loss {read_settings(tmp_path / 'out').version}." in table


def test_images_that_the_data_set_no_longer_has_are_told(run_on: Evaluate, refused: Refused, tmp_path: Path) -> None:
    assert run_on("input") == 0
    path = tmp_path / "out" / "images.csv"
    before = path.read_text().replace("GOPR0384_11_00-000002", "GOPR0384_11_00-000099")
    path.write_text(before)
    assert "1 images that the data set does not have, the first GOPR0384_11_00-000099" in refused("input")
    assert path.read_text() == before


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:99"])
def test_a_device_that_cannot_be_used_is_told_in_one_line(device: str, refused: Refused, tmp_path: Path) -> None:
    error = refused("input", device=device)
    assert f"--device {device} cannot be used" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mark", ["\r", "\n", "\x1b"])
def test_a_name_that_would_break_the_table_is_refused_before_anything_is_measured(
    mark: str, refused: Refused, gopro_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "GOPRO"
    shutil.copytree(gopro_root, root)
    (scene, *_) = sorted((root / "test").iterdir())
    scene.rename(scene.with_name(f"GOPR{mark}1"))
    assert "has characters that no table can hold: rename the file" in refused("input", root=root)
    assert not (tmp_path / "out").exists()
