"""`tafm-loss finetune`: what reaches the trainer, what is refused before it starts, and what is said at the end."""

import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tafm_loss
from tafm_loss.blur.frames import FrameExposures
from tafm_loss.cli import main
from tafm_loss.finetune import FinetuneResult, GradedObjective, TripletObjective, default_synthesizer
from tafm_loss.scenes import generate_scenes

COMPACT = "tafm-compact"


class Trainer:
    """Stands in for `finetune_backbone`: keeps what it is called with, and returns the backbone as it is."""

    def __init__(self) -> None:
        self.backbone: Any = None
        self.images: Any = None
        self.options: dict[str, Any] = {}
        self.report: dict[str, Any] = {}
        self.finished = True
        self.before_return: Callable[[], None] = lambda: None

    def __call__(self, backbone: Any, images: Any, **options: Any) -> FinetuneResult:
        self.backbone, self.images, self.options = backbone, images, options
        self.before_return()
        return FinetuneResult(backbone, [], self.report, self.finished)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr("tafm_loss._commands.finetune_backbone", stand_in)
    return stand_in


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of four images, and one that is cut in half."""
    from torchvision.utils import save_image

    folder = tmp_path / "photos"
    folder.mkdir()
    for index, scene in enumerate(generate_scenes(4, 48, generator=torch.Generator().manual_seed(0))):
        save_image(scene, folder / f"{index}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:40])
    return folder


def run(out: Path, *arguments: str) -> int:
    return main(["finetune", *arguments, "--out", str(out)])


def fails(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> str:
    """Run a command that must fail as a user's mistake does, and return its one line."""
    assert run(out, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tafm-loss: error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def test_a_plain_command_leaves_the_trainer_its_defaults(trainer: Trainer, photos: Path, out: Path) -> None:
    assert run(out, COMPACT, str(photos)) == 0
    assert trainer.backbone.sha256 == tafm_loss.create_backbone(COMPACT).sha256 and trainer.images == photos
    objective = trainer.options.pop("objective")
    assert (objective.distractors, objective.geometry, objective.extent) == (True, 0.0, 0.0)
    assert trainer.options == {
        "synthesizer": None,
        "steps": 2000,
        "batch_size": 6,
        "crop_size": 96,
        "learning_rate": None,
        "validation": 0.1,
        "out_dir": out,
        "resume": False,
        "seed": 0,
        "mixed_precision": "no",
        "trainable": None,
        "accumulation": 1,
        "patience": None,
        "progress": True,
    }


def test_options_of_training_reach_the_trainer(trainer: Trainer, photos: Path, out: Path) -> None:
    command = "--steps 7 --batch-size 4 --crop-size 48 --learning-rate 1e-4 --seed 3 --mixed-precision bf16 --resume"
    command += " --trainable stem head.0 --accumulation 2 --patience 5"
    assert run(out, COMPACT, str(photos), "--validation", str(photos), *command.split()) == 0
    expected = {
        "steps": 7,
        "batch_size": 4,
        "crop_size": 48,
        "learning_rate": 1e-4,
        "validation": photos,
        "resume": True,
        "seed": 3,
        "mixed_precision": "bf16",
        "trainable": ["stem", "head.0"],
        "accumulation": 2,
        "patience": 5,
    }
    assert {name: trainer.options[name] for name in expected} == expected


def test_the_objective_is_what_the_options_say(trainer: Trainer, photos: Path, out: Path) -> None:
    weights = ["--no-distractors", "--geometry", "0.5", "--extent-regression", "0.25"]
    assert run(out, COMPACT, str(photos), *weights) == 0
    objective = trainer.options["objective"]
    assert (objective.distractors, objective.geometry, objective.extent) == (False, 0.5, 0.25)
    assert run(out, COMPACT, str(photos), "--objective", "triplet") == 0
    assert isinstance(trainer.options["objective"], TripletObjective)


def test_blur_is_what_the_options_say_and_else_as_usual(trainer: Trainer, photos: Path, out: Path) -> None:
    usual = default_synthesizer().settings()
    assert run(out, COMPACT, str(photos), "--extents", "4", "9") == 0
    kinds = pytest.approx(usual["kinds"])
    assert trainer.options["synthesizer"].settings() == usual | {"extents": (0.0, 4.0, 9.0), "kinds": kinds}
    assert run(out, COMPACT, str(photos), "--kind", "shake=3", "linear") == 0
    assert trainer.options["synthesizer"].settings() == usual | {"kinds": {"shake": 0.75, "linear": 0.25}}


def test_generated_scenes_are_those_of_the_seed_and_others_for_validation(trainer: Trainer, out: Path) -> None:
    assert run(out, COMPACT, "generated:3", "--validation", "generated:3", "--seed", "5") == 0
    scenes, held_out = trainer.images, trainer.options["validation"]
    assert torch.equal(scenes, generate_scenes(3, 160, generator=torch.Generator().manual_seed(5)))
    assert held_out.shape == scenes.shape and not any(torch.equal(a, b) for a in scenes for b in held_out)


def test_generated_scenes_are_400_and_as_large_as_the_crops(
    trainer: Trainer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tafm_loss._commands.generate_scenes", lambda n, size, *, generator: (n, size))
    assert run(out, COMPACT, "generated", "--crop-size", "200") == 0
    assert trainer.images == (400, 200)


def test_frames_are_read_as_exposures_for_training_and_validation(trainer: Trainer, tmp_path: Path, out: Path) -> None:
    from torchvision.utils import save_image

    (tmp_path / "scene").mkdir()
    for number in range(7):
        save_image(torch.full((3, 40, 40), number / 10), tmp_path / "scene" / f"{number}.png")
    place = str(tmp_path)
    assert run(out, COMPACT, place, "--frames", "--counts", "1", "3", "7", "--validation", place) == 0
    for images in (trainer.images, trainer.options["validation"]):
        assert isinstance(images, FrameExposures) and images.counts == (1, 3, 7)
    assert run(out, COMPACT, place, "--frames") == 0
    assert trainer.images.counts == (1, 3, 5) and trainer.options["validation"] == 0.1


def test_layers_apply_to_any_source_and_a_file_of_weights_to_a_name(
    trainer: Trainer, photos: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tafm_loss.save_backbone(tafm_loss.create_backbone(COMPACT), tmp_path / "mine")
    tap = next(iter(tafm_loss.create_backbone(COMPACT).config.taps))
    assert run(out, COMPACT, str(photos), "--weights", str(folder / "model.safetensors"), "--layers", tap) == 0
    assert list(trainer.backbone.config.taps) == [tap]
    assert run(out, str(folder), str(photos), "--layers", tap) == 0
    assert list(trainer.backbone.config.taps) == [tap]
    assert "is no name in list_backbones" in fails(capsys, out, str(folder), str(photos), "--weights", "none")
    assert run(out, str(folder), str(photos)) == 0
    assert trainer.backbone.sha256 == tafm_loss.create_backbone(COMPACT).sha256


def test_a_random_start_is_that_of_the_seed_and_needs_no_warning(
    trainer: Trainer, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.random.get_rng_state()
    starts = []
    for seed in ("0", "0", "1"):
        assert run(out, COMPACT, str(photos), "--weights", "none", "--seed", seed) == 0
        starts.append(trainer.backbone.sha256)
    assert starts[0] == starts[1] != starts[2]
    assert torch.equal(torch.random.get_rng_state(), state) and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "triplet", "--geometry", "1"], "belong to --objective graded"),
        (["--objective", "triplet", "--no-distractors"], "belong to --objective graded"),
        (["--geometry", "-1"], "weights of 0 or more"),
        (["--counts", "1", "3"], "--counts says how many video frames are averaged; it needs --frames"),
        (["--frames", "--extents", "3", "9"], "with --frames it comes from the frames"),
        (["--frames", "--validation", "generated"], "generated scenes are no video frames"),
        (["--extents", "9", "3"], "extents must be finite, rise strictly"),
        (["--kind", "zoom"], "unknown kind of blur 'zoom'"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--layers", "stem9"], "stem9"),
        (["--extents", "1", "1e6"], "be 0.001 to 1000 px"),
        (["--validation", "generated:100000000"], "100000000 generated scenes of 160 x 160 px need 2.86e+04 GiB"),
        (["--validation", "generated:many"], "generated:COUNT takes a number of scenes, got generated:many"),
    ],
)
def test_options_that_make_no_sense_are_told_in_one_line(
    trainer: Trainer, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    from torchvision.utils import save_image

    for number in range(5):
        save_image(torch.zeros(3, 40, 40), tmp_path / f"{number}.png")
    assert message in fails(capsys, out, COMPACT, str(tmp_path), *options)
    assert trainer.backbone is None and not out.exists()


@pytest.mark.parametrize("arguments", [["generated"], ["photos", "--validation", "none"]])
def test_a_word_that_names_a_folder_as_well_is_refused_and_its_path_is_taken(
    trainer: Trainer,
    photos: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    word = arguments[-1]
    photos.with_name(word).symlink_to(photos)
    monkeypatch.chdir(photos.parent)
    assert f"write ./{word} for the path" in fails(capsys, out, COMPACT, *arguments)
    assert run(out, COMPACT, *arguments[:-1], f"./{word}") == 0
    assert Path(word) in (trainer.images, trainer.options["validation"])


def test_a_mistyped_backbone_says_what_is_near(
    trainer: Trainer, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean 'tafm-compact'" in fails(capsys, out, "tafm-compakt", str(photos))


def test_device_and_quiet_reach_the_trainer(
    trainer: Trainer, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str | None] = []
    trainer.before_return = lambda: seen.append(os.environ.get("ACCELERATE_TORCH_DEVICE"))  # where accelerate looks
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    assert run(out, COMPACT, str(photos), "--device", "cpu", "--quiet") == 0
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert run(out, COMPACT, str(photos), "--device", "cpu", "--quiet") == 0
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == "meta" and seen == ["cpu", "cpu"]
    assert trainer.options["progress"] is False and capsys.readouterr().out == ""
    assert run(out, COMPACT, str(photos), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(out), "report": {}}


def test_warnings_are_one_line_each_and_the_callers_rules_for_them_come_back(
    trainer: Trainer, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn() -> None:
        warnings.warn("skipped 1 image:\n  broken.png", UserWarning, stacklevel=1)
        warnings.warn("converted 2 images", UserWarning, stacklevel=1)

    trainer.before_return = warn
    show = warnings.showwarning
    assert run(out, COMPACT, str(photos)) == 0
    assert capsys.readouterr().err == "tafm-loss: skipped 1 image: broken.png\ntafm-loss: converted 2 images\n"
    assert warnings.showwarning is show


def test_an_interruption_is_one_line_and_exit_code_130(
    trainer: Trainer, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        warnings.warn("interrupted at step 3 of 9; resume=True goes on from there", UserWarning, stacklevel=1)

    trainer.finished, trainer.before_return = False, interrupt
    assert run(out, COMPACT, str(photos)) == 130
    captured = capsys.readouterr()
    assert captured.err.startswith("tafm-loss: interrupted; ") and captured.err.endswith("--resume goes on\n")
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_a_run_that_diverges_is_told_in_one_line_and_a_fault_of_ours_keeps_its_traceback(
    trainer: Trainer, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> None:
        raise error

    trainer.before_return = lambda: fail(FloatingPointError("the objective is not finite at step 7: order"))
    assert "not finite at step 7: order" in fails(capsys, out, COMPACT, str(photos))
    trainer.before_return = lambda: fail(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(out, COMPACT, str(photos))


def test_the_summary_says_where_the_backbone_is_and_what_was_gained(
    trainer: Trainer, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(*medians: float | None) -> dict[str, Any]:
        extents = {f"{3 + extent}": {"median": median} for extent, median in enumerate(medians)}
        return {"selectivity": {"white noise": {"shake": extents, "linear": extents}}}

    assert run(out, COMPACT, str(photos)) == 0
    assert f"from_pretrained({str(out)!r})" in (said := capsys.readouterr().out) and "selectivity" not in said
    trainer.report = {"before": figures(0.9, 1.5, None), "after": figures(5.0, 4.25)}
    assert run(out, COMPACT, str(photos)) == 0
    assert "least selectivity of blur against white noise: 0.90 before, 4.25 after" in capsys.readouterr().out


def test_photographs_become_a_folder_that_the_loss_takes(
    photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [COMPACT, str(photos), "--steps", "2", "--batch-size", "2", "--crop-size", "48", "--extents", "3", "9"]
    assert run(out, *command) == 0
    captured = capsys.readouterr()
    assert [line for line in captured.err.splitlines() if line.startswith("tafm-loss: 1 of 5 images are skipped:")]
    loss = tafm_loss.TaskAdaptiveFeatureLoss.from_pretrained(out)
    assert f"from_pretrained({str(out)!r})" in captured.out and loss.backbone.config.name == f"{COMPACT}-tuned"
    assert loss.sha256 != tafm_loss.create_backbone(COMPACT).sha256
    assert "before" in json.loads((out / "report.json").read_text()) and "selectivity of blur" in captured.out
    assert "of an earlier run; resume that run, or choose another folder" in fails(capsys, out, *command)


def test_a_run_that_ctrl_c_ends_can_be_used_and_taken_up_again(
    photos: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [COMPACT, str(photos), "--steps", "3", "--batch-size", "2", "--crop-size", "48", "--no-distractors"]
    command += ["--extents", "3", "9", "--resume"]
    original, calls = GradedObjective.terms, []

    def interrupted(self: GradedObjective, *arguments: Any) -> dict[str, Tensor]:
        calls.append(arguments)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    # The report takes longer than all the rest.
    monkeypatch.setattr("tafm_loss.finetune.trainer.report", lambda *_, **__: {"selectivity": {}})
    monkeypatch.setattr("tafm_loss.finetune.trainer.write_reports", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(GradedObjective, "terms", interrupted)
        assert run(out, *command) == 130
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("tafm-loss: interrupted; ")
    assert captured.out == "" and tafm_loss.load_backbone(out).config.name == f"{COMPACT}-tuned"
    assert run(out, *command) == 0
    steps = [json.loads(line)["step"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert steps[0] == 0 and steps[-1] == 2
