"""What discriminators trained on one photograph and its blur are worth as a loss.

Trains them by `train_discriminators` on one photograph (scikit-image's "chelsea", CC0) unless OUT holds them already,
and measures them beside the official ones, random ones, the bundled backbone and the mean squared error; and repeats
the experiment of gfxdisp/mdf, in which pixels are optimised from noise. Writes results/discriminators.json after every
arm, skips those that are there, and draws docs/discriminators.png:

    python benchmarks/discriminators.py OUT [--official Ds_SISR.pth] [--squeezenet FILE.safetensors] [--images DIR]
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _backbones import loss_on_all_taps
from _common import RESULTS, ROOT, metadata, write_result
from _photographs import central_crops
from torch import Tensor, nn
from tqdm import tqdm

from examples._common import write_atomically
from examples.deblurring.evaluation.similarity import psnr
from tafm_loss import DiscriminativeFeatureLoss, TaskAdaptiveFeatureLoss, create_backbone
from tafm_loss.mdf import BlurDegradation, PatchDiscriminators, discriminator_backbone, train_discriminators
from tafm_loss.report import gradient_peak, recovery, selectivity
from tafm_loss.scenes import generate_scenes

SIZE = 64
SCENES = 8
SCENE_SEED = 2**41
RECOVERED = 4
EXTENTS = (1.0, 3.0, 6.0, 12.0)
INVERSION_STEPS, INVERSION_RATE = 500, 0.1
OURS, OFFICIAL, RANDOM = "MDF, trained on blur", "MDF, official SISR", "random discriminators"
COMPACT, SQUARED_ERROR, SQUEEZENET = "tafm-compact", "MSE", "SqueezeNet (ImageNet)"
COMMAND = (
    "python benchmarks/discriminators.py OUT --official Ds_SISR.pth --squeezenet squeezenet1_0-imagenet.safetensors"
)
SHOWN_SCALES = (1, 4, 8)
SHOWN_EXTENT = 6.0
COLOURS = 128

Distance = Callable[[Tensor, Any], Tensor]


def photograph() -> Tensor:
    """Return the photograph of a cat, (1, 3, 300, 451)."""
    from skimage.data import chelsea

    return torch.from_numpy(chelsea()).permute(2, 0, 1)[None].float() / 255


def trained(options: argparse.Namespace) -> DiscriminativeFeatureLoss:
    """Return the discriminators in OUT as a loss, trained now if they are not there; TIME in OUT has the seconds."""
    if not (options.out / "config.json").exists():
        began = time.perf_counter()
        train_discriminators(
            photograph(), BlurDegradation(), steps=options.steps, out_dir=options.out, resume=options.out.exists()
        )
        (options.out / "TIME").write_text(f"{time.perf_counter() - began:.0f}\n")
    return DiscriminativeFeatureLoss(options.out, reduction="none")


def random_discriminators() -> DiscriminativeFeatureLoss:
    """Return discriminators with PyTorch's random weights and batch statistics of the photograph and its blur."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PatchDiscriminators([32] * 4 + [64] * 4)
    sharp = photograph()
    images = torch.cat([sharp, BlurDegradation()(sharp, generator=torch.Generator().manual_seed(0))])[..., :256, :256]
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    return DiscriminativeFeatureLoss(discriminator_backbone(network, "random"), reduction="none")


class SquaredError:
    """The mean squared error of each image."""

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square().mean((1, 2, 3))

    def features(self, images: Tensor) -> Tensor:
        return images


def inverted(distance: Any, target: Tensor) -> tuple[float, float, float]:
    """Return the PSNR of noise, of what 500 steps of Adam on its pixels make of it, and the highest on the way."""
    start = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    pixels = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=INVERSION_RATE)
    features = distance.features(target)
    course = []
    for _ in range(INVERSION_STEPS):
        optimizer.zero_grad()
        distance(pixels, features).sum().backward()
        optimizer.step()
        course.append(float(psnr(pixels.detach().clamp(0, 1), target)))
    return float(psnr(start, target)), course[-1], max(course)


