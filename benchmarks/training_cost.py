"""What a step of fine-tuning costs, and whether reading images keeps up with it.

Steps per second of `finetune_backbone`'s loop, and the time of a step with images read from a folder over that with
images that are kept in memory, in interleaved rounds of one run. Writes results/training_cost.json:

    python benchmarks/training_cost.py --train DIR --weights FILE.safetensors
"""

import argparse
import statistics
import time
import warnings
from pathlib import Path

import torch
from _common import RESULTS, metadata, write_result
from tqdm import tqdm

from tafm_loss import Backbone, create_backbone, finetune_backbone
from tafm_loss.finetune import GradedObjective, Objective, TripletObjective
from tafm_loss.images import find_images, read_image

CROP_SIZE = 96
BATCH_SIZE = 6
STEPS = 10
KEPT_SIZE = 320


def seconds_a_step(backbone: Backbone, goal: Objective, images: Path | torch.Tensor) -> float:
    """Return the seconds of a step: what a run takes longer that has more of them."""

    def seconds(steps: int) -> float:
        began = time.perf_counter()
        finetune_backbone(
            backbone, images, objective=goal, steps=steps, batch_size=BATCH_SIZE, crop_size=CROP_SIZE, progress=False
        )
        return time.perf_counter() - began

    few = seconds(2)
    return (seconds(2 + STEPS) - few) / STEPS


def in_memory(folder: Path) -> torch.Tensor:
    """Return the upper left parts of the images of a folder as one tensor."""
    images = (read_image(path)[:, :KEPT_SIZE, :KEPT_SIZE] for path in find_images(folder))
    return torch.stack([image for image in images if image.shape[1:] == (KEPT_SIZE, KEPT_SIZE)])


def write(times: dict[str, dict[str, list[float]]]) -> None:
    """Write the result of the rounds so far."""
    rows, found = [], {}
    for name, measured in times.items():
        ratios = [read / kept for read, kept in zip(measured["folder"], measured["memory"], strict=True)]
        folder = statistics.median(measured["folder"])
        found[name] = {"seconds": measured, "ratio": statistics.median(ratios)}
        rows.append([name, f"{1000 * folder:.0f}", f"{1 / folder:.2f}", f"{statistics.median(ratios):.2f}"])
    rounds = len(measured["folder"])
    table = {
        "columns": ["backbone, objective", "ms a step", "steps/s", "with a folder / with the images in memory"],
        "rows": rows,
        "caption": f"{BATCH_SIZE} crops of {CROP_SIZE} px, five levels; {STEPS} steps a round, medians over rounds: "
        f"{rounds}. The folder is opened anew in every round, so that all files of its steps are decoded.",
    }
    command = "python benchmarks/training_cost.py --train BSDS500/train --weights squeezenet1_0-imagenet.safetensors"
    write_result(RESULTS / "training_cost.json", {"table": table, "metadata": metadata(command), "cases": found})


def main() -> None:
    """Measure all cases, in rounds."""
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
    sources = {"folder": options.train, "memory": in_memory(options.train)}
    times: dict[str, dict[str, list[float]]] = {name: {"folder": [], "memory": []} for name in cases}
    for _ in tqdm(range(options.rounds), desc="rounds"):
        for name, (backbone, goal) in cases.items():
            for source, images in sources.items():
                times[name][source].append(seconds_a_step(backbone, goal, images))
        write(times)


if __name__ == "__main__":
    main()
