"""Fine-tuning: what it changes, what it leaves alone, and that it can be interrupted."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.registry import create_backbone
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.finetune import finetune_backbone
from tafm_loss.finetune.objectives import GradedObjective, TripletObjective
from tafm_loss.finetune.report import response
from tafm_loss.finetune.trainer import measure_units
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
    result = finetune_backbone(backbone, scenes, synthesizer=blur, steps=61, learning_rate=5e-3, **SMALL)
    totals = [sum(value for name, value in row.items() if name != "step") for row in result.history]
    assert totals[-1] < 0.8 * totals[0]


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

    class Interrupted(GradedObjective):
        calls = 0

        def terms(self, distances: Mapping[str, Tensor], extents: Tensor) -> dict[str, Tensor]:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().terms(distances, extents)

    with pytest.raises(KeyboardInterrupt):
        finetune_backbone(
            backbone, scenes, synthesizer=blur, steps=4, objective=Interrupted(), out_dir=tmp_path, **SMALL
        )
    resumed = finetune_backbone(backbone, scenes, synthesizer=blur, steps=4, out_dir=tmp_path, resume=True, **SMALL)
    assert torch.equal(weights(whole.backbone), weights(resumed.backbone))
    assert torch.equal(weights(load_backbone(tmp_path)), weights(whole.backbone))
    assert [row["step"] for row in resumed.history] == [row["step"] for row in whole.history]


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
    assert triplet.terms({"blurred": blur}, extents)["order"] == 0
    assert triplet.terms({"blurred": blur / 10}, extents)["order"] > 0
    good = {
        "blurred": blur,
        "noise": blur / 2,
        "scrambled": blur / 2,
        "fine luma": blur[:1] * 1.1,
        "fine chroma": blur[:1] * 1.1,
        "speckled": blur[1:] * 1.2,
        "halfway": blur[1:] / 4,
        "mirrored": blur[1:2],
        "grey": 8 * blur[1:2],
        "other": 3 * blur[2:],
    }
    assert all(term == 0 for term in graded.terms(good, extents).values())
    for version, factor, name in (
        ("noise", 4, "noise"),
        ("noise", 0.1, "noise_ceiling"),
        ("scrambled", 4, "scrambled"),
        ("fine luma", 0.5, "fine_ceiling"),
        ("fine chroma", 0.5, "fine_ceiling"),
        ("speckled", 0.5, "speckled"),
        ("halfway", 2, "halfway"),
        ("mirrored", 2, "mirrored"),
        ("mirrored", 0.5, "mirrored"),
        ("grey", 0.1, "grey"),
        ("other", 0.1, "other"),
        ("blurred", torch.tensor([[1.0], [1.0], [0.1]]), "order"),
    ):
        bad = graded.terms({**good, version: good[version] * factor}, extents)
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
    torch.testing.assert_close(error["fine luma"], error["blurred"][:1] * 8)
    torch.testing.assert_close(error["fine chroma"], error["blurred"][:1] * 12)
    torch.testing.assert_close(error["halfway"], error["blurred"][1:] / 4)
    torch.testing.assert_close(error["mirrored"], error["blurred"][1:2])


def test_a_folder_of_images_is_read(backbone: Backbone, scenes: Tensor, blur: BlurSynthesizer, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for index, scene in enumerate(scenes[:3]):
        save_image(scene, tmp_path / "deep" / f"{index}.png")
    result = finetune_backbone(backbone, tmp_path, synthesizer=blur, steps=1, **SMALL)
    assert len(result.history) == 1


def test_arguments_that_make_no_sense_are_refused(backbone: Backbone, scenes: Tensor, tmp_path: Path) -> None:
    for arguments, message in (
        ({"objective": "best"}, "objective must be one of graded, triplet"),
        ({"synthesizer": BlurSynthesizer((5.0, 10.0))}, "extents must be 0 and"),
        ({"resume": True}, "out_dir"),
        ({"steps": 0}, "steps and batch_size"),
        ({"crop_size": 100}, r"images\[0\] must be at least 100 px"),
        ({"images": []}, "at least one scene"),
        ({"images": tmp_path / "nowhere"}, "there is no folder"),
        ({"images": tmp_path}, "there is no image"),
    ):
        options = {"images": scenes, "progress": False, **arguments}
        with pytest.raises(ValueError, match=message):
            finetune_backbone(backbone, **options)  # type: ignore[arg-type]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
        finetune_backbone(backbone, tmp_path, progress=False)
