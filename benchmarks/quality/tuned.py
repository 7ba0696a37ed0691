"""Backbones tuned for the arms: on blur, and on what a deblurring network leaves."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quality.data import EXTENTS
from tafm_loss import Backbone, BlurSynthesizer, load_backbone
from tafm_loss.finetune import Objective, TripletObjective, finetune_backbone

GRADES = (0.0, 0.5, 1.0, 2.0)
SETTINGS = {"batch_size": 4, "crop_size": 72, "learning_rate": 1e-3}


class Restorations:
    """Sharp crops and three versions: half of what a network leaves, what it leaves, and the blur it was given.

    Args:
        network: takes images (N, 3, H, W) in [0, 1] and returns a list of restored images, the final ones last.
        extents: px, of the blur.
    """

    def __init__(self, network: nn.Module, extents: tuple[float, float] = EXTENTS) -> None:
        low, high = extents
        self.network = network
        self.synthesizer = BlurSynthesizer((0.0, (low + high) / 2), extent_jitter=(high - low) / (high + low))

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (4, N, C, H, W), and their grades (4, N), which count what is left, not px."""
        sharp, blurred = self.synthesizer(images, generator=generator)
        restored = self.network(blurred)[-1].clamp(0, 1)
        grades = torch.tensor(GRADES)[:, None].expand(-1, len(images))
        return torch.stack([sharp, (sharp + restored) / 2, restored, blurred]), grades


class Tuning(NamedTuple):
    """An objective, for how many steps, and on what: blur of 1 to 25 px, or restorations."""

    objective: Callable[[], Objective]
    steps: int
    restorations: bool = False


TUNINGS = {
    "triplet": Tuning(TripletObjective, 200),
    "restorations": Tuning(TripletObjective, 150, restorations=True),
}


def tuned(
    untuned: Callable[[], Backbone], name: str, folder: Path, photographs: Path, start: Callable[[], nn.Module]
) -> Backbone:
    """Return a tuned backbone, kept in a folder and made there if it is not yet; an interrupted tuning is taken up."""
    tuning, backbone = TUNINGS[name], untuned()
    out = folder / f"{backbone.config.name}-{name}"
    if not (out / "config.json").exists():
        options: dict[str, Any] = {"synthesizer": Restorations(start())} if tuning.restorations else {}
        finetune_backbone(
            backbone,
            photographs,
            objective=tuning.objective(),
            steps=tuning.steps,
            out_dir=out,
            resume=True,
            **SETTINGS,
            **options,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_backbone(out)
