"""How the balance of the loss and a pixel loss drifts over training, and which calibration keeps it.

    python benchmarks/balance.py --datasets DIR     # trains, writes results/balance.json, draws docs/balance.png
    python benchmarks/balance.py --datasets DIR --weights    # only asks for the weight: results/balance_weights.json
    python benchmarks/balance.py --plot             # only draws the plot again, from the result file

Three networks are trained from nothing on BSDS500 train (DIR/bsds500) with a pixel loss + weight * feature loss. Every
few steps the ratio of the two gradients with respect to the output is read. All runs of a network see the same batches.
Written after every run; runs that are there are skipped. About half an hour of one core.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _balance_arms import (
    ALONE,
    CALIBRATIONS,
    EVERY,
    FIXED,
    MOVING,
    NETWORKS,
    PIXELS,
    RATIO,
    READINGS,
    SMALLEST,
    START,
    SWEPT,
    WARM,
    WARM_UP,
    Arm,
    all_arms,
    weight_of,
)
from _balance_plot import draw
from _common import RESULTS, ROOT, command_line, markdown, metadata, refuse_quick_results, write_result
from _photographs import central_crops
from latent_comparison import kept_runs
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(ROOT))

from _evaluation import METRICS

from examples.deblurring.models.networks import create_network
from tafm_loss import TaskAdaptiveFeatureLoss, gradient_ratio
from tafm_loss.basicsr import PIXEL_LOSSES
from tafm_loss.demo import Pairs, batches_of, blur_scenes, cosine_schedule, restore

Figures = dict[str, Any]

STEPS, QUICK_STEPS = 600, 240
TRAIN_SIZE = 256
TEST_SIZE, TEST_EVERY = 160, 4
SEED = 0


def train(arm: Arm, pairs: Pairs, steps: int) -> tuple[nn.Module, list[Figures]]:
    """Train a network as the arm says, and return it with its readings."""
    family, options = NETWORKS[arm.network]
    network = create_network(family, seed=SEED, **options).to(memory_format=torch.channels_last)
    pixel, feature = PIXEL_LOSSES[PIXELS[arm.pixel]], TaskAdaptiveFeatureLoss()
    optimiser = torch.optim.AdamW(network.parameters())
    rate = cosine_schedule(steps)
    units: list[float] = []
    readings: list[Figures] = []
    for step, batch in enumerate(tqdm(batches_of(pairs, steps, SEED), arm.name, steps, leave=False)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            restored = network(batch.blurred)[-1]
        restored = restored.float()
        if step % EVERY == 0:
            units.append(gradient_ratio(feature, pixel, restored, batch.sharp))
            weight = weight_of(arm.calibration, arm.ratio, units)
            readings.append({"step": step, "psnr": psnr(restored, batch.sharp), "weight": weight, "unit": units[-1]})
        loss = pixel(restored, batch.sharp)
        if weight > 0:
            loss = loss + weight * feature(restored, batch.sharp)
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval(), readings


def psnr(restored: Tensor, sharp: Tensor) -> float:
    return -float(PIXEL_LOSSES["psnr"](restored.detach(), sharp))


def run(arm: Arm, pairs: Pairs, held_out: Pairs, steps: int) -> Figures:
    """Train an arm and measure it on the held-out photographs."""
    network, readings = train(arm, pairs, steps)
    restored = restore(lambda images: network(images)[-1], held_out.blurred)
    return {
        **arm._asdict(),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "readings": readings,
        "figures": {metric.__name__: float(metric(restored, held_out.sharp).mean()) for metric in METRICS},
    }


def on_the_way(values: Mapping[int, float], steps: int, shares: Sequence[float]) -> list[float]:
    """Return what values by step are at some shares of `steps`, each the median of the `READINGS` nearest."""
    near = [sorted(values, key=lambda step: abs(step - share * steps))[:READINGS] for share in shares]
    return [statistics.median(values[step] for step in some) for some in near]


def as_table(runs: Sequence[Figures], settings: Figures) -> Figures:
    """Return a row for each network and pixel loss: ratios and weights over training, and the quality at its end."""
    rows = []
    for key in dict.fromkeys((run["network"], run["pixel"]) for run in runs):
        own = {
            run["calibration"]: run for run in runs if (run["network"], run["pixel"]) == key and run["ratio"] == RATIO
        }
        rows.append(
            [
                ", ".join(key),
                *(ratios(own.get(name), settings["steps"]) for name in (START, WARM, FIXED)),
                weights(own.get(ALONE), settings["steps"]),
                *(quality(own.get(name)) for name in CALIBRATIONS),
            ]
        )
    return {
        "columns": [
            "network, pixel loss",
            *(f"ratio, calibrated {name}" for name in (START, WARM)),
            f"ratio, {FIXED}",
            f"weight for {RATIO:g}",
            ALONE,
            *(f"calibrated {name}" for name in (START, WARM)),
            MOVING,
            FIXED,
        ],
        "rows": rows,
        "caption": caption(runs, settings),
    }


def ratios(found: Figures | None, steps: int) -> str:
    """Return a cell: the ratio when the weight begins to count, at a quarter, at half and at the end of the steps."""
    if not found:
        return ""
    weighed = {one["step"]: one["weight"] * one["unit"] for one in found["readings"] if one["weight"] > 0}
    return " → ".join(f"{ratio:.2f}" for ratio in on_the_way(weighed, steps, (0, 0.25, 0.5, 1)))


def weights(found: Figures | None, steps: int) -> str:
    """Return a cell: the weight that gives the wanted ratio at the start, at a quarter and at the end."""
    if not found:
        return ""
    wanted = {one["step"]: RATIO / one["unit"] for one in found["readings"]}
    return " → ".join(f"{weight:.2g}" for weight in on_the_way(wanted, steps, (0, 0.25, 1)))


def weight_table(runs: Sequence[Figures], settings: Figures) -> Figures:
    """Return a row for each network and pixel loss: the weight that gives the wanted ratio, over the training."""
    rows = [[f"{run['network']}, {run['pixel']}", *weights(run, settings["steps"]).split(" → ")] for run in runs]
    about = (
        f"The weight on {settings['loss']}, that makes its gradient {RATIO:g} times as long as that of the pixel loss. "
        f"The networks train from nothing by the pixel loss alone, for {settings['steps']} steps on BSDS500 train, "
        f"shakes of 5 to 8 px with noise. Medians of {READINGS} readings; one seed."
    )
    columns = ["network, pixel loss", "weight at the start", "after a quarter", "at the end"]
    return {"columns": columns, "rows": rows, "caption": about}


def quality(found: Figures | None) -> str:
    if not found:
        return ""
    figures = found["figures"]
    return f"{figures['psnr']:.2f} / {figures['ssim']:.4f} / {figures['gmsd']:.4f}"


def caption(runs: Sequence[Figures], settings: Figures) -> str:
    sizes = {run["network"]: run["parameters"] for run in runs}
    named = ", ".join(f"{name} {size / 1e6:.2f} M parameters" for name, size in sizes.items())
    sweep = "; ".join(
        f"ratio {run['ratio']:g}: {quality(run)}"
        for run in sorted(runs, key=lambda run: run["ratio"])
        if (run["network"], run["pixel"], run["calibration"]) == SWEPT
    )
    return (
        "Ratio: of the gradient of the weighted loss to that of the pixel loss, with respect to the output, when the "
        f"weight begins to count, at a quarter, half and the end of {settings['steps']} steps from nothing; wanted is "
        f"{RATIO:g}. At the start calibrated on the first batch, after a warm-up of {WARM_UP} steps of the pixel loss "
        f"on the last {READINGS} batches read, moving on these anew every {EVERY} steps. Medians of {READINGS} "
        f"readings; nine of ten readings of one batch are within a factor of {spread(runs):.1f} of that. Weight: what "
        f"gives {RATIO:g} to networks trained by the pixel loss alone, at the start, a quarter and the end. Then PSNR "
        f"/ SSIM / GMSD on {settings['held_out']} photographs of BSDS500 val, shakes of 5 to 8 px with noise. One "
        f"seed. The loss: {settings['loss']}. {named}. {', '.join(SWEPT)}, by wanted ratio: {sweep}."
    )


def form(loss: TaskAdaptiveFeatureLoss) -> str:
    return f"{loss.backbone.config.name}, {' + '.join(loss.layers)}, {loss.distance}"


def spread(runs: Sequence[Figures]) -> float:
    """Return the factor within which nine of ten readings are of the median of their neighbourhood."""
    factors = []
    for run in runs:
        units = [reading["unit"] for reading in run["readings"]]
        for last in range(READINGS, len(units) + 1):
            around = units[last - READINGS : last]
            factors.append(abs(math.log(around[READINGS // 2] / statistics.median(around))))
    return math.exp(statistics.quantiles(factors, n=10)[-1])


def pairs_of(folder: Path, size: int, every: int, seed: int) -> Pairs:
    return blur_scenes(central_crops(folder, size, every=every), torch.Generator().manual_seed(seed))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=Path("datasets"), help="holds bsds500/train and bsds500/val")
    parser.add_argument("--quick", action="store_true", help="the smallest network and few steps: tells that all runs")
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the result file again")
    parser.add_argument("--weights", action="store_true", help="train by the pixel losses alone: tells the weight")
    parser.add_argument("--out", type=Path, help="the result file; default: balance.json or balance_weights.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "balance.png", help="the plot")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out = arguments.out or RESULTS / ("balance_weights.json" if arguments.weights else "balance.json")
    refuse_quick_results(parser, quick=arguments.quick, out=arguments.out)
    if arguments.plot and not arguments.out.exists():
        parser.error(f"--plot draws the result file, and there is no {arguments.out}: measure first")
    return arguments


def main() -> None:
    """Train and measure the arms that are not there yet."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.plot:
        draw(json.loads(arguments.out.read_text()), arguments.picture)
        return
    arms = [
        arm
        for arm in all_arms()
        if (arm.network == SMALLEST or not arguments.quick) and (arm.calibration == ALONE or not arguments.weights)
    ]
    photographs, thinned = arguments.datasets / "bsds500", 8 if arguments.quick else 1
    pairs = pairs_of(photographs / "train", TRAIN_SIZE, thinned, SEED)
    held_out = pairs_of(photographs / "val", TEST_SIZE, thinned * TEST_EVERY, SEED + 1)
    settings = {
        "steps": QUICK_STEPS if arguments.quick else STEPS,
        "held_out": len(held_out.sharp),
        "ratio": RATIO,
        "loss": form(TaskAdaptiveFeatureLoss()),
    }
    runs, facts = kept_runs(arguments.out, settings), metadata(command_line())
    for arm in tqdm(arms, "arms"):
        if arm.name not in runs:
            runs[arm.name] = run(arm, pairs, held_out, settings["steps"])
            table = (weight_table if arguments.weights else as_table)(list(runs.values()), settings)
            write_result(arguments.out, {"table": table, "metadata": facts, "settings": settings, "runs": runs})
    result = json.loads(arguments.out.read_text())
    print(markdown(result["table"]["columns"], result["table"]["rows"]))
    if not arguments.weights:
        draw(result, arguments.picture)


if __name__ == "__main__":
    main()
