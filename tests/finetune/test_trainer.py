"""Fine-tuning: what it changes, what it leaves alone, and that it can be interrupted."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.config import BackboneConfig, Tap
from tafm_loss.backbones.embedding import EmbeddingNetwork
from tafm_loss.blur import BlurSynthesizer, FrameExposures
from tafm_loss.finetune import GradedObjective, Measured, TripletObjective, finetune_backbone
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.report import response
from tafm_loss.runs import Checkpoint
from tafm_loss.scenes import generate_scenes
from tafm_loss.weights.errors import WeightsNotFoundError
from tafm_loss.weights.loading import create_backbone, load_backbone
from tests.finetune.conftest import SMALL, weights


def small_embedding() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = EmbeddingNetwork(64, block=0)
    colours = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    config = BackboneConfig("clip", "clip", {"embedding": Tap(1024, 64)}, *colours, minimum_size=16, spatial=False)
    return Backbone(network, config).eval()


def test_the_argument_and_the_global_random_state_are_left_alone(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer
) -> None:
    before, state = weights(backbone).clone(), torch.random.get_rng_state()
    result = finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, **SMALL)
    assert torch.equal(weights(backbone), before) and not torch.equal(weights(result.backbone), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "learning_rate=0.002, " in result.backbone.config.recipe
    assert result.backbone.config.base_weights.endswith(", from random weights")
    assert not result.backbone.training and not any(p.requires_grad for p in result.backbone.parameters())


def test_the_objective_falls_and_rows_and_checkpoints_come_when_they_are_said_to(
    backbone: Backbone,
    scenes: Tensor,
    blur: BlurSynthesizer,
    tmp_path: Path,
    quick_report: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, parts, progress: saved.append(progress.step))
    options = {"synthesizer": blur, "steps": 121, "learning_rate": 5e-3, "validation": scenes, "out_dir": tmp_path}
    history = finetune_backbone(backbone, scenes, **options, **SMALL).history
    losses = {row["step"]: row["loss"] for row in history if "loss" in row}
    assert [*losses] == [0, 20, 40, 60, 80, 100, 120] and saved == [100, 121]
    passes = [row for row in history if "validation_loss" in row]
    assert [row["step"] for row in passes] == [99, 120]
    assert passes[0].keys() - {"step", "validation_loss", "validation_ordering_accuracy"} == {
        "selectivity, white noise",
        "selectivity, scrambled error",
    }
    # Batches differ by more than a few steps of tuning do.
    assert (losses[80] + losses[100] + losses[120]) / 3 < 0.8 * (losses[0] + losses[20]) / 2


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer
) -> None:
    runs = [finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, seed=s, **SMALL).backbone for s in (0, 0, 1)]
    assert torch.equal(weights(runs[0]), weights(runs[1])) and not torch.equal(weights(runs[0]), weights(runs[2]))


def test_a_name_or_a_folder_is_tuned_as_the_backbone_is_and_the_recipe_says_from_what(
    scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path, quick_report: None
) -> None:
    start = create_backbone("tafm-compact")
    options = {"synthesizer": blur, "steps": 1, "validation": scenes, **SMALL}
    tuned = finetune_backbone("tafm-compact", scenes, out_dir=tmp_path / "once", **options).backbone
    assert torch.equal(weights(tuned), weights(finetune_backbone(start, scenes, **options).backbone))
    config = tuned.config
    assert config.name == "tafm-compact-tuned" and config.training_data == "6 tensors"
    assert config.base_weights == f"tafm-compact, sha256 {start.sha256[:8]}, from random weights"
    assert "finetune_backbone(objective=GradedObjective(distractors=True, geometry=0.0, extent=0.0)" in config.recipe
    assert "learning_rate=0.001, " in config.recipe and config.measurements == {"images": 6, "name": config.name}
    # What the loss is recommended to compare travels, and its unit is measured anew.
    assert config.recommended_layers == start.config.recommended_layers
    assert config.recommended_distance == start.config.recommended_distance != "normalized_l2"
    loss = TaskAdaptiveFeatureLoss(tuned, reduction="none")
    assert response(loss, scenes, extents=(10.0,)).mean().item() == pytest.approx(1.0, abs=1e-4)
    twice = finetune_backbone(tmp_path / "once", scenes, trainable=["stages.1"], **options).backbone.config
    assert twice.name == "tafm-compact-tuned-tuned" and "trainable=['stages.1']" in twice.recipe
    assert twice.base_weights == f"tafm-compact-tuned, sha256 {tuned.sha256[:8]}, from {config.base_weights}"
    with pytest.raises(WeightsNotFoundError, match="tafm-compact"):
        finetune_backbone("tafm-compat", scenes, **options)


def test_an_interrupted_run_ends_after_its_step_and_goes_on_to_where_an_unbroken_one_ends(
    backbone: Backbone,
    scenes: Tensor,
    blur: BlurSynthesizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick_report: None,
) -> None:
    options = {"synthesizer": blur, "steps": 4, "validation": 0.4, "out_dir": tmp_path, **SMALL}
    whole = finetune_backbone(backbone, scenes, **{**options, "out_dir": None})

    original, calls = GradedObjective.terms, []

    def interrupting(self: GradedObjective, measured: Measured) -> dict[str, Tensor]:
        calls.append(measured)
        if len(calls) == 3:  # after the pass that finds the scales and the first step
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, measured)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match=r"interrupted at step 2 of 4; resume=True"):
        patch.setattr(GradedObjective, "terms", interrupting)
        broken = finetune_backbone(backbone, scenes, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (
        broken.report == {}
        and not broken.finished
        and torch.equal(weights(load_backbone(tmp_path)), weights(broken.backbone))
    )
    assert not torch.equal(weights(broken.backbone), weights(whole.backbone))
    TaskAdaptiveFeatureLoss(tmp_path)(scenes, scenes.flip(0))

    resumed = finetune_backbone(backbone, scenes, resume=True, **options)
    assert torch.equal(weights(whole.backbone), weights(resumed.backbone))
    assert torch.equal(weights(load_backbone(tmp_path)), weights(whole.backbone))
    assert resumed.backbone.config.name == "tafm-compact-tuned" and "steps=4" in resumed.backbone.config.recipe
    assert resumed.history == whole.history
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole.history
    assert json.loads((tmp_path / "report.json").read_text()) == resumed.report


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tafm_loss.finetune.loop.CHECKPOINT_EVERY", 1)
    options = {"synthesizer": blur, "out_dir": tmp_path, **SMALL}
    finetune_backbone(backbone, scenes, steps=2, **options)
    with pytest.raises(ValueError, match=r"another run: .*steps=2.* not .*steps=3"):
        finetune_backbone(backbone, scenes, steps=3, resume=True, **options)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint that can be read"):
        finetune_backbone(backbone, scenes, steps=2, resume=True, **options)


def test_the_report_compares_before_and_after_on_held_out_scenes(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[Tensor, int]] = []

    def report(judged: Backbone, images: Tensor, **options: Any) -> dict[str, Any]:
        reported.append((weights(judged), len(images)))
        return {"number": len(reported)}

    monkeypatch.setattr("tafm_loss.finetune.trainer.report", report)
    result = finetune_backbone(backbone, scenes, synthesizer=blur, steps=1, validation=0.34, **SMALL)
    assert result.report == {"before": {"number": 1}, "after": {"number": 2}}
    assert result.backbone.config.measurements == {"number": 2} and [count for _, count in reported] == [2, 2]
    assert torch.equal(reported[0][0], weights(backbone)) and torch.equal(reported[1][0], weights(result.backbone))
    assert "4 of 6" in result.backbone.config.training_data


def test_an_earlier_run_is_not_written_over(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path
) -> None:
    options = {"synthesizer": blur, "steps": 1, "out_dir": tmp_path, **SMALL}
    finetune_backbone(backbone, scenes, **options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"holds checkpoint\.pt of an earlier run; resume that run, or choose another"):
        finetune_backbone(backbone, scenes, **options)
    (tmp_path / "checkpoint.pt").rename(tmp_path / "elsewhere.pt")
    with pytest.raises(ValueError, match=r"holds model\.safetensors of an earlier run"):
        finetune_backbone(backbone, scenes, resume=True, **options)
    with pytest.raises(ValueError, match="out_dir must be a folder"):
        finetune_backbone(backbone, scenes, **{**options, "out_dir": tmp_path / "model.safetensors"})
    assert sorted(before.values()) == sorted(path.read_bytes() for path in tmp_path.iterdir())


def test_attention_has_a_second_derivative(scenes: Tensor, blur: BlurSynthesizer) -> None:
    with torch.random.fork_rng(devices=[]), pytest.warns(UserWarning):
        start = create_backbone("clip-vit-b32", weights=None, layers=["block0"])
    result = finetune_backbone(start, scenes, synthesizer=blur, steps=1, trainable=["visual.conv1"], **SMALL)
    assert result.history[0]["descent"] > 0


def test_the_graded_objective_takes_embeddings_but_not_their_slope(scenes: Tensor, blur: BlurSynthesizer) -> None:
    goal = GradedObjective(geometry=1.0, extent=1.0)
    result = finetune_backbone(small_embedding(), scenes, synthesizer=blur, objective=goal, steps=1, **SMALL)
    assert "descent" not in result.history[0] and result.history[0]["extent"] > 0


def test_only_what_is_trainable_changes(backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer) -> None:
    tuned = finetune_backbone(backbone, scenes, synthesizer=blur, steps=1, trainable=["stages.0"], **SMALL).backbone
    before, after = backbone.state(), tuned.state()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("stages.0") for name in changed)
    for wrong, message in ((["nowhere"], "no parameter begins with 'nowhere'; there are"), ([], "must name")):
        with pytest.raises(ValueError, match=message):
            finetune_backbone(backbone, scenes, synthesizer=blur, steps=1, trainable=wrong, **SMALL)


def test_the_papers_form_learns_its_head_and_its_batch_statistics(scenes: Tensor, blur: BlurSynthesizer) -> None:
    start = small_embedding()
    # Batch normalisation alone sets most triplets of random features apart by the paper's margin.
    wide = TripletObjective(margin=8.0)
    result = finetune_backbone(start, scenes, synthesizer=blur, objective=wide, steps=21, **{**SMALL, "batch_size": 4})
    before, after = start.state(), result.backbone.state()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"head"}
    assert "head.1.running_mean" in changed and not result.backbone.network.head[1].training
    first, last = result.history[0], result.history[-1]
    assert last["order"] < 0.5 * first["order"], (first, last)
    loss = TaskAdaptiveFeatureLoss(result.backbone, distance="l2", reduction="none")
    distances = response(loss, scenes, extents=(2.0, 20.0))
    assert (distances[1] > distances[0]).all()


def test_any_callable_grades(backbone: Backbone, scenes: Tensor) -> None:
    def noisy(sharp: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        stds = torch.tensor([0.0, 0.02, 0.1])
        noise = torch.randn(sharp.shape, generator=generator)
        return sharp + stds.view(-1, 1, 1, 1, 1) * noise, (255 * stds)[:, None].expand(-1, len(sharp))

    result = finetune_backbone(
        backbone, scenes, synthesizer=noisy, objective=GradedObjective(distractors=False), steps=2, **SMALL
    )
    assert "noisy" in result.backbone.config.recipe and result.history[-1]["ordering_accuracy"] == 1

    def wrong(levels: Tensor, extents: Tensor) -> Any:
        return lambda sharp, *, generator: (levels, extents)

    levels, extents = torch.rand(3, 2, 3, 40, 40), torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 3.0]])
    for synthesizer, message in (
        (wrong(levels[:2], extents[:2]), r"L >= 3.*got shapes \(2, 2, 3, 40, 40\)"),
        (wrong(levels[:, :1], extents[:, :1]), "for N = 2"),
        (wrong(levels, extents.flip(0)), "begin with 0 and rise"),
        (lambda sharp, *, generator: sharp, "got Tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune_backbone(backbone, scenes, synthesizer=synthesizer, steps=1, **SMALL)


def test_real_exposures_are_learned_from_as_they_are(
    backbone: Backbone, scenes: Tensor, tmp_path: Path, quick_report: None
) -> None:
    still = scenes[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    for scene in ("one", "two", "three"):
        (tmp_path / scene).mkdir()
        for number in range(5):
            save_image(still.roll(3 * number, 2), tmp_path / scene / f"{number}.png")
    result = finetune_backbone(
        backbone, FrameExposures(tmp_path), steps=2, validation=FrameExposures(tmp_path), **{**SMALL, "crop_size": 64}
    )
    assert "3 scenes of frames" in result.backbone.config.training_data
    assert result.history[-1]["validation_loss"] > 0 and result.report["after"]["images"] == 3


def test_mixed_precision_leaves_nothing_behind(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path
) -> None:
    options = {"synthesizer": blur, "steps": 1, **SMALL}
    whole = finetune_backbone(backbone, scenes, **options).backbone
    tuned = finetune_backbone(backbone, scenes, out_dir=tmp_path, mixed_precision="bf16", **options).backbone
    assert not torch.equal(weights(tuned), weights(whole))
    assert torch.equal(weights(finetune_backbone(backbone, scenes, **options).backbone), weights(whole))
    again = load_backbone(tmp_path)
    for tap, features in tuned(scenes).items():
        assert features.dtype == torch.float32 and torch.equal(features, again(scenes)[tap])


def test_a_network_of_another_kind_with_batch_statistics_is_tuned(scenes: Tensor, blur: BlurSynthesizer) -> None:
    with torch.random.fork_rng(devices=[]), pytest.warns(UserWarning):
        start = create_backbone("resnet18", weights=None, layers=["relu1", "layer1"])
    tuned = finetune_backbone(start, scenes, synthesizer=blur, objective="triplet", steps=2, **SMALL).backbone
    before, after = start.state(), tuned.state()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("running" in name or "num_batches" in name for name in changed)
    assert set(tuned.config.units["l1"]) == {"relu1", "layer1"}


def test_arguments_that_make_no_sense_are_refused(backbone: Backbone, scenes: Tensor, tmp_path: Path) -> None:
    for arguments, error, message in (
        ({"objective": "best"}, ValueError, "objective must be one of graded, triplet"),
        ({"objective": TripletObjective}, TypeError, r"write TripletObjective\(\)"),
        ({"backbone": None}, TypeError, "must be a Backbone or what load_backbone takes, got NoneType"),
        ({"backbone": backbone.frozen_copy()}, ValueError, "frozen copy"),
        ({"synthesizer": BlurSynthesizer((5.0, 10.0))}, ValueError, "extents must be 0 and"),
        ({"resume": True}, ValueError, "out_dir"),
        ({"steps": 0}, ValueError, "steps and accumulation must be at least 1"),
        ({"batch_size": 1}, ValueError, "batch_size must be at least 2 scenes"),
        ({"batch_size": 6, "accumulation": 4}, ValueError, "1 processes x 4 parts, got 6"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a positive number, got 0.0"),
        ({"patience": 2}, ValueError, "patience needs validation"),
        ({"validation": 1.5, "crop_size": 40}, ValueError, "validation: share must lie between 0 and 1"),
        ({"validation": 0, "crop_size": 40}, ValueError, "validation: share must lie between 0 and 1"),
        ({"validation": scenes[0, 0, 0].int(), "crop_size": 40}, TypeError, "validation: images must be"),
        ({"validation": 0.2, "patience": 0}, ValueError, "patience must be at least 1"),
        ({"trainable": "stages", "crop_size": 40}, TypeError, r"write \['stages'\]"),
        ({"images": tmp_path, "out_dir": tmp_path / "out"}, ValueError, "must not lie in the folder of images"),
        ({"crop_size": 100}, ValueError, r"images\[0\] must be at least 100 px"),
        ({"images": []}, ValueError, "at least one, got none"),
        ({"images": [scenes[0]], "crop_size": 40}, ValueError, "at least 2 scenes to train on, got 1"),
        ({"images": [scenes, scenes]}, ValueError, r"images\[0\] must have shape \(3, H, W\)"),
        ({"images": scenes * 255, "crop_size": 40}, ValueError, r"images\[0\] must have values in \[0, 1\]"),
        ({"images": scenes * float("nan"), "crop_size": 40}, ValueError, "got nan"),
        ({"validation": scenes * 255, "crop_size": 40}, ValueError, r"validation: images\[0\] must have values in"),
        (
            {"validation": scenes[..., :20], "crop_size": 16, "synthesizer": BlurSynthesizer((0.0, 2.0, 8.0))},
            ValueError,
            "validation: images must be at least",
        ),
        ({"images": tmp_path / "nowhere"}, ValueError, "there is no folder"),
        ({"images": tmp_path}, ValueError, "there is no image"),
    ):
        options = {"backbone": backbone, "images": scenes, "progress": False, **arguments}
        with pytest.raises(error, match=message):
            finetune_backbone(**options)  # type: ignore[arg-type]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
        finetune_backbone(backbone, tmp_path, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taps": {"stage9": Tap(26, 2)}, "recommended_layers": {}}, "stage9"),
        ({"taps": {"stage1": Tap(27, 2)}}, r"\(4, 27\)"),
        ({"spatial": False}, r"\(2, 26\)"),
        ({"minimum_size": 1}, "does not take an image of 1 px"),
    ],
)
def test_a_config_that_is_not_the_networks_is_found_before_training(change: dict[str, Any], message: str) -> None:
    backbone = create_backbone("tafm-compact", layers=["stage1"])
    backbone.config = dataclasses.replace(backbone.config, **change)
    with pytest.raises(ValueError, match=f"backbone cannot be tuned: .*{message}"):
        finetune_backbone(backbone, generate_scenes(4, 96, generator=torch.Generator().manual_seed(0)), steps=1)
