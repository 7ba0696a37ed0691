"""Arms are brought to one PSNR, see the same pairs, and are compared as the benchmark says."""

import itertools
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from examples.deblurring.evaluation.similarity import gmsd, psnr
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


@pytest.mark.parametrize("floor", [math.inf, 0.05])
def test_the_gain_brings_the_mean_psnr_to_the_level(part: Any, floor: float) -> None:
    masks = part("masks")
    restored, sharp = restored_and_sharp()
    level = float(psnr(restored, sharp).mean()) - 0.05
    mask = masks.Sharpening(0.7, floor, 1.0)
    gain = masks.Sharpened(restored, sharp, mask).largest_gain(level)
    assert gain is not None
    assert float(psnr(mask._replace(gain=gain)(restored), sharp).mean()) == pytest.approx(level, abs=0.005)
    assert float(psnr(mask._replace(gain=gain + 0.1)(restored), sharp).mean()) < level


@pytest.mark.parametrize(("contrast", "least", "most"), [(0.002, 0.99, 1.0), (0.4, 0.0, 0.8)])
def test_an_adaptive_mask_sharpens_weak_detail_as_a_global_one_does_and_strong_detail_less(
    part: Any, contrast: float, least: float, most: float
) -> None:
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = contrast
    everywhere, adaptive = (part("masks").Sharpening(0.7, floor, 1.0).detail(edge).max() for floor in (math.inf, 0.05))
    assert least < adaptive / everywhere < most


def test_a_level_that_no_mask_reaches_gives_no_mask(part: Any) -> None:
    masks = part("masks")
    restored, sharp = restored_and_sharp()
    assert masks.Sharpened(restored, sharp, masks.Sharpening(0.7, math.inf, 1.0)).largest_gain(80.0) is None
    assert masks.chosen_masks(restored, sharp, [80.0], lambda images: gmsd(images, sharp)) == [None]


def test_of_all_masks_the_one_with_the_least_distance_is_chosen(part: Any) -> None:
    masks = part("masks")
    restored, sharp = restored_and_sharp()
    level = float(psnr(restored, sharp).mean()) - 0.05
    (chosen,) = masks.chosen_masks(restored, sharp, [level], lambda images: gmsd(images, sharp))
    others = []
    for sigma, floor in itertools.product(masks.SIGMAS, masks.FLOORS):
        mask = masks.Sharpening(sigma, floor, 1.0)
        others.append(mask._replace(gain=masks.Sharpened(restored, sharp, mask).largest_gain(level)))
    assert chosen == min(others, key=lambda mask: float(gmsd(mask(restored), sharp).mean()))


