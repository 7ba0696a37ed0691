"""What tuned backbones do as losses: one small deblurring network, finished from the same start with each of them.

The demo's network and schedule, on photographs. Wants the backbones that `finetuning.py squeezenet` has put in OUT,
and `finetuning.py compact` in OUT2; the network of seed s is finished with the SqueezeNet of seed s. Backbones that are
not there are left out. Writes results/tuned_losses.json after every arm, and
skips those that are there:

    python benchmarks/tuned_losses.py OUT OUT2 --train DIR --test DIR --weights FILE.safetensors [--seeds 3]
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _backbones import loss_on_all_taps, untuned_squeezenet
from _common import RESULTS, metadata, write_result
from _evaluation import METRICS, best_mask, measure
from _photographs import central_crops
from torch import Tensor
from tqdm import tqdm

from tafm_loss import Backbone, create_backbone, load_backbone
from tafm_loss.demo import blur_scenes, photograph_pairs, restore, train_finish, train_start, with_feature_loss

START_STEPS, FINISH_STEPS = 1600, 800
HELD_OUT_SIZE = 192
HELD_OUT_EVERY = 5
SQUEEZENET_ARMS = ("triplet", "order alone", "graded", "graded + geometry")
BLURRED, PIXEL, MASK = "blurred input", "L1", "L1 + unsharp mask"


def backbones(options: argparse.Namespace, seed: int) -> dict[str, Callable[[], Backbone]]:
    """Return what gives the backbone of each arm."""
    folders = {f"L1 + SqueezeNet, {name}": options.out / f"{name.replace(' ', '-')}-{seed}" for name in SQUEEZENET_ARMS}
    folders |= {
        f"L1 + tafm-compact, {name}": options.compact / name.replace(" ", "-")
        for name in ("generated scenes", "photographs")
    }
    return {
        "L1 + tafm-compact, as bundled": lambda: create_backbone("tafm-compact"),
        "L1 + SqueezeNet, untuned": lambda: untuned_squeezenet(options.weights, options.train),
        **{
            name: lambda folder=folder: load_backbone(folder)
            for name, folder in folders.items()
            if (folder / "config.json").exists()
        },
    }


def figures(restored: Tensor, sharp: Tensor) -> dict[str, float]:
    """Return the means of the metrics over the held-out photographs."""
    values = measure({"": restored}, sharp)[""]
    return {column.heading: float(values[column.heading].mean()) for column in METRICS.values()}


def table(runs: dict[str, Any], scenes: int) -> dict[str, Any]:
    """Return a row an arm: means over the seeds, in brackets the range of the difference from L1."""
    rows = []
    for name in dict.fromkeys(run["arm"] for run in runs.values()):
        own = {run["seed"]: run["figures"] for run in runs.values() if run["arm"] == name}
        cells = []
        for column in METRICS.values():
            values = [found[column.heading] for found in own.values()]
            text = f"{statistics.fmean(values):.{column.digits}f}"
            if name not in (BLURRED, PIXEL):
                pixel = {run["seed"]: run["figures"] for run in runs.values() if run["arm"] == PIXEL}
                gaps = [found[column.heading] - pixel[seed][column.heading] for seed, found in own.items()]
                text += f" ({min(gaps):+.{column.digits}f} to {max(gaps):+.{column.digits}f})"
            cells.append(text)
        rows.append([f"{name} ({len(own)})", *cells])
    return {
        "columns": ["arm (seeds)", *(column.heading for column in METRICS.values())],
        "rows": rows,
        "caption": f"Means over {scenes} BSDS500 test photographs, blurred by a shake of 5 to 8 px with noise, and "
        "over seeds; in brackets the least and largest difference from L1 of the same seed. "
        f"{START_STEPS} steps with L1, then {FINISH_STEPS} with L1 + the loss, whose gradient is half as strong at the "
        "start of that. The mask has the lowest GMSD on these very photographs.",
    }


def main() -> None:
    """Train the arms that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="where finetuning.py squeezenet has put its backbones")
    parser.add_argument("compact", type=Path, help="where finetuning.py compact has put its backbones")
    parser.add_argument("--train", type=Path, required=True, help="a folder of photographs (BSDS500 train)")
    parser.add_argument("--test", type=Path, required=True, help="other photographs (BSDS500 test)")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights for torchvision's squeezenet1_0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = RESULTS / "tuned_losses.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else {}
    facts = metadata(
        "python benchmarks/tuned_losses.py OUT OUT2 --train BSDS500/train --test BSDS500/test --weights FILE"
    )
    training, _ = photograph_pairs(options.train, torch.Generator().manual_seed(0))
    crops = central_crops(options.test, HELD_OUT_SIZE, every=HELD_OUT_EVERY)
    held_out = blur_scenes(crops, torch.Generator().manual_seed(1))

    def keep(name: str, seed: int, restored: Tensor) -> None:
        runs[f"{name}, seed {seed}"] = {"arm": name, "seed": seed, "figures": figures(restored, held_out.sharp)}
        write_result(path, {"table": table(runs, len(crops)), "metadata": facts, "runs": runs})

    for seed in range(options.seeds):
        losses = backbones(options, seed)
        wanted = [name for name in losses if f"{name}, seed {seed}" not in runs]
        if not wanted:
            continue
        with tqdm(desc=f"seed {seed}") as bar:
            start = train_start(training, START_STEPS, seed=seed, bar=bar)
            if f"{PIXEL}, seed {seed}" not in runs:
                pixel = restore(
                    train_finish(start, F.l1_loss, training, FINISH_STEPS, seed=seed, bar=bar), held_out.blurred
                )
                keep(BLURRED, seed, held_out.blurred)
                keep(PIXEL, seed, pixel)
                keep(MASK, seed, best_mask(pixel, held_out.sharp)(pixel))
            for name in wanted:
                loss = loss_on_all_taps(losses[name]())
                both, _ = with_feature_loss(start, loss, training, seed=seed)
                arm = train_finish(start, both, training, FINISH_STEPS, seed=seed, bar=bar)
                keep(name, seed, restore(arm, held_out.blurred))


if __name__ == "__main__":
    main()