def judged(distance: Any, images: Tensor) -> dict[str, Any]:
    """Return selectivity, recovery and gradient peak on some images."""
    ratios = selectivity(distance, images, kinds=("shake",), extents=EXTENTS)
    some = images[:RECOVERED]
    features = distance.features(some)
    _, before, after = recovery(lambda pred, _: distance(pred, features), some)
    return {
        "images": len(images),
        "selectivity": {
            name: {f"{e:g}": round(float(row.median()), 3) for e, row in zip(EXTENTS, kinds["shake"], strict=True)}
            for name, kinds in ratios.items()
        },
        "recovery_before_db": round(float(before.mean()), 2),
        "recovery_after_db": round(float(after.mean()), 2),
        "gradient_peak": round(gradient_peak(distance, images), 2),
    }


def table(arms: dict[str, Any], trained_in: str) -> dict[str, Any]:
    """Return a row for each arm and kind of images."""
    rows = []
    for name, arm in arms.items():
        for where, found in arm["images"].items() or [("", None)]:
            inversion = arm["inversion_db"]
            cells = ["", "", "", ""]
            if found is not None:
                cells = [
                    *(" / ".join(f"{value:.2f}" for value in by.values()) for by in found["selectivity"].values()),
                    f"{found['recovery_before_db']:.1f} → {found['recovery_after_db']:.1f}",
                    f"{found['gradient_peak']:.1f}",
                ]
            rows.append(
                [f"{name}, {where}" if where else name, *cells, f"{inversion['last']:.1f} ({inversion['highest']:.1f})"]
            )
    extents = ", ".join(f"{extent:g}" for extent in EXTENTS)
    return {
        "columns": [
            "judge, images",
            "selectivity, white noise",
            "selectivity, scrambled error",
            "recovery, dB",
            "Nyquist peak",
            "from noise, dB",
        ],
        "rows": rows,
        "caption": "Discriminators trained on one photograph (chelsea of scikit-image, 300 x 451 px) and blur of 1 to "
        f"12 px{trained_in}, on images that they have not seen: {SIZE} px, {SCENES} of a kind. Selectivity: median, "
        f"for a shake of {extents} px; 1 is that of the MSE. Recovery: from a 6 px shake, {RECOVERED} images. From "
        f"noise: pixels of one scene after {INVERSION_STEPS} steps of Adam at {INVERSION_RATE}, in brackets the "
        "best on the way, after MDF's repository, which has 50.8 dB for MDF and 9.95 dB for VGG on its image. VGG's "
        "weights were not at hand; SqueezeNet, trained for the same task, stands in. Recovery and the way from noise "
        "do not show what was learned: random discriminators do as well, since their first convolutions hold all of "
        "the pixels. Beyond some 60 dB both only say that the image is back; where Adam then stops is chance. What the "
        "training gives is the selectivity. One photograph, one seed.",
    }


def write(path: Path, arms: dict[str, Any], trained_in: str) -> None:
    """Write the result of the arms so far; the metadata is that of the last one."""
    facts = list(arms.values())[-1]["metadata"]
    write_result(path, {"table": table(arms, trained_in), "metadata": facts, "arms": arms})


def figure(loss_fn: DiscriminativeFeatureLoss, path: Path) -> None:
    """Draw three changes of the photograph of equal squared error, and where discriminators see them."""
    from matplotlib.figure import Figure
    from PIL import Image

    sharp = photograph()[..., 40:232, 90:346]
    blurred = BlurDegradation((SHOWN_EXTENT,) * 2)(sharp, generator=torch.Generator().manual_seed(0))
    deviation = (blurred - sharp).square().mean().sqrt()
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1))
    forms = {
        f"blur, {SHOWN_EXTENT:g} px": blurred,
        "white noise of the same MSE": sharp + deviation * noise,
        "brighter, the same MSE": sharp + deviation,
    }
    maps = {name: _maps(loss_fn, form, sharp) for name, form in forms.items()}
    tops = [float(torch.stack(column).quantile(0.99)) for column in zip(*maps.values(), strict=True)]
    titles = ["squared error", *(f"discriminator {scale}" for scale in SHOWN_SCALES)]
    drawing = Figure(figsize=(15, 6), layout="constrained", dpi=70)
    for row, (name, form) in zip(drawing.subplots(len(forms), 2 + len(titles)), forms.items(), strict=True):
        for axis, title, image in zip(row, ("sharp", name), (sharp, form), strict=False):
            axis.imshow(image[0].permute(1, 2, 0).clamp(0, 1).numpy())
            axis.set_title(title, fontsize=10)
        for axis, title, difference, top in zip(row[2:], titles, maps[name], tops, strict=True):
            axis.imshow(difference.numpy(), cmap="magma", vmin=0, vmax=top)
            axis.set_title(f"{title}, mean {float(difference.mean()):.2g}", fontsize=10)
        for axis in row:
            axis.set_axis_off()
    drawn, encoded = io.BytesIO(), io.BytesIO()
    drawing.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(encoded, "PNG", optimize=True)
    write_atomically(path, encoded.getvalue())