class Blur(torch.nn.Module):
    """A network that returns what it is given, a little blurred or sharpened."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [Mask(1.0, self.gain)(images)]


def judge_of(part: Any, prices: tuple[float, ...]) -> Any:
    _, sharp = restored_and_sharp()
    noisy = sharp + 0.02 * torch.randn(sharp.shape, generator=seeded(3))
    blurred = noisy - 0.5 * Mask(1.0, 1.0).detail(noisy)
    eight_bits = [images.clamp(0, 1).mul(255).round().to(torch.uint8) for images in (blurred, sharp)]
    pairs = part("data").Pairs(*eight_bits)
    device = torch.device("cpu")
    judged = {"shake": part("judging").Judged(pairs, {"psnr": 1, "ssim": 1, "gmsd": 2})}
    measures = part("measuring").Measures(("psnr", "ssim", "gmsd"), Path(), device)
    restore = part("training").Trainer(device, torch.float32).restore
    return part("judging").Judge(pairs, judged, "gmsd", measures, prices, restore, device)


def test_arms_are_brought_to_each_price_below_the_network_that_sets_the_levels(part: Any) -> None:
    judge = judge_of(part, (0.1, 0.4))
    levels = judge.levels(Blur(0.0))
    for arm in (Blur(0.0), Blur(0.1), Blur(-0.1)):
        found = judge(arm, levels)
        for price in (0.1, 0.4):
            figures = found["equal"][str(price)]["shake"]
            assert statistics.fmean(figures["psnr"]) == pytest.approx(levels["shake"] - price, abs=0.005)
            assert (len(figures["ssim"]), len(figures["gmsd"])) == (3, 2)
    assert statistics.fmean(judge(Blur(0.0), levels)["raw"]["shake"]["psnr"]) == pytest.approx(levels["shake"])


def test_an_arm_that_no_mask_brings_to_a_price_is_not_compared_there(part: Any) -> None:
    judge = judge_of(part, (0.1,))
    levels = {case: level + 20 for case, level in judge.levels(Blur(0.0)).items()}
    found = judge(Blur(0.0), levels)
    assert found["equal"]["0.1"]["shake"] is None
    assert found["masks"]["0.1"] is None


def test_an_arm_learns_from_its_term_as_well(part: Any, data: ModuleType) -> None:
    training = part("training")
    sharp = torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8, generator=seeded())
    pairs = data.Pairs(sharp // 2, sharp)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), Listed())
    trainer, schedule = training.Trainer(torch.device("cpu"), torch.float32), training.Schedule(2, 1e-2)
    alone = trainer.trained(network, None, 0.0, pairs, schedule)
    with_term = trainer.trained(network, lambda x, y, b: (x - b).square().mean(), 50.0, pairs, schedule)
    assert not torch.equal(alone[0].weight, with_term[0].weight)
    assert torch.equal(alone[0].weight, trainer.trained(network, None, 0.0, pairs, schedule)[0].weight)
    ratio = trainer.calibrated(network, lambda x, y, b: 3 * (x - y).abs().mean(), pairs, 0.6)
    assert ratio == pytest.approx(0.2)


class Listed(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]


def test_the_first_training_pairs_do_not_depend_on_their_number(data: ModuleType, photographs: Path) -> None:
    few, more = (data.training_pairs(photographs, count, size=48, seed=3) for count in (8, 16))
    assert few.sharp.shape == (8, 3, 48, 48)
    assert torch.equal(few.blurred, more.blurred[:8])
    assert torch.equal(few.sharp, more.sharp[:8])
    assert few.digest() != more.digest()
    assert few.digest() == data.training_pairs(photographs, 8, size=48, seed=3).digest()
    assert few.digest() != data.training_pairs(photographs, 8, size=48, seed=4).digest()


def test_real_pairs_are_cut_alike_and_reduced_as_asked(data: ModuleType, tmp_path: Path) -> None:
    height, width = (2 * data.HELD_OUT_SIZE + extra for extra in (0, 40))
    sharp = 2 * torch.randint(100, (3, height, width), dtype=torch.uint8, generator=seeded())
    for folder, shift in (("sharp", 0), ("blur", 1)):
        (tmp_path / folder).mkdir()
        for name in ("0.png", "1.png"):
            image = (sharp + shift).permute(1, 2, 0).numpy()
            Image.fromarray(image).save(tmp_path / folder / name)
    pairs = data.gopro_pairs(tmp_path, slice(0, 1))
    assert pairs.sharp.shape == (1, 3, data.HELD_OUT_SIZE, data.HELD_OUT_SIZE)
    assert (pairs.blurred.int() - pairs.sharp.int() - 1).abs().max() <= 1


def run_figures(part: Any, arm: str, seed: int, values: list[float], *, ratio: float = 1.0, **changed: Any) -> Any:
    """Return a run of the confirmation, or of the trials: what all metrics found at all prices, in all cases."""
    stage = changed.pop("stage", "confirmation")
    metrics = part("measuring").METRICS
    figures = {"gain": 0.1, **dict.fromkeys(metrics, values)}
    cases = part("summary").CASES if stage == "confirmation" else ("shake",)
    prices = [str(price) for price in part("plan").STAGES[stage].prices]
    return {
        "stage": stage,
        "seed": seed,
        "arm": arm,
        "ratio": 0.0 if arm == "L1" else ratio,
        "weight": 1.0,
        "seconds": 1.0,
        "batches": "0",
        "start": "0",
        "levels": {"choosing": 30.0, **dict.fromkeys(cases, 30.0)},
        "masks": {price: [0.7, "inf", 0.1] for price in prices},
        "raw": {case: {"psnr": [30.0], "lpips": [0.5]} for case in cases},
        "equal": {price: {case: dict(figures) for case in cases} for price in prices},
        "metadata": {"command": "", "machine": "", "commit": "", "date": ""},
        **changed,
    }


def keep(folder: Path, runs: list[Any]) -> None:
    for index, run in enumerate(runs):
        (folder / f"{run['stage']}-{index}.json").write_text(json.dumps(run))


def trials(part: Any, *arms: str, best: int = 1) -> list[Any]:
    """Return the trials of arms, of which the ratio of that place is best."""
    ratios = part("plan").RATIOS
    return [
        run_figures(part, arm, 100, [0.3 + 0.01 * abs(place - best)], ratio=ratio, stage="trials")
        for arm in arms
        for place, ratio in enumerate(ratios if arm != "L1" else (0.0,))
    ]


def test_of_the_ratios_that_reach_all_levels_the_one_both_judges_like_best_is_taken(part: Any, tmp_path: Path) -> None:
    runs, chosen_ratio = trials(part, "SSIM", best=1), part("summary").chosen_ratio
    keep(tmp_path, runs[:-1])
    with pytest.raises(FileNotFoundError, match=r"SSIM has not been tried at \[4.0\]"):
        chosen_ratio(tmp_path, "SSIM")
    keep(tmp_path, runs)
    assert chosen_ratio(tmp_path, "SSIM") == 2.0
    first, second = part("plan").STAGES["trials"].prices
    runs[2]["equal"][str(second)]["shake"] |= {"lpips": [0.27], "stlpips": [0.3]}
    keep(tmp_path, runs)
    assert chosen_ratio(tmp_path, "SSIM") == 4.0
    runs[2]["equal"][str(first)]["shake"] = None
    keep(tmp_path, runs)
    assert chosen_ratio(tmp_path, "SSIM") == 2.0
    for run in runs:
        run["equal"][str(first)]["shake"] = None
    keep(tmp_path, runs)
    with pytest.raises(FileNotFoundError, match=r"no ratio brings SSIM to all prices"):
        chosen_ratio(tmp_path, "SSIM")


@pytest.fixture
def confirmed(part: Any, tmp_path: Path) -> Any:
    """Two arms over eight seeds; the second is better by a tenth, and a little more on later seeds."""
    keep(tmp_path, trials(part, "SSIM", "VGG16 relu3_3"))
    ratio = part("plan").RATIOS[1]
    runs = [run_figures(part, "SSIM", seed, [0.4, 0.6], ratio=ratio) for seed in range(8)]
    ours = ([0.4 - 0.001 * seed, 0.5] for seed in range(8))
    runs += [run_figures(part, "VGG16 relu3_3", seed, each, ratio=ratio) for seed, each in enumerate(ours)]
    keep(tmp_path, runs)
    return tmp_path


def test_a_contrast_is_paired_by_seed_and_above_0_where_lower_is_better(part: Any, confirmed: Path) -> None:
    found = part("summary").Runs(confirmed, "confirmation").contrast("VGG16 relu3_3", "SSIM", 0.1, "shake", "lpips")
    assert found.gain == pytest.approx(10 + 0.1 * 3.5)
    assert found.p == 2 / 2**8
    assert found.seeds == 8
    assert found.interval[0] < found.gain < found.interval[1]
    psnr_gain = part("summary").Runs(confirmed, "confirmation").contrast("VGG16 relu3_3", "SSIM", 0.1, "shake", "psnr")
    assert psnr_gain.gain == pytest.approx(-found.gain)


@pytest.mark.parametrize("loss", ["a seed", "a level"])
def test_a_seed_on_which_an_arm_does_not_get_there_is_not_left_out_in_silence(
    part: Any, confirmed: Path, loss: str
) -> None:
    path = confirmed / "confirmation-3.json"
    run = json.loads(path.read_text())
    run["equal"]["0.1"]["shake"] = None
    path.write_text(json.dumps(run))
    if loss == "a seed":
        path.unlink()
    runs = part("summary").Runs(confirmed, "confirmation")
    assert runs.contrast("VGG16 relu3_3", "SSIM", 0.1, "shake", "lpips") is None


def test_the_tables_name_all_arms_and_the_named_contrasts_are_corrected_together(part: Any, tmp_path: Path) -> None:
    plan = part("plan")
    arms = ["L1", *plan.CONFIRMED]
    runs = trials(part, *arms)
    for place, arm in enumerate(arms):
        ratio = plan.RATIOS[1] if arm != "L1" else 0.0
        runs += [run_figures(part, arm, seed, [0.3 + 0.01 * place] * 2, ratio=ratio) for seed in range(8)]
    keep(tmp_path, runs)
    made = part("results").results(tmp_path)
    assert set(made) == {f"deblurring_{name}" for name in ("trials", "quality", "gains", "contrasts")}
    gains = made["deblurring_gains"]["table"]["rows"]
    assert [row[0] for row in gains] == list(plan.CONFIRMED)
    assert gains[0][1] == f"{100 * -0.01 / 0.3:+.1f} %"
    for result in made.values():
        assert all(len(row) == len(result["table"]["columns"]) for row in result["table"]["rows"])
        json.dumps(result)
    assert [row[0] for row in made["deblurring_quality"]["table"]["rows"]] == [
        "L1",
        *(f"L1 + {arm}" for arm in arms[1:]),
    ]
    contrasts = made["deblurring_contrasts"]["contrasts"]
    assert len(contrasts) == 2 * len(plan.CONTRASTS)
    assert [each["p_holm"] for each in contrasts] == [pytest.approx(len(contrasts) * 2 / 2**8)] * len(contrasts)
    part("figure").draw(written(tmp_path, made), tmp_path / "picture.png")
    assert {path.stem for path in tmp_path.glob("*.png")} == {"picture", "picture_front", "picture_curves"}


def written(folder: Path, made: dict[str, Any]) -> Path:
    for name, result in made.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    return folder


def test_the_picture_has_a_row_a_photograph_and_a_column_an_arm(script: Callable[[str], ModuleType]) -> None:
    pictures = script("deblurring_pictures")
    shown = pictures.picture(dict.fromkeys(pictures.ARMS, lambda pairs: pairs.sharp / 255))
    side, gap = pictures.WIDTH, pictures.GAP
    assert shown.width == (len(pictures.ARMS) + 2) * (side + gap) - gap
    left, top = shown.width - 2 * side - gap, shown.height - side
    # What an arm makes of the last photograph is the sharp image here, and the blurred one is another.
    arm, sharp = (shown.crop((start, top, start + side, top + side)) for start in (left, left + side + gap))
    assert arm.tobytes() == sharp.tobytes()
    assert shown.crop((0, top, side, top + side)).tobytes() != sharp.tobytes()
