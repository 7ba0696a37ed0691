"""What a training step pays for a feature loss: time, memory, its part of the step, and the digits bfloat16 leaves.

    python benchmarks/loss_cost.py --datasets DIR --weights DIR    # measures, writes results/loss_cost.json, draws
    python benchmarks/loss_cost.py --plot                          # only draws the plot again, from the result file

Forward, and backward to the prediction. Time: all arms of a case in one process, in interleaved rounds whose order
rotates; median and interquartile range. Memory: one process per arm; the peak of its resident memory during two steps
over what it holds with everything imported, built and the images made, so that weights are not counted; on a GPU that
of its allocator. All networks have random weights, which cost the same as trained ones. VGG19 "as BasicSR" is written
from its description: the network up to conv5_4 with in-place ReLUs, both images normalised and forwarded, the target
detached, L1 between the features. The other peers are the packages' own. The contrastive losses have the backbone of
"default" and forward their negatives at every step; MDF has as many features as the official discriminators, and
forwards them as its authors do.

All arms are measured on one case. From there size, batch, dtype and compilation vary, one at a time, for a few arms; a
case that VGG19 would take too long for is left out, and the result says so. The share of a training step is that of
the default loss beside L1. The gradient's cosine in bfloat16 is with that in float32, on photographs 35 dB from sharp.
The roofline counts the FLOP of convolutions and all bytes that operations read and write, against the measured
FLOP/s of a product of matrices and bytes/s of a copy; caches make more than that ceiling possible.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, ROOT, command_line, markdown, metadata, refuse_quick_results, write_result
from _cost_arms import (
    ALEX,
    ARMS,
    CACHED,
    DEFAULT,
    DISCRIMINATIVE,
    OUR_VGG19,
    OUR_VGG19_CACHED,
    VARIED,
    VGG19,
    default_form,
    title,
)
from _cost_fidelity import PSNR_DB, measure_fidelity
from _cost_plot import draw, plain_cases
from _cost_roofline import measure_roofline
from _cost_timing import Case, measure_cases, measure_peak, measure_peaks, median_seconds
from _cost_training import NAFNET, UNET, Training, measure_shares

Figures = dict[str, Any]

PACKAGES = ("lpips", "piq", "torchmetrics", "torchvision")

# (arm, the arm it is compared with, measure, at most this ratio)
RATIOS = [
    (DEFAULT, VGG19, "seconds", 1 / 20),
    (DEFAULT, VGG19, "mebibytes", 1 / 8),
    (DEFAULT, ALEX, "seconds", 1.0),
    (CACHED, DEFAULT, "seconds", 0.7),
    (OUR_VGG19, VGG19, "seconds", 1.0),
    (OUR_VGG19_CACHED, VGG19, "seconds", 1 / 1.25),
]
LARGEST_SHARE = 0.1
LEAST_COSINE = 0.99


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured: all arms on `base`, a few on `cases`, training steps, and every so many-th photograph."""

    base: Case
    cases: list[Case]
    arms: list[str]
    trainings: list[Training]
    rounds: int
    every: int


def full_plan(device: str) -> Plan:
    """Return what is published."""
    base = Case(device=device)
    return Plan(
        base,
        [
            *(dataclasses.replace(base, size=size) for size in (128, 512)),
            *(dataclasses.replace(base, batch=batch) for batch in (1, 16)),
            dataclasses.replace(base, batch=16, size=512),
            dataclasses.replace(base, dtype="bfloat16"),
            dataclasses.replace(base, compiled=True),
        ],
        list(ARMS),
        [
            Training(network, Case(batch, size, dtype, device=device))
            for network, batch, size in ((UNET, 8, 96), (NAFNET, 4, 128), (NAFNET, 1, 256))
            for dtype in ("float32", "bfloat16")
        ],
        rounds=5,
        every=25,
    )


def quick_plan(device: str) -> Plan:
    """Return what tells only that all runs."""
    base = Case(1, 96, device=device)
    cases = [dataclasses.replace(base, size=64), dataclasses.replace(base, dtype="bfloat16")]
    arms = [name for name in ARMS if name != DISCRIMINATIVE]
    trainings = [Training(network, base) for network in (UNET, NAFNET)]
    return Plan(base, cases, arms, trainings, rounds=1, every=100)


def measure(plan: Plan, arguments: argparse.Namespace) -> Figures:
    cases = measure_cases(plan.base, plan.cases, plan.arms, VARIED, plan.rounds)
    peaks = measure_peaks(plan.arms, plan.base, __file__, arguments.threads)
    seconds = {row["arm"]: row["seconds"] for row in cases[: len(plan.arms)]}
    photographs = arguments.datasets / "bsds500" / "test"
    squeezenet = arguments.weights / "squeezenet1_0-imagenet.safetensors"
    return {
        "base": dataclasses.asdict(plan.base),
        "form": default_form(),
        "measurements": {name: {"seconds": seconds[name], "mebibytes": peaks[name]} for name in plan.arms},
        "cases": cases,
        "growth": {name: growth(cases, name) for name in VARIED},
        "training": measure_shares(plan.trainings, plan.rounds),
        "fidelity": measure_fidelity(photographs, squeezenet, every=plan.every, device=plan.base.device),
        "roofline": measure_roofline(plan.base, median_seconds(cases, plan.base), VARIED),
    }


