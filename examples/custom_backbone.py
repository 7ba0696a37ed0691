"""A backbone of your own architecture: define it, tune it, save it, load it, use it, publish it.

    python examples/custom_backbone.py [--images PHOTOGRAPHS]

A network will do if it returns {tap: features (N, C, H, W)} with every tap that its config names; takes images of any
height and width from the config's `minimum_size` on; changes no tapped tensor in place (no `nn.ReLU(inplace=True)` and
no `+=` behind a tap); and is deterministic in evaluation mode, in which it is tuned as well: BatchNorm keeps the
statistics that it has, and Dropout is off. The objective looks at the gradient too, so every operation needs a second
derivative, and batches come in the channels-last format: write `reshape`, not `view`.

About a minute on two processor cores.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tafm_loss import Backbone, BackboneConfig, Tap, TaskAdaptiveFeatureLoss, finetune_backbone, load_backbone
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.scenes import generate_scenes

SCENES = 160
WIDTHS = (24, 48, 64, 64)
CONFIG = BackboneConfig(
    name="my-net",
    architecture="my-net",  # any name that `tafm-loss info` does not list
    taps={f"stage{index}": Tap(channels, stride=2**index) for index, channels in enumerate(WIDTHS, start=1)},
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    minimum_size=16,  # the last stage returns one pixel
    licence="Apache-2.0",  # of the weights, which is yours to choose
)


class MyNet(nn.Module):
    """Four stages, each a convolution at half the resolution of the one before."""

    def __init__(self) -> None:
        super().__init__()
        # Kernels of twice the stride overlap evenly, against a checkerboard in the gradient.
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 4, stride=2, padding=1, padding_mode="reflect"), nn.GELU())
            for before, width in pairwise((3, *WIDTHS))
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {tap: features} of images (N, 3, H, W) that are normalised by the config's mean and std."""
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return dict(zip(CONFIG.taps, maps[1:], strict=True))


def shake_losses(backbone: Backbone) -> Tensor:
    """Return the losses (3,) of unseen scenes under a shake of 3, 10 and 20 px, by the backbone."""
    generator = torch.Generator().manual_seed(1)
    sharp, *shaken = BlurSynthesizer((0, 3, 10, 20))(generate_scenes(8, 96, generator=generator), generator=generator)
    loss_fn = TaskAdaptiveFeatureLoss(backbone)
    return torch.stack([loss_fn(level, sharp) for level in shaken])


def least_selectivity(report: dict[str, Any], distractor: str) -> float:
    """Return how many times more blur of 3 px or more costs than a distractor of the same error, at the least."""
    return min(
        spread["median"]
        for extents in report["selectivity"][distractor].values()
        for extent, spread in extents.items()
        if float(extent) >= 3 and spread["median"] is not None
    )


def main() -> None:
    """Tune, save, load, compare, and say how to go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of photographs (default: generated scenes)")
    parser.add_argument("--steps", type=int, default=250, help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("my-backbone"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        start = Backbone(MyNet(), CONFIG)
    scenes = options.images or generate_scenes(SCENES, 96, generator=torch.Generator().manual_seed(0))
    # Small batches and crops and a high rate, for a short run; the defaults of all three are made for a longer one.
    result = finetune_backbone(
        start,
        scenes,
        steps=options.steps,
        batch_size=4,
        crop_size=48,
        learning_rate=5e-3,
        validation=0.1,
        out_dir=options.out,  # saves the backbone, as save_backbone(backbone, folder) does
        resume=True,
        seed=options.seed,
    )
    if not result.finished:
        return  # after Ctrl-C; the same command goes on

    loaded = load_backbone(options.out, module=MyNet())
    losses = shake_losses(loaded)
    assert torch.equal(losses, shake_losses(result.backbone))
    for distractor in result.report["after"]["selectivity"]:
        before, after = (least_selectivity(result.report[when], distractor) for when in ("before", "after"))
        print(f"least selectivity of blur against {distractor}: {before:.2f} before, {after:.2f} after")
    print("loss of a shake of 3, 10, 20 px:", *(f"{loss:.2f}" for loss in losses))
    folder = str(options.out.resolve())
    print(f"tuned backbone: {folder}\nsha256: {loaded.sha256}")
    print(f"in Python: backbone = load_backbone({folder!r}, module=MyNet())")
    print("           loss_fn = TaskAdaptiveFeatureLoss(backbone)")
    print(f"to publish it: tafm-loss push {folder!r} owner/name")


if __name__ == "__main__":
    main()
