"""Targets lie beside as far as is said, rivals are what their papers say, and the verdict follows its rule."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tafm_loss import TaskAdaptiveFeatureLoss, matched_crops
from tafm_loss.scenes import generate_scenes
from tests.seeds import seeded

METRICS = ("psnr", "lpips", "dists")


@pytest.fixture
def part(script: Callable[[str], ModuleType]) -> Any:
    return script


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for index, scene in enumerate(generate_scenes(3, 200, generator=seeded())):
        pixels = scene.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


def pairs(part: Any, photographs: Path, **displaced: float) -> tuple[torch.Tensor, torch.Tensor]:
    data = part("quality.data")
    by = data.Displacement(**displaced)
    blurred, sharp = data.training_pairs(photographs, 12, size=64, seed=0, displaced=by)
    return blurred.float() / 255, sharp.float() / 255


def test_what_the_camera_saw_is_moved_and_the_target_is_not(part: Any, photographs: Path) -> None:
    still, sharp = pairs(part, photographs)
    for displaced in ({"pixels": 4.0}, {"degrees": 0.2}):
        blurred, target = pairs(part, photographs, **displaced)
        assert torch.equal(target, sharp)
        assert ((blurred - still).abs().amax((1, 2, 3)) > 0.02).float().mean() > 0.5


def test_targets_lie_beside_by_up_to_so_many_px_in_every_direction(part: Any, photographs: Path) -> None:
    blurred, sharp = pairs(part, photographs, pixels=4.0)
    reach, size = 5, 54
    found = [
        min(
            ((y - reach, x - reach) for y in range(2 * reach + 1) for x in range(2 * reach + 1)),
            key=lambda move: float(
                (crop[:, 5:-5, 5:-5] - image[:, 5 + move[0] : 59 + move[0], 5 + move[1] : 59 + move[1]]).square().sum()
            ),
        )
        for crop, image in zip(blurred, sharp, strict=True)
    ]
    moves = torch.tensor(found).float()
    assert size == 64 - 2 * reach
    assert moves.abs().max() <= 5 and moves.abs().max() >= 3
    assert bool((moves.amin(0) < 0).all() and (moves.amax(0) > 0).all())


def test_nearest_features_bear_a_move_that_the_loss_does_not(part: Any) -> None:
    loss_fn = TaskAdaptiveFeatureLoss(layers=["stem", "block1"])
    scenes = generate_scenes(2, 72, generator=seeded())
    image, moved = scenes[..., 4:68, 4:68], scenes[..., 4:68, :64]
    nearest = part("misalignment.terms").NearestFeatures(loss_fn, 4)
    assert float(nearest(image, image)) == pytest.approx(0, abs=1e-6)
    assert float(nearest(image, moved)) < 0.25 * float(loss_fn(image, moved))


@pytest.mark.parametrize("name", ["Contextual", "FrequencyDistribution"])
def test_rivals_tell_blur_from_sharp_and_have_a_gradient(part: Any, name: str) -> None:
    loss = getattr(part("misalignment.terms"), name)(TaskAdaptiveFeatureLoss(layers=["stem", "block1"]))
    sharp = generate_scenes(2, 64, generator=seeded())
    weak, strong = (F.avg_pool2d(sharp, side, 1, side // 2, count_include_pad=False) for side in (3, 7))
    assert float(loss(sharp, sharp)) < float(loss(weak, sharp)) < float(loss(strong, sharp))
    weak.requires_grad_()
    loss(weak, sharp).backward()
    assert weak.grad is not None and bool(weak.grad.isfinite().all()) and bool(weak.grad.any())


def test_the_frequency_distribution_does_not_see_where_things_are(part: Any) -> None:
    """Amplitudes do not change with a cyclic move, and phases turn: sorted, the distance stays small."""
    loss_fn = TaskAdaptiveFeatureLoss(layers=["stem"])
    loss = part("misalignment.terms").FrequencyDistribution(loss_fn)
    scene = generate_scenes(1, 64, generator=seeded())
    moved = scene.roll((4, 4), (2, 3))
    blurred = F.avg_pool2d(scene, 5, 1, 2, count_include_pad=False)
    assert float(loss(moved, scene)) < float(loss(blurred, scene))


def run(arm: str, condition: str, seed: int, **figures: float) -> dict[str, Any]:
    ratio = 0.0 if arm.startswith("L1") else 2.0
    return {"stage": condition, "seed": seed, "arm": arm, "ratio": ratio, "figures": figures, "metadata": {}}


def study(part: Any, *, cost: float, lead: float) -> list[dict[str, Any]]:
    arms = part("misalignment.arms")
    runs = []
    for seed in range(4):
        wobble = 0.001 * seed
        for condition in ("aligned", "2 px", "4 px"):
            runs.append(run("L1", condition, seed, psnr=25 + wobble, lpips=0.3, dists=0.2))
            for arm in (arms.PLAIN, *arms.RIVALS):
                runs.append(run(arm, condition, seed, psnr=26 + wobble, lpips=0.2 + wobble, dists=0.2))
            gain = -cost if condition == "aligned" else lead
            runs.append(run(arms.MATCHED, condition, seed, psnr=26 + gain, lpips=0.2 - gain, dists=0.2))
    return runs


@pytest.mark.parametrize(("cost", "lead", "expected"), [(0.0, 0.1, (True, True)), (0.04, 0.0, (False, False))])
def test_the_verdict_is_that_of_the_rule(part: Any, cost: float, lead: float, expected: tuple[bool, bool]) -> None:
    found = part("misalignment.tables").results(study(part, cost=cost, lead=lead))
    assert tuple(found["misaligned_gains"]["verdict"].values()) == expected


def test_tables_name_arms_order_them_and_leave_out_what_was_not_tried(part: Any) -> None:
    tables, arms = part("misalignment.tables"), part("misalignment.arms")
    runs = study(part, cost=0.0, lead=0.1)
    runs += [run("FDL", "4 px", seed, psnr=20.0, lpips=0.01, dists=0.2) | {"ratio": 20.0} for seed in range(4)]
    rows = tables.results(runs)["misaligned_lpips"]["table"]["rows"]
    assert rows[0] == ["L1 + FDL, ratio 20", "-", "-", "0.0100"]
    assert rows[1] == [f"L1 + {arms.MATCHED}", "0.2000", "0.1000", "0.1000"]
    assert rows[-1][0] == "L1"


def test_both_losses_of_a_matched_arm_see_the_same_crops(part: Any) -> None:
    arm = part("misalignment.arms").arms(part("quality.arms").Places(Path(), Path(), Path()))[
        "tafm-lite, matched crops"
    ]
    scene = generate_scenes(1, 64, generator=seeded())
    own, target = arm.match(scene[..., 2:62, 2:62], scene[..., :60, 4:64])
    assert torch.equal(own, target) and torch.equal(
        own, matched_crops(scene[..., 2:62, 2:62], scene[..., :60, 4:64])[0]
    )
