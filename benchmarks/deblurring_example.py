"""A small network trained to deblur photographs on a processor, and fine-tuned with and without the feature loss.

Runs what examples/deblurring/README.md describes: configs/unet_synthetic.yaml from nothing, its three fine-tunes from
there, and the evaluation and comparison of all on test photographs that none of them has seen. Each part is kept, and
an interrupted run is taken up by the same command.

    python benchmarks/deblurring_example.py --datasets datasets

The folder of data sets holds bsds500/train, val and test, photographs of BSDS500. Pictures and the page of crops are
left in runs/deblurring_example.
"""

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, ROOT, command_line, metadata, write_result

sys.path.insert(0, str(ROOT))

from examples.deblurring import compare, evaluate
from examples.deblurring import train as training

CONFIGS = ROOT / "examples" / "deblurring" / "configs"
START = "unet_synthetic"
# The control first.
ARMS = [f"{START}_finetune_{arm}" for arm in ("pixel", "random", "tafm")]
METRICS = ["psnr", "ssim", "gmsd", "mdsi", "haarpsi", "sharpness_kept"]
DIGITS = {"psnr": 2, "sharpness_kept": 3}
TITLES = {"haarpsi": "HaarPSI", "sharpness_kept": "gradient energy kept"}
NAMES = {
    "input": "blurred photographs",
    START: "20,000 steps of L1",
    ARMS[0]: "and 1,000 more: L1 alone",
    ARMS[1]: "and 1,000 more: L1 and random features",
    ARMS[2]: "and 1,000 more: L1 and tafm-lite",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=RESULTS / "deblurring_example.json")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no", help="bf16 is faster on new CPUs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.runs / "deblurring_example"
    for name in (START, *ARMS):
        train(name, options.datasets, options.runs, options.mixed_precision)
    for name in NAMES:
        measure(name, options.datasets, options.runs, folder)
    compared(NAMES, folder, "comparison")
    compared(ARMS, folder, "fine-tunes")
    write_result(options.out, result(folder, options.runs))


def train(name: str, datasets: Path, runs: Path, mixed_precision: str) -> None:
    out = runs / name
    if (out / "network.safetensors").exists() and finished(out):
        return
    changes = [f"training.mixed_precision={mixed_precision}"]
    if name != START:
        changes.append(f"network.weights={runs / START / 'network.safetensors'}")
    command = [str(CONFIGS / f"{name}.yaml"), "--datasets", str(datasets), "--out", str(out)]
    resume = ["--resume"] if (out / "checkpoint.pt").exists() else []
    tell(training.main([*command, *resume, "--set", *changes]))


def finished(out: Path) -> bool:
    steps = json.loads((out / "config.json").read_text())["training"]["steps"]
    return rows(out)[-1]["step"] == steps


def measure(name: str, datasets: Path, runs: Path, folder: Path) -> None:
    what = name if name == "input" else str(runs / name)
    command = [what, "--dataset", "synthetic", "--root", str(datasets / "bsds500"), "--split", "test"]
    tell(evaluate.main([*command, "--metrics", ",".join(METRICS), "--out", str(folder / name)]))


def compared(names: Iterable[str], folder: Path, out: str) -> None:
    tell(compare.main([*(str(folder / name) for name in names), "--out", str(folder / out)]))


def tell(code: int) -> None:
    if code:
        raise SystemExit(code)


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def result(folder: Path, runs: Path) -> dict[str, object]:
    comparison, finetunes = (
        json.loads((folder / name / "comparison.json").read_text()) for name in ("comparison", "fine-tunes")
    )
    found = comparison["results"]
    means = {name: found[name]["mean_over_images"] for name in NAMES}
    return {
        "table": {
            "columns": ["", *(TITLES.get(metric, metric.upper()) for metric in METRICS)],
            "rows": [
                [title, *(f"{means[name][metric]:.{DIGITS.get(metric, 4)}f}" for metric in METRICS)]
                for name, title in NAMES.items()
            ],
            "caption": caption(comparison, runs),
        },
        "means": means,
        "intervals": {name: found[name]["interval"] for name in NAMES},
        "differences_from_input": comparison["differences"],
        "differences_from_l1_alone": finetunes["differences"],
        "training": {name: training_figures(runs / name) for name in NAMES if name != "input"},
        "metadata": metadata(command_line()),
    }


def caption(comparison: dict[str, Any], runs: Path) -> str:
    gain = comparison["differences"][START]["psnr"]
    low, high = gain["interval"]
    figures = training_figures(runs / START)
    return (
        f"{comparison['results']['input']['images']} test photographs, shakes of 3 to 13 px, means over images; SSIM "
        f"on each channel. The first training gains {gain['mean']:.2f} dB (95 % interval {low:.2f} to {high:.2f} over "
        f"photographs) in {figures['minutes']:.0f} minutes. One seed: what another would give is "
        "not known."
    )


def training_figures(out: Path) -> dict[str, float]:
    logged = [row for row in rows(out) if "images_per_second" in row]
    plan = json.loads((out / "config.json").read_text())["training"]
    steps = [b["step"] - a["step"] for a, b in itertools.pairwise([{"step": 0}, *logged])]
    seconds = sum(n * plan["batch_size"] / row["images_per_second"] for n, row in zip(steps, logged, strict=True))
    return {
        "minutes": seconds / 60,
        "steps_per_second": plan["steps"] / seconds,
        "data_wait": statistics.median(row["data_wait"] for row in logged),
        "peak_memory_mib": max(row["peak_memory_mib"] for row in logged),
        "largest_loss": max(row["loss"] for row in logged),
        "last_loss": logged[-1]["loss"],
    }


if __name__ == "__main__":
    main()
