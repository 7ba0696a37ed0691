"""Arms are brought to one PSNR, see the same pairs, and are compared as the benchmark says."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from examples.deblurring.evaluation.similarity import psnr
from tafm_loss.demo import Mask
from tafm_loss.scenes import generate_scenes
from tests.seeds import seeded


@pytest.fixture
def part(script: Callable[[str], ModuleType]) -> Any:
    return lambda name: script(f"quality.{name}")


@pytest.fixture
def data(part: Any) -> ModuleType:
    module: ModuleType = part("data")
    return module


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, scene in enumerate(generate_scenes(3, 260, generator=seeded())):
        pixels = scene.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def restored_and_sharp() -> tuple[torch.Tensor, torch.Tensor]:
    sharp = generate_scenes(3, 64, generator=seeded(1)).mul(0.9).add(0.1)
    restored = sharp - 0.6 * Mask(1.0, 1.0).detail(sharp)
    return restored + 0.01 * torch.randn(sharp.shape, generator=seeded(2)), sharp


@pytest.mark.parametrize("sigma", [0.7, 2.5])
def test_the_gain_brings_the_mean_psnr_to_the_level(part: Any, sigma: float) -> None:
    restored, sharp = restored_and_sharp()
    level = float(psnr(restored, sharp).mean()) - 0.05
    gain = part("masks").largest_gain(restored, sharp, sigma, level)
    assert gain is not None
    assert float(psnr(Mask(sigma, gain)(restored), sharp).mean()) == pytest.approx(level, abs=0.005)
    more = float(psnr(Mask(sigma, gain + 0.05)(restored), sharp).mean())
    assert more < level


def test_a_level_that_no_mask_reaches_gives_no_mask(part: Any) -> None:
    restored, sharp = restored_and_sharp()
    assert part("masks").largest_gain(restored, sharp, 0.7, 80.0) is None
    assert part("masks").chosen_mask(restored, sharp, 80.0, "gmsd") is None


def test_of_all_sigmas_the_one_with_the_best_metric_is_chosen(part: Any) -> None:
    masks = part("masks")
    restored, sharp = restored_and_sharp()
    level = float(psnr(restored, sharp).mean()) - 0.05
    chosen = masks.chosen_mask(restored, sharp, level, "haarpsi")
    compute = part("measuring").METRICS["haarpsi"].compute
    others = [Mask(sigma, masks.largest_gain(restored, sharp, sigma, level)) for sigma in masks.SIGMAS]
    best = max(others, key=lambda mask: float(compute(mask(restored), sharp).mean()))
    assert chosen == best


def test_gradient_projection_is_one_for_the_sharp_image_and_noise_does_not_raise_it(part: Any) -> None:
    projection = part("measuring").gradient_projection
    sharp = generate_scenes(2, 64, generator=seeded(1))
    noisy = 0.5 * sharp + 0.1 * torch.randn(sharp.shape, generator=seeded(2))
    torch.testing.assert_close(projection(sharp, sharp), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(projection(0.3 * sharp + 0.2, sharp), torch.full((2,), 0.3, dtype=torch.float64))
    assert (projection(noisy, sharp) - 0.5).abs().max() < 0.1


def test_the_first_training_pairs_do_not_depend_on_their_number(data: ModuleType, photographs: Path) -> None:
    few, more = (data.training_pairs(photographs, count, seed=3) for count in (8, 16))
    assert few.sharp.shape == (8, 3, data.CROP_SIZE, data.CROP_SIZE)
    assert torch.equal(few.blurred, more.blurred[:8])
    assert torch.equal(few.sharp, more.sharp[:8])
    assert few.digest() != more.digest()
    assert few.digest() == data.training_pairs(photographs, 8, seed=3).digest()
    assert few.digest() != data.training_pairs(photographs, 8, seed=4).digest()


def run_figures(arm: str, seed: int, mdsi: list[float], *, stage: str = "confirmation", ratio: float = 1.0) -> Any:
    values = {name: [0.5] * len(mdsi) for name in ("psnr", "ssim", "gmsd", "haarpsi", "projection", "sharpness_kept")}
    figures = values | {"mdsi": mdsi}
    kinds = ("shake", "linear", "defocus") if stage == "confirmation" else ("shake",)
    return {
        "stage": stage,
        "seed": seed,
        "arm": arm,
        "ratio": ratio,
        "weight": 1.0,
        "seconds": 1.0,
        "batches": "0",
        "level": {"choosing": 0.5, "judging": {"shake": 0.5}},
        "mask": {"sigma": 1.0, "gain": 0.1},
        "raw": figures,
        "masked": figures,
        "equal": {kind: {"gain": 0.1, **figures} for kind in kinds},
        "metadata": {"command": "", "machine": "", "commit": "", "date": ""},
    }


def test_a_contrast_is_paired_by_seed_and_photograph(part: Any) -> None:
    runs = [run_figures("A", seed, [0.3 + 0.1 * seed, 0.5]) for seed in range(8)]
    runs += [run_figures("B", seed, [0.4 + 0.1 * seed, 0.7 + 0.001 * seed]) for seed in range(8)]
    found = part("summary").contrast(runs, "A", "B")
    # MDSI is better when lower: A gains 0.1 on one photograph, and 0.2 and a little on the other.
    assert found.gains["mdsi"] == pytest.approx(0.15 + 0.0005 * 3.5, abs=1e-6)
    assert found.gains["ssim"] == 0
    assert found.p == 2 / 2**8
    assert found.psnr == 0
    assert found.seeds[0] < found.gains["mdsi"] < found.seeds[1]
    assert found.photographs == pytest.approx((0.1, 0.2035), abs=1e-6)


def test_a_seed_on_which_an_arm_does_not_get_there_is_not_left_out_in_silence(part: Any) -> None:
    contrast = part("summary").contrast
    runs = [run_figures(arm, seed, [0.3, 0.3]) for arm in ("A", "B") for seed in range(3)]
    assert contrast(runs, "A", "B").count == 3
    assert contrast(runs[:-1], "A", "B") is None
    runs[0]["equal"]["shake"] = None
    assert contrast(runs, "A", "B") is None


def keep(folder: Path, runs: list[Any]) -> None:
    for run in runs:
        (folder / f"{run['stage']}-{run['seed']}-{run['arm']}-{run['ratio']:g}.json").write_text(json.dumps(run))


def test_the_ratio_with_the_best_primary_metric_is_taken(part: Any, tmp_path: Path) -> None:
    stages = part("plan").STAGES
    trials = [(stage, ratio) for stage in ("screening", "curve") for ratio in stages[stage].ratios]
    runs = [run_figures("A", 0, [1 - ratio / 10], stage=stage, ratio=ratio) for stage, ratio in trials]
    keep(tmp_path, runs[:-1])
    with pytest.raises(FileNotFoundError, match=r"A has not been tried at \[2.5\]"):
        part("summary").best_ratio(tmp_path, "A")
    # What no mask brings to the common PSNR is no choice.
    runs[-1]["equal"]["shake"] = None
    keep(tmp_path, runs)
    assert part("summary").best_ratio(tmp_path, "A") == 1.6


def test_a_run_of_other_batches_or_settings_is_not_taken_for_this_one(part: Any, tmp_path: Path) -> None:
    run = part("runs").Run(tmp_path, "scratch", 0, "SqueezeNet, untuned", 0.35)
    facts = {"batches": "a", "settings": {"price": 0.1}}
    assert run.figures(facts) is None
    run.keep({"weight": 2.0, **facts})
    assert run.figures(facts)["weight"] == 2.0
    for other in ({"batches": "b"}, {"settings": {"price": 0.05}}):
        with pytest.raises(ValueError, match="move it away"):
            run.figures(facts | other)


def test_the_tables_name_all_arms_and_correct_the_two_contrasts_alone(part: Any, tmp_path: Path) -> None:
    plan = part("plan")
    arms = ["L1", *plan.CONFIRMED]
    runs = [run_figures(arm, seed, [0.3 + 0.01 * arms.index(arm)] * 2) for arm in arms for seed in range(8)]
    runs += [run_figures(arm, 0, [0.3], stage="screening") for arm in arms]
    runs[-1]["masked"], runs[-1]["equal"]["shake"] = None, None
    keep(tmp_path, runs)
    made = part("summary").results(tmp_path)
    assert set(made) == {"deblurring_screening", "deblurring_quality", "deblurring_contrasts"}
    for result in made.values():
        assert all(len(row) == len(result["table"]["columns"]) for row in result["table"]["rows"])
        json.dumps(result)
    assert len(made["deblurring_quality"]["table"]["rows"]) == 3 * len(arms)
    assert [row[1] for row in made["deblurring_screening"]["table"]["rows"]].count("-") == 2
    contrasts = made["deblurring_contrasts"]["contrasts"]
    named = {each["against"]: each["p_holm"] for each in contrasts if each["case"] == "fine-tuned, shake"}
    assert [named.pop(arm) for arm in plan.NAMED] == [pytest.approx(4 / 2**8)] * 2
    assert set(named.values()) == {None}
    assert not any(each["named"] for each in contrasts if each["case"] != "fine-tuned, shake")
