"""Fine-tuning: what it changes, what it leaves alone, and that it can be interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.registry import create_backbone
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.finetune import finetune_backbone
from tafm_loss.finetune.objectives import GradedObjective, TripletObjective
from tafm_loss.finetune.report import measure_units, response
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.scenes import generate_scenes
from tafm_loss.weights import load_backbone

SMALL = {"batch_size": 2, "crop_size": 40, "progress": False}


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(6, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def blur() -> BlurSynthesizer:
    return BlurSynthesizer((0.0, 2.0, 8.0, 20.0))


@pytest.fixture
def backbone() -> Backbone:
    with torch.random.fork_rng(devices=[]), pytest.warns(UserWarning):
        torch.manual_seed(0)
        return create_backbone("tafm-compact", weights=None)


def weights(backbone: Backbone) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in backbone.state().values()])


def test_the_argument_and_the_global_random_state_are_left_alone(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer
) -> None:
    before, state = weights(backbone).clone(), torch.random.get_rng_state()
    result = finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, **SMALL)
    assert torch.equal(weights(backbone), before) and not torch.equal(weights(result.backbone), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not result.backbone.training and not any(p.requires_grad for p in result.backbone.parameters())


def test_the_objective_falls(backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer) -> None:
    result = finetune_backbone(backbone, scenes, synthesizer=blur, steps=121, learning_rate=5e-3, **SMALL)
    totals = [sum(value for name, value in row.items() if name != "step") for row in result.history]
    # Batches differ by more than a few steps of tuning do.
    assert sum(totals[-3:]) / 3 < 0.8 * sum(totals[:2]) / 2


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer
) -> None:
    runs = [finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, seed=s, **SMALL).backbone for s in (0, 0, 1)]
    assert torch.equal(weights(runs[0]), weights(runs[1])) and not torch.equal(weights(runs[0]), weights(runs[2]))


def test_a_resumed_run_ends_where_an_unbroken_one_does(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tafm_loss.finetune.trainer.CHECKPOINT_EVERY", 2)
    whole = finetune_backbone(backbone, scenes, synthesizer=blur, steps=4, **SMALL)

    original, calls = GradedObjective.terms, []

    def interrupted(self: GradedObjective, *arguments: Any) -> dict[str, Tensor]:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GradedObjective, "terms", interrupted)
        finetune_backbone(backbone, scenes, synthesizer=blur, steps=4, out_dir=tmp_path, **SMALL)
    resumed = finetune_backbone(backbone, scenes, synthesizer=blur, steps=4, out_dir=tmp_path, resume=True, **SMALL)
    assert torch.equal(weights(whole.backbone), weights(resumed.backbone))
    assert torch.equal(weights(load_backbone(tmp_path)), weights(whole.backbone))
    assert resumed.backbone.config.name == "tafm-compact-tuned" and "steps=4" in resumed.backbone.config.recipe
    assert [row["step"] for row in resumed.history] == [row["step"] for row in whole.history]


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tafm_loss.finetune.trainer.CHECKPOINT_EVERY", 1)
    finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, out_dir=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"another run: .*steps=2.* not .*steps=3"):
        finetune_backbone(backbone, scenes, synthesizer=blur, steps=3, out_dir=tmp_path, resume=True, **SMALL)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint that can be read"):
        finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, out_dir=tmp_path, resume=True, **SMALL)


def test_an_objective_that_is_not_finite_stops_the_run(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer
) -> None:
    class Broken(TripletObjective):
        margin = float("inf")

    with pytest.raises(RuntimeError, match="not finite at step 0"):
        finetune_backbone(backbone, scenes, synthesizer=blur, steps=2, objective=Broken(), **SMALL)


def test_mixed_precision_leaves_nothing_behind(
    backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path
) -> None:
    from accelerate.state import AcceleratorState

    # One process has one precision; a test must leave it as it found it.
    AcceleratorState._reset_state()
    try:
        tuned = finetune_backbone(
            backbone, scenes, synthesizer=blur, steps=1, out_dir=tmp_path, mixed_precision="bf16", **SMALL
        ).backbone
        with pytest.raises(ValueError, match="mixed_precision='no' cannot be had in this process"):
            finetune_backbone(backbone, scenes, synthesizer=blur, steps=1, **SMALL)
    finally:
        AcceleratorState._reset_state()
    again = load_backbone(tmp_path)
    for tap, features in tuned(scenes).items():
        assert features.dtype == torch.float32 and torch.equal(features, again(scenes)[tap])


def test_units_make_a_ten_px_shake_cost_one(scenes: Tensor) -> None:
    import dataclasses

    backbone = create_backbone("tafm-compact")
    for distance in ("l1", "normalized_l2"):
        backbone.config = dataclasses.replace(backbone.config, units=measure_units(backbone, scenes, seed=3))
        loss = TaskAdaptiveFeatureLoss(backbone, distance=distance, reduction="none")
        assert response(loss, scenes, extents=(10.0,), seed=3).mean().item() == pytest.approx(1.0, abs=1e-4)


def test_objectives_are_zero_for_what_they_ask_for_and_not_otherwise() -> None:
    extents = torch.tensor([[0.0], [2.0], [8.0], [20.0]])
    triplet, graded = TripletObjective(), GradedObjective()
    blur = torch.tensor([[1.0], [5.0], [20.0]])
    assert triplet.terms({"blurred": blur}, torch.empty(0, 1), extents)["order"] == 0
    assert triplet.terms({"blurred": blur / 10}, torch.empty(0, 1), extents)["order"] > 0
    good = {
        "blurred": blur,
        "noise": blur / 2,
        "scrambled": blur / 2,
        "fine noise": blur[:1] * 1.1,
        "speckled": blur[1:] * 1.2,
        "halfway": blur[1:] / 4,
        "mirrored": blur[1:2],
        "grey": 8 * blur[1:2],
        "other": 3 * blur[2:],
    }
    downhill = torch.full((2, 1), 0.8)
    assert all(term == 0 for term in graded.terms(good, downhill, extents).values())
    assert graded.terms(good, -downhill, extents)["descent"] > 0
    for version, factor, name in (
        ("noise", 4, "noise"),
        ("noise", 0.1, "noise_ceiling"),
        ("scrambled", 4, "scrambled"),
        ("fine noise", 0.5, "fine_ceiling"),
        ("speckled", 0.5, "speckled"),
        ("halfway", 2, "halfway"),
        ("mirrored", 2, "mirrored"),
        ("mirrored", 0.5, "mirrored"),
        ("grey", 0.1, "grey"),
        ("other", 0.1, "other"),
        ("blurred", torch.tensor([[1.0], [1.0], [0.1]]), "order"),
    ):
        bad = graded.terms({**good, version: good[version] * factor}, downhill, extents)
        assert bad[name] > 0, (version, factor)


def test_graded_versions_have_the_error_they_are_said_to_have(scenes: Tensor, blur: BlurSynthesizer) -> None:
    graded, generator = GradedObjective(), torch.Generator().manual_seed(0)
    kernels = blur.sample(len(scenes), generator=generator)
    levels = blur(scenes, kernels=kernels)
    versions = graded.versions(levels, kernels.extents, generator)
    error = {name: (stack - scenes).square().mean(dim=(2, 3, 4)) for name, stack in versions.items()}
    assert torch.equal(versions["blurred"], levels[1:])
    torch.testing.assert_close(error["noise"], error["blurred"] * graded.noise_factor)
    factors = torch.tensor([3.0, 3.0, 2.0])[:, None]
    torch.testing.assert_close(error["scrambled"], error["blurred"] * factors)
    torch.testing.assert_close(error["fine noise"], error["blurred"][:1] * graded.fine_noise_factor)
    torch.testing.assert_close(error["halfway"], error["blurred"][1:] / 4)
    torch.testing.assert_close(error["mirrored"], error["blurred"][1:2])


def test_a_folder_of_images_is_read(backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for index, scene in enumerate(scenes[:3]):
        save_image(scene, tmp_path / "deep" / f"{index}.png")
    result = finetune_backbone(backbone, tmp_path, synthesizer=blur, steps=1, **SMALL)
    assert len(result.history) == 1


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
        ({"backbone": "tafm-compact"}, TypeError, r"make one by create_backbone"),
        ({"backbone": backbone.frozen_copy()}, ValueError, "frozen copy"),
        ({"synthesizer": BlurSynthesizer((5.0, 10.0))}, ValueError, "extents must be 0 and"),
        ({"resume": True}, ValueError, "out_dir"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"batch_size": 1}, ValueError, "batch_size at least 2"),
        ({"crop_size": 100}, ValueError, r"images\[0\] must be at least 100 px"),
        ({"images": []}, ValueError, "at least 2 scenes, got 0"),
        ({"images": [scenes]}, ValueError, "at least 2 scenes, got 1"),
        ({"images": [scenes, scenes]}, ValueError, r"images\[0\] must have shape \(3, H, W\)"),
        ({"images": scenes * 255, "crop_size": 40}, ValueError, r"images\[0\] must have values in \[0, 1\]"),
        ({"images": scenes * float("nan"), "crop_size": 40}, ValueError, "got nan"),
        ({"validation": scenes * 255}, ValueError, "validation must have values in"),
        ({"validation": scenes[..., :20]}, ValueError, "validation must be at least"),
        ({"images": tmp_path / "nowhere"}, ValueError, "there is no folder"),
        ({"images": tmp_path}, ValueError, "there is no image"),
    ):
        options = {"backbone": backbone, "images": scenes, "progress": False, **arguments}
        with pytest.raises(error, match=message):
            finetune_backbone(**options)  # type: ignore[arg-type]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
        finetune_backbone(backbone, tmp_path, progress=False)
