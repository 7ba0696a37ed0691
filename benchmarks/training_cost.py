"""What a step of fine-tuning costs, and whether reading images keeps up with it.

Steps per second of `finetune_backbone`'s loop, and the time of a step with images read from a folder over that with one
batch that is kept in memory, in interleaved rounds of one run. Writes results/training_cost.json:

    python benchmarks/training_cost.py --train DIR --weights FILE.safetensors
"""

import argparse
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, metadata, write_result
from tqdm import tqdm

from tafm_loss import Backbone, create_backbone
from tafm_loss.finetune import GradedObjective, Objective, TripletObjective, default_synthesizer
from tafm_loss.finetune.crops import SceneCrops
from tafm_loss.finetune.loop import Loop, Plan
from tafm_loss.finetune.sources import Graded
from tafm_loss.finetune.tuning import Tuning

CROP_SIZE = 96
BATCH_SIZE = 6
STEPS = 10


class CachedLoop(Loop):
    """A loop that reads nothing: every step has the batch of the first."""

    def _draw(self, step: int) -> Graded:
        if not hasattr(self, "batch"):
            self.batch = super()._draw(0)
        return self.batch


def seconds_a_step(kind: type[Loop], backbone: Backbone, goal: Objective, crops: SceneCrops, accelerator: Any) -> float:
    """Return the seconds of a step, the first two left out."""
    tuned = backbone.eval()
    tuned.requires_grad_(True)

    def loop(steps: int) -> Loop:
        plan = Plan(steps, BATCH_SIZE, 1e-6, 1, None, 0)
        return kind(
            Tuning(tuned, goal),
            crops,
            None,
            default_synthesizer(),
            plan,
            accelerator,
            None,
            progress=False,
        )

    loop(2).run()
    began = time.perf_counter()
    loop(STEPS).run()
    return (time.perf_counter() - began) / STEPS


def write(times: dict[str, dict[str, list[float]]]) -> None:
    """Write the result of the rounds so far."""
    rows, found = [], {}
    for name, measured in times.items():
        ratios = [read / kept for read, kept in zip(measured["folder"], measured["cached"], strict=True)]
        folder = statistics.median(measured["folder"])
        found[name] = {"seconds": measured, "ratio": statistics.median(ratios)}
        rows.append([name, f"{1000 * folder:.0f}", f"{1 / folder:.2f}", f"{statistics.median(ratios):.2f}"])
    rounds = len(measured["folder"])
    table = {
        "columns": ["backbone, objective", "ms a step", "steps/s", "with a folder / with one batch in memory"],
        "rows": rows,
        "caption": f"{BATCH_SIZE} crops of {CROP_SIZE} px, five levels; {STEPS} steps a round, medians over rounds: "
        f"{rounds}. The folder is opened anew in every round, so that all files of its steps are decoded.",
    }
    command = "python benchmarks/training_cost.py --train BSDS500/train --weights squeezenet1_0-imagenet.safetensors"
    write_result(RESULTS / "training_cost.json", {"table": table, "metadata": metadata(command), "cases": found})


def main() -> None:
    """Measure all cases, in rounds."""
    from accelerate import Accelerator

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="a folder of photographs (BSDS500 train)")
    parser.add_argument("--weights", type=Path, help="ImageNet weights for torchvision's squeezenet1_0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbones = {"tafm-compact": create_backbone("tafm-compact", weights=None)}
    backbones["squeezenet1_0"] = create_backbone("squeezenet1_0", weights=options.weights)
    cases = {
        "tafm-compact, graded": (backbones["tafm-compact"], GradedObjective()),
        "squeezenet1_0, triplet": (backbones["squeezenet1_0"], TripletObjective()),
        "squeezenet1_0, graded": (backbones["squeezenet1_0"], GradedObjective()),
        "squeezenet1_0, graded + geometry": (backbones["squeezenet1_0"], GradedObjective(geometry=1.0)),
    }
    accelerator = Accelerator()
    times: dict[str, dict[str, list[float]]] = {name: {"folder": [], "cached": []} for name in cases}
    # New for each case: what the first steps decode is part of what reading costs.
    for _ in tqdm(range(options.rounds), desc="rounds"):
        for name, (backbone, goal) in cases.items():
            for source, kind in (("folder", Loop), ("cached", CachedLoop)):
                crops = SceneCrops(options.train, CROP_SIZE)
                times[name][source].append(seconds_a_step(kind, backbone, goal, crops, accelerator))
        write(times)


if __name__ == "__main__":
    main()
