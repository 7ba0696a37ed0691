"""What is trained and judged: the stages of the benchmark, smallest first, and how much of each."""

from typing import NamedTuple

from quality.arms import COMPACT, PIXEL, RANDOM_STRUCTURE, SSIM_LOSS, STRUCTURE, UNTUNED, VARIANTS
from quality.data import SEEN
from quality.training import Schedule

# Named before the confirmation was run; it shares no backbone with any arm.
PRIMARY = "mdsi"
SCREENED = ("psnr", "ssim", "gmsd", PRIMARY, "haarpsi", "projection", "sharpness_kept")
OURS, NAMED = STRUCTURE, (PIXEL, UNTUNED)
UNSEEN = ("linear", "defocus")
FINE_TUNE = Schedule(250, 3e-4)
FROM_SCRATCH = Schedule(300, 1e-3)
SEEDS, FEWER_SEEDS = 8, 4
# What an arm may give away in PSNR against L1 as it is, dB. A ratio that fits half of it leaves room on other seeds.
PRICE = 0.1
TRIAL_PRICE = PRICE / 2


class Stage(NamedTuple):
    """A question, and the runs that answer it.

    Args:
        about: the question.
        arms: besides L1, which sets the PSNR that all are brought to; None for all but variants.
        ratios: of the gradients to that of L1; None for the one that the validation photographs chose for the arm.
        schedule: of the training.
        seeds: how many.
        metrics: what is measured.
        slow_metrics: what is measured at the first seed alone, and NIQE with it.
        tested: whether on test photographs; if not, on validation photographs that choose no mask.
        kinds: of blur.
        from_start: whether from the common start, or from random weights.
        shift: px by which the targets that are trained on may lie beside.
    """

    about: str
    arms: tuple[str, ...] | None
    ratios: tuple[float, ...] | None
    schedule: Schedule = FINE_TUNE
    seeds: int = SEEDS
    metrics: tuple[str, ...] = SCREENED
    slow_metrics: tuple[str, ...] = ()
    tested: bool = True
    kinds: tuple[str, ...] = (SEEN,)
    from_start: bool = True
    shift: int = 0

    @property
    def price(self) -> float:
        """What the arms may give away in PSNR, dB."""
        return PRICE if self.tested else TRIAL_PRICE


MATTER = (UNTUNED, STRUCTURE)
CONFIRMED = (*MATTER, RANDOM_STRUCTURE, SSIM_LOSS, COMPACT)
STAGES = {
    "screening": Stage("Which arms are worth a closer look?", None, (0.35, 1.0), seeds=1, tested=False),
    "curve": Stage("Which ratio does each want?", CONFIRMED, (0.1, 0.6, 1.6, 2.5), seeds=1, tested=False),
    "variants": Stage("What else has been tried?", tuple(VARIANTS), (0.35, 1.0), seeds=1, tested=False),
    "confirmation": Stage(
        "Does it hold over seeds, and under blur that was not trained on?",
        CONFIRMED,
        None,
        slow_metrics=("fsim",),
        kinds=(SEEN, *UNSEEN),
    ),
    "shifted": Stage("Does it hold where the targets lie up to 1 px beside?", MATTER, None, seeds=FEWER_SEEDS, shift=1),
    "scratch": Stage(
        "Does it hold from random weights?", MATTER, None, schedule=FROM_SCRATCH, seeds=FEWER_SEEDS, from_start=False
    ),
}
