"""What befalls the folder of a run, and what is left of the run then."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from tafm_loss import Backbone, BlurSynthesizer, finetune_backbone, load_backbone
from tafm_loss.finetune import GradedObjective, Measured
from tafm_loss.mdf import NoiseDegradation, train_discriminators
from tafm_loss.runs import locked
from tests.finetune.conftest import SMALL, weights
from tests.runs.full_disk import full_disk

Run = Any


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def run(backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path) -> Run:
    def call(images: Any = scenes, **options: Any) -> Any:
        given = {"synthesizer": blur, "steps": 1, "out_dir": tmp_path / "out", **SMALL, **options}
        return finetune_backbone(backbone, images, **given)

    return call


def after_a_step(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    terms = GradedObjective.terms

    def call(self: GradedObjective, measured: Measured) -> dict[str, Tensor]:
        happens()
        return terms(self, measured)

    monkeypatch.setattr(GradedObjective, "terms", call)


def test_a_folder_that_another_run_holds_is_refused_and_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".notes.tmp").write_text("mine")
    with locked(tmp_path / "out"), pytest.raises(BlockingIOError, match=rf"in use by process {os.getpid()} on "):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".notes.tmp"]
    run()
    assert (tmp_path / "out" / ".notes.tmp").read_text() == "mine"


def test_two_trainings_of_discriminators_in_one_folder_are_refused(scenes: Tensor, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BlockingIOError, match="in use by process"):
        train_discriminators(scenes[0], NoiseDegradation(), scales=1, steps=1, out_dir=tmp_path, progress=False)


def test_a_run_that_ended_while_another_was_about_to_begin_is_not_written_over(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()
        run()
        return locked(tmp_path / "out")

    monkeypatch.setattr("tafm_loss.finetune.trainer.locked", other)
    with pytest.raises(ValueError, match=r"holds checkpoint\.pt of an earlier run"):
        run()


def test_a_folder_that_is_gone_or_closed_at_the_end_does_not_cost_the_tuned_weights(
    run: Run, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(run(out_dir=None).backbone)
    after_a_step(monkeypatch, lambda: shutil.rmtree(tmp_path / "out", ignore_errors=True))
    # A file in place of the folder stands for one that may only be read, which nothing is for the user root.
    monkeypatch.setattr("tafm_loss.finetune.loop.Loop.run", closing(tmp_path / "out"))
    with pytest.raises(OSError, match=r"the tuned backbone could not be written to .*out: .*; it is safe in .*out-"):
        run()
    (rescued,) = temporary.iterdir()
    assert torch.equal(weights(load_backbone(rescued)), whole)


def closing(folder: Path) -> Any:
    from tafm_loss.finetune.loop import Loop

    train = Loop.run

    def call(self: Loop, *arguments: Any) -> bool:
        with pytest.warns(UserWarning, match=r"the checkpoint of step 1 could not be written to .*checkpoint\.pt"):
            finished = train(self, *arguments)
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_bytes(b"")
        return finished

    return call


def test_a_disk_that_is_full_at_the_end_keeps_the_checkpoint_and_says_what_is_safe(
    run: Run, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(run(out_dir=None).backbone)
    warned = pytest.warns(UserWarning, match=r"checkpoint of step 1 could not be .*disk full\?")
    lost = (
        r"could not be written to .*out: .*out/model\.safetensors'; nor to a temporary folder: .*model\.safetensors'$"
    )
    with full_disk(2000), warned, pytest.raises(OSError, match=lost):
        run()
    run(resume=True)
    assert torch.equal(weights(load_backbone(tmp_path / "out")), whole)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "out" / name).unlink()
    kept = r"checkpoint\.pt is kept: make space, and resume"
    with full_disk(2000), pytest.raises(OSError, match=kept):
        run(resume=True)


def test_a_report_that_cannot_be_written_says_that_the_backbone_is_safe(
    run: Run, scenes: Tensor, tmp_path: Path, quick_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "report.png")

    monkeypatch.setattr("tafm_loss.finetune.trainer.write_reports", full)
    with pytest.raises(OSError, match=r"the report could not be .*report\.png.*; the tuned backbone is safe in .*out"):
        run(validation=scenes)
    assert load_backbone(tmp_path / "out").config.measurements


def test_a_run_does_not_go_on_with_other_images(run: Run, backbone: Backbone, scenes: Tensor, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, scene in enumerate(scenes):
        save_image(scene, photographs / f"{number}.png")
    images = {"images": photographs, "resume": True}
    assert run(**images).finished and run(**images).finished
    (photographs / "0.png").rename(photographs / "00.png")
    with pytest.raises(ValueError, match=r"of another run: .*6 images of photographs, named [0-9a-f]{8}, from"):
        run(**images)


def test_gradients_that_the_caller_has_switched_off_do_not_matter(run: Run) -> None:
    with torch.no_grad():
        switched_off = run(out_dir=None).backbone
        assert not torch.is_grad_enabled()
    assert torch.equal(weights(switched_off), weights(run(out_dir=None).backbone))
