"""What the loss costs in each trainer, relative to the VGG term that the trainer itself has.

    python benchmarks/integration_cost.py       # measures, writes results/integration_cost.json

The terms are written from the trainers' code, over VGG19 with normalised images, both forwarded, the target detached.
The loss is the one without arguments. Weights are random, which cost the same as trained ones. A step is forward, and
backward to the prediction. One thread, one process; for each trainer in interleaved rounds whose order changes. The
crop is that of the trainer's option file; the batch is lowered until a step has as many pixels as one crop of 256 px.
A trainer whose option files have no VGG term that reaches its loss gets no ratio.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _common import RESULTS, command_line, markdown, metadata, refuse_quick_results, write_result
from _cost_arms import DEFAULT, VGG_CONV5_4, Loss, Vgg19Loss, build, default_form
from _cost_timing import Case, step_of, time_interleaved
from torch import Tensor

OWN = "own"
PIXELS = 256**2
ROUNDS = 3
QUICK_SIZE = 32

VGG_CONV3_3 = 14
# conv1_2, conv2_2, conv3_4, conv4_4, conv5_4
VGG_FIVE = (2, 7, 16, 25, VGG_CONV5_4)


@dataclass(frozen=True)
class Term:
    """A trainer's own perceptual term: what it is called here, and what it compares how."""

    name: str
    taps: tuple[int, ...]
    criterion: Loss


@dataclass(frozen=True)
class Trainer:
    """A trainer: the batch of a process and the crop, in px, of its option file; no term where it trains with none."""

    name: str
    batch: int
    crop: int
    term: Term | None = None
    instead: str = "none"

    @property
    def measured(self) -> Case:
        """The case that is measured: the trainer's own crop, in a batch that a CPU does in seconds."""
        return Case(min(self.batch, max(1, PIXELS // self.crop**2)), self.crop)


def charbonnier(pred: Tensor, target: Tensor) -> Tensor:
    return ((pred - target).square() + 1e-12).sqrt().mean()


BASICSR = Term("VGG19 conv5_4, L1", (VGG_CONV5_4,), F.l1_loss)
FIVE = Term("VGG19, five taps to conv5_4, Charbonnier", VGG_FIVE, charbonnier)
TRAINERS = [
    Trainer("BasicSR 1.4.2 (ESRGAN)", 16, 128, BASICSR),
    Trainer("NAFNet, with BasicSR's term", 4, 256, BASICSR),
    # Its defaults; its option files leave batch and crop to the user, so these are those of neosr's for a factor of 4.
    Trainer("traiNNer-redux", 8, 256, FIVE),
    Trainer("DeblurGAN-v2", 1, 256, Term("VGG19 conv3_3, MSE", (VGG_CONV3_3,), F.mse_loss)),
    Trainer("HINet", 8, 256),
    Trainer("FFTformer", 2, 128, instead="none; L1 of FFTs"),
    Trainer("MPRNet", 16, 256),
    Trainer("MIMO-UNet", 4, 256, instead="none; L1 of FFTs"),
]


def measure(trainer: Trainer, case: Case, rounds: int) -> dict[str, Any]:
    """Return the seconds of every step with the trainer's own term, if it has one, and with the loss."""
    pred, target = case.images()
    losses = {DEFAULT: build(DEFAULT, target)}
    if trainer.term is not None:
        losses[OWN] = Vgg19Loss(trainer.term.taps, trainer.term.criterion)
    seconds = time_interleaved({name: step_of(loss, case, pred, target) for name, loss in losses.items()}, rounds)
    print(f"measured: {trainer.name}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "trainer": trainer.name,
        "term": trainer.term.name if trainer.term else trainer.instead,
        "usual": [trainer.batch, trainer.crop],
        "measured": [case.batch, case.size],
        "seconds": seconds,
        "ratio": medians[DEFAULT] / medians[OWN] if OWN in medians else None,
    }


def as_table(rows: list[dict[str, Any]], form: str) -> dict[str, Any]:
    columns = [
        "trainer",
        "its own term",
        "batch x crop there",
        "measured",
        "its term, ms",
        "the loss, ms",
        "the loss / its term",
    ]
    cells = [
        [
            row["trainer"],
            row["term"],
            *(f"{batch} x {crop}²" for batch, crop in (row["usual"], row["measured"])),
            _milliseconds(row["seconds"].get(OWN)),
            _milliseconds(row["seconds"][DEFAULT]),
            "-" if row["ratio"] is None else f"{row['ratio']:.3f}",
        ]
        for row in rows
    ]
    caption = (
        f"The loss is {form}. Forward and backward to the prediction, random weights, medians of interleaved rounds. "
        "Only the ratios can be compared with other machines."
    )
    return {"columns": columns, "rows": cells, "caption": caption}


def _milliseconds(seconds: list[float] | None) -> str:
    return "-" if seconds is None else f"{1e3 * statistics.median(seconds):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of tiny images: tells only that all runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "integration_cost.json", help="the result file")
    arguments = parser.parse_args()
    refuse_quick_results(parser, quick=arguments.quick, out=arguments.out)
    torch.set_num_threads(1)
    if arguments.quick:
        rows = [measure(trainer, Case(1, QUICK_SIZE), rounds=1) for trainer in TRAINERS]
    else:
        rows = [measure(trainer, trainer.measured, ROUNDS) for trainer in TRAINERS]
    table = as_table(rows, default_form())
    write_result(
        arguments.out, {"table": table, "metadata": metadata(command_line()), "form": default_form(), "rows": rows}
    )
    print(markdown(table["columns"], table["rows"]))


if __name__ == "__main__":
    main()
