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
    python benchmarks/blur_meter.py --plot      # only makes the tables and docs/blur_meter.png again

DATASETS holds cc0-photos, bsds500/test, gopro-scene, reds-320x180 and real-blur; WEIGHTS squeezenet1_0-imagenet.
safetensors. It takes a quarter of an hour on one thread. Writes results/blur_meter.json and, for two more tables,
blur_meter_ranks.json and blur_meter_errors.json; draws docs/blur_meter.png, and docs/blur_meter_maps.png of photographs
that calibrate.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _common import RESULTS, ROOT, command_line, metadata, refuse_quick_results, write_result
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
from meter.figure import draw, draw_maps
from meter.images import CONDITIONS, Graded, Sharp, judged, real_pairs, scenes, shaken, sharp_crops
from meter.measuring import CLASSICAL, OURS, VERDICT_CONDITIONS, figures, verdict, without_photographs
from meter.regression import Meter, fitted
from meter.tables import errors_table, ranks_table, verdict_table
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


# Photographs that calibrate, with a blurred background of their own; made smaller.
MAPPED = ("budgie_fragrant-chamomile.jpg", "lomiri_seeding_by_Clements_Engelhardt.jpg", "budgie_canyon-wren.jpg")
MAPPED_REDUCTION = 2


def arms(weights: Path) -> dict[str, Callable[[], Windows]]:
    """Return what makes each arm: ours first, then the controls."""
    squeezenet = weights / "squeezenet1_0-imagenet.safetensors"
    classical = (
        laplacian,
        laplacian_of_image,
        tenengrad,
        spectral_slope,
        together(laplacian, tenengrad, spectral_slope),
    )
    return {
        OURS: lambda: energies(create_backbone("tafm-compact").frozen_copy()),
        "tafm-compact, random weights": lambda: energies(random_compact(0).frozen_copy()),
        SQUEEZENET: lambda: energies(create_backbone("squeezenet1_0", weights=squeezenet).frozen_copy()),
        **{name: lambda arm=arm: arm for name, arm in zip(CLASSICAL, classical, strict=True)},
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


def made(arm: Windows, data: Data) -> Meter:
    """Return an arm's meter, calibrated."""
    meter = fitted(windows_of(arm, data.learned.images), data.learned.extents)
    return meter.calibrated(windows_of(arm, data.calibrating.images), data.calibrating.extents)


def measured(arm: Windows, meter: Meter, data: Data, *, slow: bool) -> dict[str, Any]:
    """Return all that is measured of an arm; of one that takes long, on the conditions of the verdict alone."""

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


def map_photographs(arm: Windows, meter: Meter, folder: Path, path: Path) -> None:
    """Draw the maps that are read from some photographs as they are."""
    photographs = [read_image(folder / name) for name in MAPPED]
    smaller = [F.avg_pool2d(photograph, MAPPED_REDUCTION) for photograph in photographs]
    draw_maps(smaller, [meter.read(arm(photograph[None])) for photograph in smaller], path)


def measure(options: argparse.Namespace) -> None:
    """Measure all arms, one after the other, draw maps, and write the results."""
    data = Data(options.datasets, every=10 if options.quick else 1)
    found = {}
    for name, make in tqdm(arms(options.weights).items(), desc="arms"):
        arm = make()
        meter = made(arm, data)
        found[name] = measured(arm, meter, data, slow=name in SLOW)
        if name == OURS:
            maps = options.picture.with_stem(f"{options.picture.stem}_maps")
            map_photographs(arm, meter, options.datasets / "cc0-photos", maps)
    kept = {"images": data.facts(), "verdict": verdict(found), "arms": without_photographs(found)}
    write_results(options.out, metadata(command_line()), kept)


def write_results(path: Path, origin: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Write what was measured, and each table in a file of its own."""
    found = kept["arms"]
    table = verdict_table(found, kept["verdict"], kept["images"])
    write_result(path, {"table": table, "metadata": origin, **kept})
    for name, more in (("ranks", ranks_table(found)), ("errors", errors_table(found, CLASSICAL[-1]))):
        write_result(path.with_stem(f"{path.stem}_{name}"), {"table": more, "metadata": origin})


def publish_again(path: Path, picture: Path) -> None:
    """Make the tables and the figure from what was measured."""
    result = json.loads(path.read_text())
    write_results(path, result["metadata"], {key: result[key] for key in ("images", "verdict", "arms")})
    draw(result["arms"], picture)


def main() -> None:
    """Measure and draw, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measuring = "--plot" not in sys.argv
    parser.add_argument("--datasets", type=Path, required=measuring)
    parser.add_argument("--weights", type=Path, required=measuring)
    parser.add_argument("--out", type=Path, default=RESULTS / "blur_meter.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "blur_meter.png")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images; the figures mean nothing")
    parser.add_argument("--plot", action="store_true", help="measure nothing, make tables and figure again")
    options = parser.parse_args()
    refuse_quick_results(parser, quick=options.quick, out=options.out)
    if not options.plot:
        torch.set_num_threads(1)
        measure(options)
    publish_again(options.out, options.picture)


if __name__ == "__main__":
    main()
