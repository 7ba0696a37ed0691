"""The configs, the schedule and the batches: what is refused, what is published, and what follows from the seed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.trees import make_tree
from examples.deblurring.models.networks import list_networks
from examples.deblurring.training.batches import Batches
from examples.deblurring.training.config import (
    Experiment,
    Optimizer,
    Schedule,
    check_schedule,
    learning_rate,
    load_experiment,
)
from examples.deblurring.training.losses import LOSSES

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "examples" / "deblurring" / "configs").glob("*.yaml"))
SMALL = """
network: {name: residual-unet}
data: {dataset: flat, root: tree}
objective: [{loss: l1, weight: 1}]
training: {steps: 5, batch_size: 2}
"""


def written(folder: Path, text: str, name: str = "experiment.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_sound(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.about.strip().endswith(".")
    assert experiment.network.name in list_networks()
    assert {term.loss for term in experiment.objective} <= set(LOSSES)
    check_schedule(experiment.schedule)


def published(name: str) -> Experiment:
    (path,) = (path for path in CONFIGS if path.stem == name)
    return load_experiment(path)


L1_FOURIER = [("l1", 1.0), ("fourier", 0.1)]
CHARBONNIER_EDGE = [("charbonnier", 1.0), ("edge", 0.05)]
# Published passes over 2,103 images: 526 steps of a batch of 4 each, 1,052 of 2.
PROTOCOLS = {
    "mimo_unet_gopro": ("mimo-unet", L1_FOURIER, "hflip", 1e-4, 3000 * 526, 4, None),
    "mimo_unet_plus_gopro": ("mimo-unet-plus", L1_FOURIER, "hflip", 1e-4, 3000 * 526, 4, None),
    "hinet_gopro": ("hinet", [("psnr", 0.5)], "flips_and_turns", 2e-4, 400_000, 64, 0.01),
    "mprnet_gopro": ("mprnet", CHARBONNIER_EDGE, "mprnet", 2e-4, 394_000, 16, None),
    "nafnet32_gopro": ("nafnet-32", [("psnr", 1.0)], "flips_and_turns", 1e-3, 200_000, 32, 0.01),
    "nafnet64_gopro": ("nafnet-64", [("psnr", 1.0)], "flips_and_turns", 1e-3, 400_000, 64, 0.01),
    "hinet_gopro_finetune_pixel": ("hinet", [("psnr", 0.5)], "flips_and_turns", 2e-5, 20_000, 4, 0.01),
    "mprnet_gopro_finetune_pixel": ("mprnet", CHARBONNIER_EDGE, "mprnet", 1e-6, 210_000, 2, 0.01),
}


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS.items())
def test_the_protocols_are_the_published_ones(name: str, protocol: tuple[Any, ...]) -> None:
    experiment = published(name)
    training, data = experiment.training, experiment.data
    objective = [(term.loss, term.weight) for term in experiment.objective]
    rate = experiment.optimizer.learning_rate
    found = experiment.network.name, objective, data.augmentation, rate
    assert (*found, training.steps, training.batch_size, training.clip) == protocol
    assert data.crop_size == 256 and not experiment.network.options


@pytest.mark.parametrize("base", ["hinet_gopro", "mprnet_gopro", "unet_synthetic"])
def test_a_fine_tune_differs_from_its_control_in_the_feature_term_alone(base: str) -> None:
    control = published(f"{base}_finetune_pixel")
    assert "tafm" not in {term.loss for term in control.objective}
    arms = [path.stem for path in CONFIGS if path.stem.startswith(f"{base}_finetune_")]
    assert len(arms) >= 3
    for arm in set(arms) - {f"{base}_finetune_pixel"}:
        experiment = published(arm)
        *pixel, feature = experiment.objective
        assert pixel == control.objective and feature.loss == "tafm"
        experiment.objective, experiment.about = control.objective, control.about
        assert experiment == control


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("training.stepz=5", "stepz.*Did you mean: 'steps'"),
        ("training.steps=many", "many.*Integer"),
        ("training.ema=1.5", "ema must be between 0 and 1"),
        ("training.mixed_precision=fp8", "no, fp16, bf16, got fp8"),
        ("schedule.warm_up=6", "warm_up must be between 0 and training.steps, got 6"),
        ("network.options.seed=3", "network.options must not hold seed"),
        ("objective.0.weight=2", "Cannot merge"),
        ("objective=[{loss: l1, weight: -1}]", "l1 must be finite and not negative"),
        ("objective=[{loss: l1, weight: 1}, {loss: edge, gradient_ratio: 0}]", "gradient_ratio of the term edge"),
        ("objective=[{loss: l1, weight: 1, options: {reduction: none}}]", "leave its reduction out"),
        ("objective=[{loss: l1}]", "l1 needs either a weight or a gradient_ratio"),
        ("objective=[{loss: l1, gradient_ratio: 1}]", "at least one term with a weight above 0"),
    ],
)
def test_a_mistake_in_a_config_is_told_with_the_file(tmp_path: Path, change: str, told: str) -> None:
    path = written(tmp_path, SMALL)
    with pytest.raises(ValueError, match=f"(?s){path.name}.*{told}"):
        load_experiment(path, [change])


def test_a_config_can_change_some_keys_of_another(tmp_path: Path) -> None:
    written(tmp_path, SMALL)
    path = written(tmp_path, "extends: experiment.yaml\ntraining: {steps: 9}\n", "longer.yaml")
    experiment = load_experiment(path, ["training.seed=3", "training.mixed_precision=no"])
    assert experiment.training.mixed_precision == "no"
    assert (experiment.training.steps, experiment.training.batch_size, experiment.training.seed) == (9, 2, 3)


def test_a_config_that_extends_itself_is_told(tmp_path: Path) -> None:
    for spelling in ("experiment.yaml", f"../{tmp_path.name}/experiment.yaml"):
        with pytest.raises(ValueError, match="extends itself"):
            load_experiment(written(tmp_path, f"extends: {spelling}\n"))
    with pytest.raises(ValueError, match="must name a file beside it, got 5"):
        load_experiment(written(tmp_path, "extends: 5\n"))


def test_the_rate_is_halved_every_so_often_or_rises_first() -> None:
    rates = [
        learning_rate(step, 100, Optimizer(learning_rate=8.0), Schedule("halving", every=10)) for step in (9, 10, 35)
    ]
    assert rates == [8.0, 4.0, 1.0]
    schedule = Schedule("constant", warm_up=4)
    assert [learning_rate(step, 9, Optimizer(learning_rate=4.0), schedule) for step in (0, 3, 8)] == [1.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (Schedule("linear"), "constant, cosine, halving"),
        (Schedule("halving"), "every"),
        (Schedule(final=-1.0), "negative"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_told(schedule: Schedule, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_schedule(schedule)


def batches(
    folder: Path, dataset: str = "flat", batch_size: int = 4, share: slice = slice(0, 4), seed: int = 0
) -> Batches:
    options = make_tree(dataset, folder, "train", scenes=2, frames=3)
    return Batches(
        open_pairs(dataset, folder, "train", **options),
        crop_size=16,
        augmentation="flips_and_turns",
        batch_size=batch_size,
        share=share,
        seed=seed,
    )


def test_batches_follow_from_the_seed_and_the_step_whatever_their_size_and_share(tmp_path: Path) -> None:
    first, again, other = batches(tmp_path), batches(tmp_path), batches(tmp_path, seed=1)
    assert torch.equal(first.draw(7).sharp, again.draw(7).sharp)
    assert not torch.equal(first.draw(7).sharp, first.draw(6).sharp)
    assert not torch.equal(first.draw(7).sharp, other.draw(7).sharp)
    halves = [batches(tmp_path, share=slice(start, start + 2)).draw(3) for start in (0, 2)]
    assert torch.equal(torch.cat([half.blurred for half in halves]), first.draw(3).blurred)
    small = [batches(tmp_path, batch_size=2, share=slice(0, 2)).draw(step) for step in (0, 1)]
    assert torch.equal(torch.cat([part.sharp for part in small]), first.draw(0).sharp)


def test_every_pass_has_each_pair_once(tmp_path: Path) -> None:
    drawn = batches(tmp_path)
    orders = [
        [int(drawn._order(number // 6)[number % 6]) for number in range(start, start + 6)] for start in (0, 6, 12)
    ]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert orders[0] != orders[1] or orders[1] != orders[2]


def test_an_image_that_is_too_small_is_told_before_a_run(tmp_path: Path) -> None:
    options = make_tree("synthetic", tmp_path, "train", scenes=1, frames=1)
    pairs = open_pairs("synthetic", tmp_path, "train", **options)
    plan = {"augmentation": "none", "batch_size": 1, "share": slice(0, 1), "seed": 0}
    with pytest.raises(ValueError, match=r"crops of 40 px, and \d+ px for the blur, do not fit into .*64 x 48 px"):
        Batches(pairs, crop_size=40, **plan)  # type: ignore[arg-type]


def test_synthetic_pairs_are_blurred_on_the_device_and_cut_to_size(tmp_path: Path) -> None:
    drawn = batches(tmp_path, "synthetic")
    pairs = drawn.pairs
    assert drawn.draw(0).sharp.shape[-1] == 16 + pairs.margin
    blurred, sharp = drawn.on_device(drawn.draw(0), 0, torch.device("cpu"))
    assert blurred.shape == sharp.shape == (4, 3, 16, 16)
    assert float((blurred - sharp).abs().mean()) > 0.005
    assert not torch.equal(blurred, drawn.on_device(drawn.draw(0), 1, torch.device("cpu")).blurred)