def _maps(loss_fn: DiscriminativeFeatureLoss, form: Tensor, sharp: Tensor) -> list[Tensor]:
    """Return the squared difference of pixels, and of the features of the shown discriminators, each (H, W)."""
    ours, theirs = (loss_fn.features(images).maps for images in (form, sharp))
    taps = [[f"scale{scale}.{part}" for part in ("head", "body", "tail")] for scale in SHOWN_SCALES]
    sums = [torch.stack([_difference(ours[tap], theirs[tap], sharp) for tap in own]).sum(0) for own in taps]
    return [(form - sharp).square().mean(1)[0], *sums]


def _difference(features: Tensor, target: Tensor, image: Tensor) -> Tensor:
    """Return the squared difference of features (1, C, H', W'), mean over channels, on the size of the image."""
    squared = (features - target).square().mean(1, keepdim=True)
    margin = (image.shape[-1] - squared.shape[-1]) // 2
    padded: Tensor = nn.functional.pad(squared, (margin, margin, margin, margin))[0, 0]
    return padded


def main() -> None:
    """Train, measure what is not measured yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="where the trained discriminators are, or go")
    parser.add_argument("--official", type=Path, help="Ds_SISR.pth of gfxdisp/mdf")
    parser.add_argument("--squeezenet", type=Path, help="ImageNet weights for torchvision's squeezenet1_0")
    parser.add_argument("--images", type=Path, help="a folder of photographs to measure on, beside generated scenes")
    parser.add_argument("--steps", type=int, default=100, help="of training, at each scale (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="append", default=[], help="an arm to measure again")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours = trained(options)
    figure(ours, ROOT / "docs" / "discriminators.png")
    arms: dict[str, Callable[[], Any]] = {OURS: lambda: ours, RANDOM: random_discriminators}
    if options.official:
        arms[OFFICIAL] = lambda: DiscriminativeFeatureLoss(options.official, reduction="none")
    arms[COMPACT] = lambda: loss_on_all_taps(create_backbone("tafm-compact"), reduction="none")
    arms[SQUARED_ERROR] = SquaredError
    if options.squeezenet:
        squeezenet = create_backbone("squeezenet1_0", weights=options.squeezenet)
        arms[SQUEEZENET] = lambda: TaskAdaptiveFeatureLoss(squeezenet, reduction="none")
    images = {"scenes": generate_scenes(SCENES, SIZE, generator=torch.Generator().manual_seed(SCENE_SEED))}
    if options.images:
        images["photographs"] = central_crops(options.images, SIZE)[:SCENES]
    scene = images["scenes"][:1]
    path = RESULTS / "discriminators.json"
    known = json.loads(path.read_text())["arms"] if path.exists() else {}
    seconds = options.out / "TIME"
    trained_in = f", in {seconds.read_text().strip()} s" if seconds.exists() else ""
    found = {name: known[name] for name in arms if name in known and name not in options.again}
    if OURS in found and found[OURS]["judge"] != repr(ours):
        del found[OURS]
    for name in tqdm(arms, desc="arms"):
        if name in found and set(found[name]["images"]) >= set(images):
            continue
        distance = arms[name]()
        start, last, highest = inverted(distance, scene)
        found[name] = {
            "judge": repr(distance) if name != SQUARED_ERROR else "mean squared error",
            "inversion_db": {"start": round(start, 2), "last": round(last, 2), "highest": round(highest, 2)},
            "images": {where: judged(distance, batch) for where, batch in images.items()},
            "metadata": metadata(COMMAND),
        }
        write(path, {name: found[name] for name in arms if name in found}, trained_in)
    write(path, {name: found[name] for name in arms}, trained_in)


if __name__ == "__main__":
    main()
