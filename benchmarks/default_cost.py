"""What the default loss costs, beside what it takes the place of: a step of the loss, and its share of a training step.

    python benchmarks/default_cost.py      # writes results/default_cost.json

Measured as in `loss_cost.py`, of a few arms on one case: it takes minutes, and is run whenever the default changes.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, command_line, markdown, metadata, refuse_quick_results, write_result
from _cost_arms import ALEX, CACHED, DEFAULT, VGG19, default_form, title
from _cost_timing import Case, measure_cases
from _cost_training import NAFNET, Training, measure_shares

ARMS = (DEFAULT, CACHED, ALEX, VGG19)
# (arm, the arm it is compared with, at most this ratio)
GOALS = ((DEFAULT, VGG19, 1 / 15), (DEFAULT, ALEX, 1.0))
LARGEST_SHARE = 0.05
ROUNDS = 5


def compare(seconds: dict[str, float], shares: list[float]) -> list[dict[str, Any]]:
    """Return every goal with its value, and whether it holds."""
    found = [(f"{arm} / {other}", seconds[arm] / seconds[other], limit) for arm, other, limit in GOALS]
    found.append((f"{DEFAULT}, share of a step of {NAFNET}, the worst case", max(shares), LARGEST_SHARE))
    return [{"goal": goal, "value": value, "at_most": limit, "holds": value <= limit} for goal, value, limit in found]


def as_table(result: dict[str, Any]) -> dict[str, Any]:
    """Return a row an arm."""
    seconds, base = result["seconds"], result["base"]
    shares = ", ".join(
        f"{100 * row['share']:.1f} % ({row['batch']} x {row['size']} px, {row['dtype']})" for row in result["training"]
    )
    return {
        "columns": ["loss", "ms a step, median", "time / VGG19 as BasicSR", "time / lpips-alex"],
        "rows": [
            [title(arm, result), f"{1e3 * own:.0f}", f"{own / seconds[VGG19]:.3f}", f"{own / seconds[ALEX]:.2f}"]
            for arm, own in seconds.items()
        ],
        "caption": f"Forward and backward to the prediction, {base.batch} x 3 x {base.size} x {base.size}, float32. "
        f"The first row's part of a training step of {NAFNET} beside L1: {shares}.",
    }


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of small images: tells only that all runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "default_cost.json")
    options = parser.parse_args()
    refuse_quick_results(parser, quick=options.quick, out=options.out)
    torch.set_num_threads(options.threads)
    rounds, base = (1, Case(1, 64)) if options.quick else (ROUNDS, Case())
    cases = [base] if options.quick else [Case(4, 128), Case(1, 256)]
    rows = measure_cases(base, (), ARMS, (), rounds)
    result: dict[str, Any] = {
        "base": base,
        "form": default_form(),
        "seconds": {row["arm"]: statistics.median(row["seconds"]) for row in rows},
        "training": measure_shares([Training(NAFNET, case) for case in cases], rounds),
    }
    table = as_table(result)
    goals = compare(result["seconds"], [row["share"] for row in result["training"]])
    facts = {"table": table, "metadata": metadata(command_line()), "comparisons": goals}
    write_result(options.out, {**facts, **result, "base": dataclasses.asdict(base)})
    print(markdown(table["columns"], table["rows"]))
    for row in goals:
        print(f"{row['goal']}: {row['value']:.3f} <= {row['at_most']:.3f} {'holds' if row['holds'] else 'does not'}")


if __name__ == "__main__":
    main()
