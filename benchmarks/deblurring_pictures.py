"""What arms of deblurring_quality.py look like at one PSNR: folders of images to be looked at, and a picture.

    python benchmarks/deblurring_pictures.py --datasets DATASETS --runs RUNS

Reads the networks that the confirmation has left in RUNS, and its masks, of the first seed. Writes test photographs and
the GoPro scene as each arm restores them to RUNS/pictures/CASE/ARM; `examples.deblurring.forced_choice` makes pages of
them. Draws docs/deblurring_crops.jpg of photographs that may be shown.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from _common import ROOT
from blur_gallery import above, beside, cut, text, tile, write_jpeg
from PIL import Image
from skimage import data as photographs
from torch import Tensor
from torchvision.io import write_png

sys.path.insert(0, str(ROOT))

from deblurring_quality import BLUR_SEEDS, NETWORK, TESTED
from quality.arms import PIXEL
from quality.data import EXTENTS, NOISE, Pairs, gopro_pairs, held_out_pairs
from quality.masks import Sharpening
from quality.plan import BASE, OURS, PRICES, SEEN, SIZES
from quality.runs import Run
from quality.summary import chosen_ratio
from quality.training import Trainer

from examples.deblurring.models.checkpoints import load_weights
from examples.deblurring.models.networks import create_network
from tafm_loss import BlurSynthesizer
from tafm_loss.blur import add_sensor_noise

ARMS = (PIXEL, "VGG16 relu3_3", BASE, OURS)
PRICE = PRICES[1]
SHARP, BLURRED = "sharp", "blurred"
SEED = 0
# Photographs in the public domain or under CC0 that come with scikit-image: what is shown of each.
SHOWN = {"chelsea": (90, 130, 96, 96), "coffee": (120, 250, 96, 96), "astronaut": (60, 170, 96, 96)}
WIDTH, GAP = 320, 6


class Restorer:
    """An arm's network and its mask at the price."""

    def __init__(self, runs: Path, arm: str, trainer: Trainer) -> None:
        ratio = 0.0 if arm == PIXEL else chosen_ratio(runs, arm)
        run = Run(runs, "confirmation", SEED, arm, ratio)
        self.figures: dict[str, Any] = run.figures()
        self.network = create_network(NETWORK, width=SIZES["small"].width)
        load_weights(self.network, run.path.with_suffix(".safetensors"))
        self.network.eval()
        self.trainer = trainer
        sigma, floor, gain = self.figures["masks"][str(PRICE)]
        self.mask = Sharpening(sigma, float(floor), gain)

    def __call__(self, pairs: Pairs, case: str | None = None) -> Tensor:
        """Return what is left of blurred images: with the gain of a case that was judged, or that of validation."""
        mask = self.mask if case is None else self.mask._replace(gain=self.figures["equal"][str(PRICE)][case]["gain"])
        return mask(self.trainer.restore(self.network, pairs))


def main() -> None:
    """Write the folders and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "deblurring_crops.jpg")
    options = parser.parse_args()
    runs = options.runs / "deblurring_quality"
    trainer = Trainer(torch.device("cpu"), torch.float32)
    restorers = {arm: Restorer(runs, arm, trainer) for arm in ARMS}
    cases = {
        SEEN: held_out_pairs(options.datasets / "bsds500" / "test", SEEN, TESTED, seed=BLUR_SEEDS["test"]),
        "GoPro": gopro_pairs(options.datasets / "gopro-scene", slice(1, None, 2)),
    }
    for case, pairs in cases.items():
        images = {SHARP: pairs.sharp / 255, BLURRED: pairs.blurred / 255}
        images |= {arm: restorer(pairs, case) for arm, restorer in restorers.items()}
        for name, batch in images.items():
            write_images(batch, options.runs / "pictures" / case / name.replace(", ", "-").replace(" ", "-"))
    write_jpeg(picture(restorers), options.picture)


def write_images(batch: Tensor, folder: Path) -> None:
    """Write images (N, 3, H, W) in [0, 1] as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(batch):
        write_png(image.clamp(0, 1).mul(255).round().to(torch.uint8), str(folder / f"{index:03}.png"))


def picture(restorers: dict[str, Restorer]) -> Image.Image:
    """Return a row a photograph: blurred, what each arm makes of it, sharp."""
    arms = ("L1\nand its mask" if arm == PIXEL else f"L1 + {arm}".replace(", ", ",\n") for arm in ARMS)
    titles = [title if "\n" in title else f"{title}\n" for title in (BLURRED, *arms, SHARP)]
    rows = [beside([text(title, WIDTH) for title in titles], GAP)]
    generator = torch.Generator().manual_seed(SEED)
    synthesizer = BlurSynthesizer((sum(EXTENTS) / 2,))
    for name, box in SHOWN.items():
        sharp = torch.from_numpy(getattr(photographs, name)()).permute(2, 0, 1)[None]
        (blurred,) = synthesizer(sharp / 255, generator=generator)
        noise = {key.removesuffix("_noise"): value for key, value in NOISE.items()}
        blurred = add_sensor_noise(blurred.clamp(0, 1), **noise, transfer="srgb", generator=generator)
        height, width = (side // 8 * 8 for side in sharp.shape[2:])
        pairs = Pairs(*(each[..., :height, :width] for each in (blurred.mul(255).round().to(torch.uint8), sharp)))
        images = [pairs.blurred / 255, *(restorer(pairs) for restorer in restorers.values()), pairs.sharp / 255]
        rows.append(beside([tile(cut(image, box), WIDTH) for image in images], GAP))
    return above(rows, GAP)


if __name__ == "__main__":
    main()
