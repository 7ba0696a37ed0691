"""What the sister losses do as training terms: one small deblurring network, finished from the same start with each.

The demo's network, scenes and schedule, on generated scenes or photographs. The discriminators in MDF are those of
`discriminators.py`, trained first (minutes) if they are not there. Writes results/sister_losses.json after every arm,
and skips those that are there:

    python benchmarks/sister_losses.py --discriminators MDF [--images DIR] [--seeds 2]
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _backbones import loss_on_all_taps
from _common import RESULTS, metadata, write_result
from _evaluation import best_mask
from discriminators import photograph
from torch import Tensor, nn
from tqdm import tqdm
from tuned_losses import BLURRED, MASK, PIXEL, figures, table

from tafm_loss import (
    BlurSynthesizer,
    ContrastiveFeatureLoss,
    DiscriminativeFeatureLoss,
    ProgressiveNegatives,
    calibrate_weight,
    create_backbone,
    train_discriminators,
)
from tafm_loss.demo import (
    NOISE,
    SHAKE,
    Pairs,
    batches_of,
    generated_pairs,
    photograph_pairs,
    restore,
    train_finish,
    train_start,
)
from tafm_loss.mdf import BlurDegradation

# Fewer to finish than the demo has: a step with the discriminators takes as long as forty with L1.
START_STEPS, FINISH_STEPS = 1600, 240
RATIO = 0.1
# How much stronger the contrastive gradient becomes by negatives that get sharper, as a mean over the schedule; found
# on one batch of other scenes, at a network after 500 steps: 1, 1.7, 2.9 and 4.1 times from the longest exposure on.
PROGRESS_GAIN = 2.4
# The exposures of a training pair as shares of the whole, from what the schedule ends at to the blurry image itself.
EXPOSURES = (0.25, 0.5, 0.75, 1.0)
SHAKES = BlurSynthesizer(
    [share * SHAKE.extents[-1] for share in EXPOSURES], kind="shake", extent_jitter=SHAKE.extent_jitter
)

# Called with restored images and what a batch holds as sharp: the sharp images and their negatives.
Term = Callable[[Tensor, Tensor], Tensor]


def graded(sharp: Tensor, generator: torch.Generator) -> Pairs:
    """Return scenes under a shake with noise, and as `sharp` the sharp images with their negatives behind.

    The negatives are channels, so that what crops and turns the pairs does the same with them. They are made of whole
    scenes, as `ProgressiveNegatives` wants it: at the largest sharpness first, at last the blurry images.
    """
    parts = []
    for scenes in sharp.split(32):
        kernels = SHAKES.sample(len(scenes), generator=generator)
        blurred = SHAKES(scenes, kernels=kernels)[-1]
        blurred = (blurred + NOISE * torch.randn(blurred.shape, generator=generator)).clamp(0, 1)
        negatives = [
            ProgressiveNegatives(((0.0, 1 - share),), kind="exposure", synthesizer=SHAKES)(
                blurred, scenes, kernels=kernels
            )[0]
            for share in EXPOSURES
        ]
        parts.append(Pairs(blurred, torch.cat([scenes, *negatives], 1)))
    return Pairs(*(torch.cat(images) for images in zip(*parts, strict=True)))


def on_sharp(loss: Term) -> Term:
    """Return a loss that leaves the negatives alone."""
    return lambda restored, packed: loss(restored, packed[:, :3])


class Contrast:
    """A contrastive loss whose negatives get sharper from one call to the next, or stay at the blurry input.

    Args:
        steps: how many calls the schedule takes; None for negatives that stay.
    """

    def __init__(self, steps: int | None = None) -> None:
        self.loss = ContrastiveFeatureLoss()
        self.schedule = ProgressiveNegatives(kind="exposure", synthesizer=SHAKES)
        self.steps = steps
        self.done = 0

    def __call__(self, restored: Tensor, packed: Tensor) -> Tensor:
        """Return the loss at the negative whose exposure is nearest to that of the schedule."""
        if self.steps is not None:
            # Weighing the loss has been one call more.
            self.schedule.step(min(self.done, self.steps), self.steps)
            self.done += 1
        wanted = 1 - self.schedule.sharpness
        nearest = min(range(len(EXPOSURES)), key=lambda index: abs(EXPOSURES[index] - wanted))
        sharp, *negatives = packed.split(3, 1)
        return self.loss(restored, sharp, negatives=negatives[nearest])


class Arm(NamedTuple):
    """What gives an arm's term, and how strong its gradient is at first, relative to that of L1."""

    term: Callable[[], Term]
    ratio: float = RATIO