def growth(rows: list[Figures], name: str) -> float:
    """Return the exponent of an arm's time against the pixels of a batch, by least squares of the logarithms."""
    points = [
        (math.log(case.pixels), math.log(seconds[name]))
        for case in plain_cases(rows)
        if name in (seconds := median_seconds(rows, case))
    ]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def compare(result: Figures) -> list[Figures]:
    """Return every goal with its value, and whether it holds."""
    at_most = [
        (f"{arm} / {other}, {measure}", value(result, arm, measure) / value(result, other, measure), limit)
        for arm, other, measure, limit in RATIOS
    ]
    shares = [row["share"] for row in result["training"] if row["network"] == NAFNET]
    at_most.append((f"{DEFAULT}, share of a step of {NAFNET}, the worst case", max(shares), LARGEST_SHARE))
    at_least = [
        (f"{DEFAULT}, cosine in bfloat16 under autocast, {residual}, the worst image", row["least"], LEAST_COSINE)
        for row in autocast_rows(result)
        for residual in [row["residual"]]
    ]
    return [
        *({"goal": goal, "value": found, "at_most": limit, "holds": found <= limit} for goal, found, limit in at_most),
        *(
            {"goal": goal, "value": found, "at_least": limit, "holds": found >= limit}
            for goal, found, limit in at_least
        ),
    ]


def autocast_rows(result: Figures) -> list[Figures]:
    """Return the cosines of the default loss under autocast, one row for each residual."""
    return [row for row in result["fidelity"] if row["arm"] == DEFAULT and row["use"] == "autocast"]


def value(result: Figures, arm: str, measure: str) -> float:
    figures = result["measurements"][arm]
    return statistics.median(figures["seconds"]) if measure == "seconds" else figures["mebibytes"]


def as_table(result: Figures) -> Figures:
    rows = []
    vgg19 = value(result, VGG19, "seconds")
    for name, figures in result["measurements"].items():
        low, middle, high = (1e3 * seconds for seconds in statistics.quantiles(figures["seconds"], method="inclusive"))
        rows.append(
            [
                title(name, result),
                f"{middle:.0f}",
                f"{low:.0f} - {high:.0f}",
                f"{middle / 1e3 / vgg19:.3f}",
                f"{figures['mebibytes']:.0f}",
            ]
        )
    columns = ["loss", "ms a step, median", "quartiles", "time / VGG19 as BasicSR", "peak memory, MiB"]
    return {"columns": columns, "rows": rows, "caption": caption(result)}


def caption(result: Figures) -> str:
    base = result["base"]
    shares = "; ".join(
        f"{row['network']}, {row['batch']} x {row['size']}², {row['dtype']}: {100 * row['share']:.1f} %"
        for row in result["training"]
    )
    cosines = ", ".join(f"{row['least']:.4f} ({row['residual']})" for row in autocast_rows(result))
    return (
        f"Forward and backward to the prediction, {base['batch']} x 3 x {base['size']} x {base['size']}, random "
        "weights throughout; memory beyond weights and images. Time grows with the pixels to the power "
        f"{result['growth'][DEFAULT]:.2f} (first row) and {result['growth'][VGG19]:.2f} (VGG19). The first row's part "
        f"of a training step beside L1: {shares}. Least cosine of its gradient in bfloat16 with that in float32, "
        f"images at {PSNR_DB:g} dB: {cosines}."
    )


def show(result: Figures) -> None:
    """Print the table and the goals."""
    print(markdown(result["table"]["columns"], result["table"]["rows"]))
    for row in result["comparisons"]:
        sign, limit = (">=", row["at_least"]) if "at_least" in row else ("<=", row["at_most"])
        print(f"{row['goal']}: {row['value']:.3f} {sign} {limit:.3f} {'holds' if row['holds'] else 'DOES NOT HOLD'}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=Path("datasets"), help="holds bsds500/test")
    parser.add_argument(
        "--weights", type=Path, default=Path("weights"), help="holds squeezenet1_0-imagenet.safetensors"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of what is small: tells only that all runs")
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the result file again")
    parser.add_argument("--out", type=Path, default=RESULTS / "loss_cost.json", help="the result file")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "loss_cost.png", help="the plot")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    refuse_quick_results(parser, quick=arguments.quick, out=arguments.out)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that PyTorch can use; torch.cuda.is_available() is False")
    if arguments.plot and not arguments.out.exists():
        parser.error(f"--plot draws the result file, and there is no {arguments.out}: measure first")
    if not (arguments.plot or arguments.peak_of):
        for path in (arguments.datasets / "bsds500" / "test", arguments.weights / "squeezenet1_0-imagenet.safetensors"):
            if not path.exists():
                parser.error(f"there is no {path}: pass --datasets and --weights")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of is not None:
        name, *case = json.loads(arguments.peak_of)
        print(measure_peak(name, Case(*case)))
        return 0
    if arguments.plot:
        draw(json.loads(arguments.out.read_text()), arguments.picture)
        return 0
    plan = quick_plan(arguments.device) if arguments.quick else full_plan(arguments.device)
    measured = measure(plan, arguments)
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    facts = {**metadata(command_line()), "packages": packages}
    result = {"table": as_table(measured), "metadata": facts, "comparisons": compare(measured), **measured}
    write_result(arguments.out, result)
    show(result)
    draw(result, arguments.picture)
    # A goal that is missed is a result, and no reason to stop a set of benchmarks.
    return 0


if __name__ == "__main__":
    sys.exit(main())
