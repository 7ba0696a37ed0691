"""An evaluation gives what it says, goes on after an interruption, and refuses what does not belong together."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.deblurring.data.opening import open_pairs
from examples.deblurring.evaluation import methods, run
from examples.deblurring.evaluation.metrics import Measurement
from examples.deblurring.evaluation.similarity import psnr, ssim
from examples.deblurring.models.checkpoints import load_weights
from examples.deblurring.models.networks import create_network
from tafm_loss.images import read_pixels
from tests.examples.deblurring.evaluation_runs import FRAMES, NETWORK, SCENES, Evaluate, Refused, write_weights


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "images.csv", newline="") as file:
        return list(csv.DictReader(file))


def summary_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def test_the_input_has_the_values_of_the_blurred_images(run_on: Evaluate, gopro_root: Path, tmp_path: Path) -> None:
    assert run_on("input") == 0
    pairs = open_pairs("gopro", gopro_root, "test", complete=False)
    rows = lines(tmp_path / "out")
    assert [(row["name"], row["scene"]) for row in rows] == [(pair.name, pair.scene) for pair in pairs.pairs]
    for row, index in zip(rows, range(len(pairs)), strict=True):
        blurred, sharp = (image[None] / 255 for image in pairs[index])
        assert float(row["psnr"]) == pytest.approx(float(psnr(blurred, sharp)), abs=1e-4)
        assert float(row["ssim"]) == pytest.approx(float(ssim(blurred, sharp)), abs=1e-6)
        assert float(row["psnr_gain"]) == 0 and row["psnr_input"] == row["psnr"]


def test_perceptual_metrics_are_taken_with_the_networks_of_a_folder(
    run_on: Evaluate, refused: Refused, trunks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on("input", "--trunks", str(trunks), "--limit", "1", metrics="psnr,lpips,dists") == 0
    shown = capsys.readouterr().out
    assert "LPIPS: LPIPS 0.1 with AlexNet" in shown and "DISTS: DISTS with VGG16" in shown
    (row,) = lines(tmp_path / "out")
    assert 0 < float(row["lpips"]) < 1 and 0 < float(row["dists"]) < 1
    assert "--trunks must be a folder" in refused("input", "--trunks", "nowhere", metrics="lpips", out="none")
    # Wherever the networks lie, they are the same: the evaluation goes on.
    other = tmp_path / "other"
    other.symlink_to(trunks)
    assert run_on("input", "--trunks", str(other), metrics="psnr,lpips,dists") == 0
    assert len(lines(tmp_path / "out")) == SCENES * FRAMES


def test_a_network_is_measured_on_what_it_restores(
    run_on: Evaluate, gopro_root: Path, network_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on(network_file, *NETWORK, "--save-images") == 0
    shown = capsys.readouterr().out
    out = tmp_path / "out"
    pairs = open_pairs("gopro", gopro_root, "test", complete=False)
    network = create_network("residual-unet", width=4)
    load_weights(network, network_file)
    network.eval()
    expected = []
    for row, index in zip(lines(out), range(len(pairs)), strict=True):
        blurred, sharp = (image[None] / 255 for image in pairs[index])
        with torch.no_grad():
            restored = network(blurred)[-1].clamp(0, 1)
        expected.append(float(psnr(restored, sharp)))
        assert float(row["psnr"]) == pytest.approx(expected[-1], abs=1e-4)
        gain = expected[-1] - float(psnr(blurred, sharp))
        assert float(row["psnr_gain"]) == pytest.approx(gain, abs=1e-4)
        assert float(row["psnr_input"]) == pytest.approx(expected[-1] - gain, abs=1e-4)
        saved = read_pixels(out / "images" / f"{row['name']}.png")
        assert int((saved.int() - (restored[0] * 255).round().int()).abs().max()) <= 1
    summary = summary_of(out)
    assert summary["mean_over_images"]["psnr"] == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert summary["images"] == summary["images_in_set"] == SCENES * FRAMES and summary["scenes"] == SCENES
    assert summary["settings"]["network"]["options"] == {"width": 4} and summary["missing"] == {}
    assert summary["ecc_failures"] is None
    low, high = summary["interval"]["psnr"]
    assert low <= summary["mean_over_images"]["psnr"] <= high
    assert f"{sum(expected) / len(expected):.2f}" in shown
    assert "toprule" in (out / "table.tex").read_text() and "greatest gain" in (out / "page.html").read_text()
    assert all(scene in (out / "table.md").read_text() for scene in summary["scene_means"])


@pytest.mark.parametrize("torn", [b"", b"GOPR0384_11_00-0000", b"GOPR0384_11_00-000002,GOPR0384_11_00,3", b"\xe2\x82"])
def test_an_interrupted_evaluation_ends_as_an_unbroken_one(
    torn: bytes, run_on: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on("input", out="whole") == 0
    measured: list[Tensor] = []
    measure = Measurement.__call__

    def interrupted(self: Measurement, restored: Tensor, sharp: Tensor) -> dict[str, float]:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(restored)
        return measure(self, restored, sharp)

    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "__call__", interrupted)
        assert run_on("input") == 130
    assert "the same command goes on" in capsys.readouterr().err
    out = tmp_path / "out"
    assert len(lines(out)) == 1 and not (out / "summary.json").exists()
    with open(out / "images.csv", "ab") as file:
        file.write(torn)

    def counting(self: Measurement, restored: Tensor, sharp: Tensor) -> dict[str, float]:
        counted.append(restored)
        return measure(self, restored, sharp)

    counted: list[Tensor] = []
    monkeypatch.setattr(Measurement, "__call__", counting)
    assert run_on("input") == 0
    assert len(counted) == SCENES * FRAMES - 1
    for name in ("images.csv", "summary.json", "table.md", "table.tex"):
        mine, unbroken = ((tmp_path / folder / name).read_text() for folder in ("out", "whole"))
        assert mine.replace("out", "whole") == unbroken


def test_other_settings_or_weights_in_the_same_folder_are_refused_by_name(
    run_on: Evaluate, refused: Refused, tmp_path: Path
) -> None:
    file = write_weights(tmp_path / "w.safetensors")
    assert run_on(file, *NETWORK) == 0
    before = (tmp_path / "out" / "images.csv").read_bytes()
    error = refused(file, *NETWORK, "--ensemble", "4", "--limit", "3", "--save-images")
    assert "network ensemble is 1 there and 4 now" in error and "limit is null there and 3 now" in error
    assert 'network name is "residual-unet" there and null now' in refused("input")
    write_weights(file, shift=0.02)
    assert "network sha256 is" in refused(file, *NETWORK)
    assert (tmp_path / "out" / "images.csv").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert "holds other files and no settings.json" in refused("input")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_the_first_images_are_taken_and_the_result_says_so(run_on: Evaluate, tmp_path: Path) -> None:
    assert run_on("input", "--limit", "3") == 0
    out = tmp_path / "out"
    assert len(lines(out)) == 3 and summary_of(out)["images_in_set"] == 4
    for name in ("table.md", "table.tex", "page.html"):
        assert "only the first 3 of 4 images" in (out / name).read_text()


def test_pairs_that_cannot_be_read_are_left_out_by_name_until_they_can(
    run_on: Evaluate, refused: Refused, gopro_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(gopro_root, root)
    damaged = sorted(root.rglob("blur/*.png"))[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-40])
    assert run_on("input", root=root) == 0
    shown = capsys.readouterr()
    out = tmp_path / "out"
    (name,) = summary_of(out)["skipped"]
    assert f"warning: skipped {name}: {damaged} cannot be read as an image" in shown.err
    assert f"1 pair cannot be read and left out: {name}." in shown.out and "only the first" not in shown.out
    assert len(lines(out)) == SCENES * FRAMES - 1
    damaged.write_bytes(whole)
    assert run_on("input", root=root) == 0
    assert len(lines(out)) == SCENES * FRAMES and summary_of(out)["skipped"] == {}
    for path in root.rglob("blur/*.png"):
        path.write_bytes(b"")
    assert f"none of the {SCENES * FRAMES} pairs can be read" in refused("input", root=root, out="none")


def test_a_run_that_is_called_input_is_not_taken_for_the_blurred_images(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "config.json").touch()
    assert "write ./input for that" in refused("input")


def test_a_metric_that_cannot_be_had_is_named_and_the_others_go_on(
    run_on: Evaluate, refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on("input", metrics="psnr,niqe") == 0
    assert "niqe is missing: its parameters are not shipped" in capsys.readouterr().out
    out = tmp_path / "out"
    assert list(lines(out)[0]) == ["name", "scene", "psnr", "psnr_gain", "psnr_input"]
    assert list(summary_of(out)["missing"]) == ["niqe"]
    assert "niqe is missing" in (out / "table.md").read_text() and "niqe is missing" in (out / "page.html").read_text()
    assert "none of the metrics can be had: niqe: its parameters" in refused("input", metrics="niqe", out="none")
    assert not (tmp_path / "none").exists()


def test_alignment_is_reported_beside_the_plain_values(run_on: Evaluate, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    assert run_on("input", "--align", metrics="psnr") == 0
    out = tmp_path / "out"
    assert {"psnr", "psnr_ecc", "ssim_ecc", "ecc_failed"} <= lines(out)[0].keys()
    assert summary_of(out)["ecc_failures"] == 0


@pytest.mark.parametrize("ema", [False, True])
def test_the_folder_of_a_training_run_says_which_network_it_holds(ema: bool, run_on: Evaluate, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"network": {"name": "residual-unet", "options": {"width": 4}}}))
    last = write_weights(folder / "network.safetensors")
    mean = write_weights(folder / "network_ema.safetensors", shift=0.02)
    assert run_on(folder, *(["--ema"] if ema else [])) == 0
    network = summary_of(tmp_path / "out")["settings"]["network"]
    assert network["name"] == "residual-unet" and network["weights"] == str(mean if ema else last)


def test_the_files_of_a_training_run_have_the_names_that_training_gives_them() -> None:
    pytest.importorskip("omegaconf")
    from examples.deblurring.training import run as training

    names = training.CONFIG_FILE, training.WEIGHTS_FILE, training.AVERAGE_FILE
    assert names == (methods.RUN_FILE, methods.LAST_WEIGHTS, methods.MEAN_WEIGHTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FILE"], "--network must say which network the weights"),
        (["FILE", *NETWORK, "--ema"], "--ema is for the folder of a training run"),
        (["FOLDER"], "is no folder of a training run, for there is no config.json"),
        (["FOLDER", *NETWORK], "leave them out"),
        (
            ["input", *NETWORK, "--tlc", "--grid", "64"],
            "which --network, --network-options, --tlc, --grid would change",
        ),
        (["input", "--limit", "0"], "--limit must be 1 or more, got 0"),
        (["FILE", *NETWORK, "--tile", "192", "--grid", "256"], "give tile or grid, not both"),
        (["FILE", *NETWORK, "--overlap", "32"], "--overlap is of --tile"),
        (["FILE", *NETWORK, "--tlc"], "residual-unet takes no statistics over the image: leave --tlc out"),
        (
            ["FILE", "--network", "nafnet-32", "--network-options", "encoder_blocks=3"],
            "cannot be made with the options",
        ),
        (["input", "--niqe-parameters", "FILE"], "--niqe-parameters is for the metric niqe"),
        (["input", "--trunks", "."], "--trunks is for the metrics lpips and dists"),
        (["FILE", "--network", "hinet", "--network-options", "width=4"], "residual-unet"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_before_anything_is_written(
    arguments: list[str], message: str, refused: Refused, network_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    named = {"FILE": str(network_file), "FOLDER": str(folder)}
    error = refused(*(named.get(argument, argument) for argument in arguments))
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_finite_ends_the_evaluation_and_names_the_image(
    refused: Refused, network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "restore", lambda network, images, **_: images * math.nan)
    assert "GOPR0384_11_00-000001 has values that are not finite" in refused(network_file, *NETWORK)
    assert lines(tmp_path / "out") == []


def test_a_perfect_image_has_no_gain_over_a_perfect_input() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert run._gain(image, image, image) == {"psnr_gain": 0, "psnr_input": math.inf}
    assert run._gain(image, image * 0.9, image)["psnr_gain"] == math.inf