def arms_of(discriminators: DiscriminativeFeatureLoss, steps: int) -> dict[str, Arm]:
    """Return the arms that have a term beside L1."""
    return {
        "L1 + TAFM (tafm-compact)": Arm(lambda: on_sharp(loss_on_all_taps(create_backbone("tafm-compact")))),
        "L1 + MDF, trained on blur": Arm(lambda: on_sharp(discriminators)),
        "L1 + contrastive, negatives at the input": Arm(Contrast),
        f"L1 + contrastive, negatives at the input, x {PROGRESS_GAIN:g}": Arm(Contrast, PROGRESS_GAIN * RATIO),
        "L1 + contrastive, progressive negatives": Arm(lambda: Contrast(steps)),
    }


def weighed(network: nn.Module, arm: Arm, training: Pairs, seed: int) -> tuple[Term, float]:
    """Return L1 + weight * term, and the weight that gives the first batch's gradients the ratio of the arm."""
    pixel, term = on_sharp(F.l1_loss), arm.term()
    batch = next(batches_of(training, 1, seed + 2))
    with torch.no_grad():
        restored = network(batch.blurred)
    weight = calibrate_weight(term, pixel, restored, batch.sharp, arm.ratio)
    return lambda restored, packed: pixel(restored, packed) + weight * term(restored, packed), weight


def trained(folder: Path) -> DiscriminativeFeatureLoss:
    """Return the discriminators in a folder as a loss, trained now if they are not there."""
    if not (folder / "config.json").exists():
        train_discriminators(photograph(), BlurDegradation(), out_dir=folder, resume=folder.exists())
    return DiscriminativeFeatureLoss(folder)


def captioned(runs: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the table of `tuned_losses.py` with what was done here."""
    caption = (
        f"Means over {settings['held out']} held-out {settings['scenes']}, blurred by a shake of 5 to 8 px with noise, "
        "and over seeds; in brackets the least and largest difference from L1 of the same seed. "
        f"{settings['start steps']} steps with L1, then {settings['finish steps']} with L1 + the loss, whose gradient "
        f"is {RATIO:g} times as strong at the start of that. Progressive negatives: shorter exposures of the pair's "
        "own shake, down to a quarter; as they come nearer, the gradient grows, to "
        f"about {PROGRESS_GAIN:g} times as much on average, which one arm has throughout. The mask has the "
        "lowest GMSD on these very images."
    )
    return {**table(runs, settings["held out"]), "caption": caption}


def main() -> None:
    """Train the arms that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--discriminators", type=Path, required=True, metavar="MDF", help="where they are, or go")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs (default: generated scenes)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--start-steps", type=int, default=START_STEPS)
    parser.add_argument("--finish-steps", type=int, default=FINISH_STEPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "sister_losses.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    discriminators = trained(options.discriminators)
    generator = torch.Generator().manual_seed(0)
    training, held_out = photograph_pairs(options.images, generator) if options.images else generated_pairs(generator)
    training = graded(training.sharp, generator)
    settings = {
        "scenes": "photographs" if options.images else "generated scenes",
        "held out": len(held_out.sharp),
        "start steps": options.start_steps,
        "finish steps": options.finish_steps,
        "discriminators": discriminators.sha256,
    }
    known = json.loads(options.out.read_text()) if options.out.exists() else {"settings": settings, "runs": {}}
    if known["settings"] != settings:
        raise SystemExit(f"{options.out} was made with {known['settings']}, not {settings}; move it away")
    runs = known["runs"]
    command = "python benchmarks/sister_losses.py --discriminators MDF" + (" --images DIR" if options.images else "")
    facts = metadata(command)

    def keep(name: str, seed: int, restored: Tensor, **found: float) -> None:
        runs[f"{name}, seed {seed}"] = {
            "arm": name,
            "seed": seed,
            "figures": figures(restored, held_out.sharp),
            **found,
        }
        result = {"table": captioned(runs, settings), "metadata": facts, "settings": settings, "runs": runs}
        write_result(options.out, result)

    for seed in range(options.seeds):
        arms = arms_of(discriminators, options.finish_steps)
        wanted = [name for name in (MASK, *arms) if f"{name}, seed {seed}" not in runs]
        if not wanted:
            continue
        with tqdm(desc=f"seed {seed}") as bar:
            start = train_start(Pairs(training.blurred, training.sharp[:, :3]), options.start_steps, seed=seed, bar=bar)
            finish = functools.partial(
                train_finish, start, pairs=training, steps=options.finish_steps, seed=seed, bar=bar
            )
            if MASK in wanted:
                pixel = restore(finish(criterion=on_sharp(F.l1_loss)), held_out.blurred)
                keep(BLURRED, seed, held_out.blurred)
                keep(PIXEL, seed, pixel)
                keep(MASK, seed, best_mask(pixel, held_out.sharp)(pixel))
            for name in wanted:
                if name != MASK:
                    both, weight = weighed(start, arms[name], training, seed)
                    keep(name, seed, restore(finish(criterion=both), held_out.blurred), weight=weight)


if __name__ == "__main__":
    main()
