"""Can the extent of blur be read from one image alone, by a regression on the features of tafm-compact?

Energies of the features of windows of 64 px are regressed to log1p of the extent in px, with a spread; an image's
reading is the mean over its windows, weighted by precision. It learns from two thirds of the CC0 photographs, made
smaller, and from generated scenes, under shakes of 0 to 25 px with a sensor's noise. The other third calibrates a
90 % interval by the split-conformal rule. It is judged on the 200 photographs of BSDS500 test: on kinds of blur, noise
and cameras that it has not learned from, and on the real pairs of GoPro and REDS. Every control is regressed in the
same way, from the same images: variance of the Laplacian, Tenengrad, spectral slope, all three, the same network with
random weights, and an ImageNet SqueezeNet. All choices were made on shake and Gaussian blur of the calibration third.

The verdict, as it was named before anything was measured on those photographs: the meter enters the public API only if

- on linear motion, on defocus, on strong noise and on correlated noise, each by itself, its rank correlation is higher
  than that of the best of all controls, by a margin whose 95 % bootstrap interval over photographs excludes 0;
- its 90 % interval covers at least 80 % of the photographs on each of the four;
- it orders at least 90 % of the real pairs, the blurred image being read as the more blurred.

    python benchmarks/blur_meter.py --datasets DATASETS --weights WEIGHTS

DATASETS holds cc0-photos, bsds500/test, gopro-scene, reds-320x180 and real-blur; WEIGHTS squeezenet1_0-imagenet.
safetensors. Minutes on one thread. Writes results/blur_meter.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, command_line, metadata, refuse_quick_results, write_result
from _photographs import central_crops
from finetuning import random_compact
from meter.features import (
    Windows,
    energies,
    laplacian,
    laplacian_of_image,
    spectral_slope,
    tenengrad,
    together,
)
from meter.images import CONDITIONS, Graded, Sharp, judged, real_pairs, scenes, shaken, sharp_crops
from meter.measuring import OURS, VERDICT_CONDITIONS, figures, verdict
from meter.regression import Meter, fitted
from torch import Tensor
from tqdm import tqdm

from tafm_loss import create_backbone
from tafm_loss.images import find_images, read_image

CALIBRATING = 3
SIZE = 256
CHUNK = 16
SQUEEZENET = "SqueezeNet, ImageNet"
# It takes seven times as long as the other networks.
SLOW = (SQUEEZENET,)


def arms(weights: Path) -> dict[str, Callable[[], Windows]]:
    """Return what makes each arm: ours first, then the controls."""
    squeezenet = weights / "squeezenet1_0-imagenet.safetensors"
    return {
        OURS: lambda: energies(create_backbone("tafm-compact").frozen_copy()),
        "tafm-compact, random weights": lambda: energies(random_compact(0).frozen_copy()),
        SQUEEZENET: lambda: energies(create_backbone("squeezenet1_0", weights=squeezenet).frozen_copy()),
        "variance of Laplacian": lambda: laplacian,
        "variance of Laplacian, whole image": lambda: laplacian_of_image,
        "Tenengrad": lambda: tenengrad,
        "spectral slope": lambda: spectral_slope,
        "these three": lambda: together(laplacian, tenengrad, spectral_slope),
    }


def windows_of(arm: Windows, images: Tensor) -> Tensor:
    """Return the features (N, F, h, w) of many images."""
    return torch.cat([arm(some) for some in images.split(CHUNK)])


class Data:
    """Everything that the arms share."""

    def __init__(self, datasets: Path, *, every: int) -> None:
        photographs = find_images(datasets / "cc0-photos")
        held_out = photographs[::CALIBRATING]
        crops = sharp_crops([path for path in photographs if path not in held_out], 0)
        sharp = Sharp(*(torch.cat(parts)[::every] for parts in zip(crops, scenes(1), strict=True)))
        self.learned = shaken(sharp, 2)
        self.calibrating = shaken(Sharp(*(part[::every] for part in sharp_crops(held_out, 3))), 4)
        tested = central_crops(datasets / "bsds500" / "test", SIZE, every=every)
        self.judged: dict[str, Graded] = {
            name: judged(tested, name, 10 + index) for index, name in enumerate(CONDITIONS)
        }
        self.pairs = list(real_pairs(datasets))[::every]
        self.photographs = {path.name: read_image(path)[None] for path in find_images(datasets / "real-blur")}

    def facts(self) -> dict[str, int]:
        """Return how many images there are of each use."""
        images = {"learned": self.learned.images, "calibrating": self.calibrating.images}
        tested = next(iter(self.judged.values())).images
        return {**{name: len(each) for name, each in images.items()}, "judged": len(tested), "pairs": len(self.pairs)}


def measured(arm: Windows, data: Data, *, slow: bool) -> dict[str, Any]:
    """Return all that is measured of an arm; of one that takes long, on the conditions of the verdict alone."""
    meter = fitted(windows_of(arm, data.learned.images), data.learned.extents)
    meter = meter.calibrated(windows_of(arm, data.calibrating.images), data.calibrating.extents)

    def extent(image: Tensor) -> float:
        return float(meter.read(arm(image)).of_images().values.expm1().clamp(min=0))

    conditions = {name: graded for name, graded in data.judged.items() if not slow or name in VERDICT_CONDITIONS}
    return {
        "conditions": {name: _judged(meter, arm, graded) for name, graded in conditions.items()},
        "pairs": [
            {"scene": pair.scene, "blurred": extent(pair.blurred), "sharp": extent(pair.sharp)} for pair in data.pairs
        ],
        "photographs": {name: _interval(meter, arm(image)) for name, image in data.photographs.items()},
    }


def _judged(meter: Meter, arm: Windows, graded: Graded) -> dict[str, Any]:
    return figures(meter.read(windows_of(arm, graded.images)).of_images(), graded.extents, meter.reach)


def _interval(meter: Meter, features: Tensor) -> list[float]:
    """Return the lower end, the reading and the upper end for one image, px."""
    read = meter.read(features).of_images()
    reach = meter.reach * read.spreads
    return [float(value.expm1().clamp(min=0)) for value in (read.values - reach, read.values, read.values + reach)]


def main() -> None:
    """Measure all arms, one after the other, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "blur_meter.json")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images; the figures mean nothing")
    options = parser.parse_args()
    refuse_quick_results(parser, quick=options.quick, out=options.out)
    torch.set_num_threads(1)
    data = Data(options.datasets, every=10 if options.quick else 1)
    found = {
        name: measured(make(), data, slow=name in SLOW)
        for name, make in tqdm(arms(options.weights).items(), desc="arms")
    }
    result = {"metadata": metadata(command_line()), "images": data.facts(), "verdict": verdict(found), "arms": found}
    write_result(options.out, result)


if __name__ == "__main__":
    main()
