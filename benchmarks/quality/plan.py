"""What is trained and judged, and how much of each."""

from typing import NamedTuple

from quality.training import Schedule

# Chooses masks, and decides between arms that hold none of its network. All of this was named before the confirmation.
PRIMARY = "lpips"
# Decides tuned against untuned: its network was trained from random weights on people's judgements, not on ImageNet.
INDEPENDENT = "stlpips"
# dB below the PSNR of L1 as it is.
PRICES = (0.1, 0.3)
# On validation photographs an arm must reach its level with this share of the price, to have room on other seeds.
TRIAL_SHARE = 0.8
# The same for every arm. One of them serves both prices: a user trains once.
RATIOS = (1.0, 2.0, 4.0)
OURS, BASE, ON_BLUR = "tafm-lite", "EfficientNet-Lite0", "EfficientNet-Lite0, triplet"
CONFIRMED = (OURS, BASE, ON_BLUR, "LPIPS squeeze", "VGG16 relu3_3")
TRIED_ALONE = ("SqueezeNet 1.0, triplet", "tafm-compact, structure", "SSIM")
SEEN, UNSEEN = "shake", ("linear", "defocus")


class Size(NamedTuple):
    """How much is trained.

    Args:
        width: of the residual U-Net.
        crop: px, the side of what is trained on.
        start: how the network that all arms start from is trained.
        fine_tune: how every arm goes on from there.
        most: photographs of every kind; None for all.
    """

    width: int
    crop: int
    start: Schedule
    fine_tune: Schedule
    most: int | None = None


SIZES = {
    # The published one: the confirmation takes two hours of one core with AVX-512.
    "small": Size(24, 64, Schedule(10_000, 1e-3), Schedule(300, 3e-4)),
    "large": Size(48, 96, Schedule(10_000, 1e-3), Schedule(1000, 3e-4)),
    "quick": Size(8, 64, Schedule(4, 1e-3), Schedule(4, 3e-4), most=4),
}


class NamedContrast(NamedTuple):
    """Two arms, and the metric that decides between them."""

    arm: str
    other: str
    metric: str


CONTRASTS = (
    NamedContrast(OURS, "L1", PRIMARY),
    NamedContrast(OURS, "VGG16 relu3_3", PRIMARY),
    NamedContrast(OURS, "LPIPS squeeze", PRIMARY),
    NamedContrast(OURS, BASE, INDEPENDENT),
    NamedContrast(ON_BLUR, BASE, INDEPENDENT),
)


class Stage(NamedTuple):
    """A question, and the runs that answer it.

    Args:
        about: the question.
        arms: besides L1.
        seeds: each gives batches of its own, the same for all arms.
        tested: whether on test photographs and real pairs; if not, on validation photographs that choose no mask.
    """

    about: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    tested: bool = True

    @property
    def prices(self) -> tuple[float, ...]:
        """DB that arms are brought below L1."""
        return PRICES if self.tested else tuple(round(TRIAL_SHARE * price, 3) for price in PRICES)


STAGES = {
    "trials": Stage("Which ratio does each arm want?", (*CONFIRMED, *TRIED_ALONE), (100,), tested=False),
    "confirmation": Stage("Does it hold over seeds, under other blur, on real pairs?", CONFIRMED, tuple(range(8))),
}
