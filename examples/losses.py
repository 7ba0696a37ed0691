"""All losses on one batch: how strong each is, what it costs, and what it asks the network to change.

    python examples/losses.py [--images PHOTOGRAPHS] [--discriminators FOLDER_OR_PTH] [--out PNG]

The batch is under a shake; "restored" is what a network may have made of it, the same scenes under a shorter exposure
of that shake. The table has, for each loss, its value, the norm of its gradient relative to that of L1, the weight that
makes this the recommended ratio of 2, and the time of a step, forward and backward, relative to the usual perceptual
loss. The picture shows the gradients. Half a minute on one processor core.
"""

import argparse
import functools
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tafm_loss import (
    BlurSynthesizer,
    ContrastiveFeatureLoss,
    DiscriminativeFeatureLoss,
    LatentComparisonLoss,
    ProgressiveNegatives,
    TaskAdaptiveFeatureLoss,
    calibrate_weight,
    create_backbone,
    gradient_ratio,
    train_discriminators,
)
from tafm_loss.images import find_images, read_image
from tafm_loss.losses import RECOMMENDED_RATIO
from tafm_loss.mdf import BlurDegradation
from tafm_loss.scenes import generate_scenes

SCENES, SIZE = 4, 96
# Nested exposures of one shake, px: what is left in "restored", two that serve as negatives, and the blurry input.
BLUR = BlurSynthesizer((2.0, 4.0, 6.0, 8.0))
ROUNDS = 3
# Of the discriminators that are trained here: real ones have eight scales, 32 or 64 features and 100 steps.
WIDTHS, STEPS = (8, 8, 16), 10
CROP = 64
USUAL, LATENT = "VGG19 conv5_4", "latent comparison"

Loss = Callable[[Tensor, Tensor], Tensor]
Rows = list[list[str]]


class Batch(NamedTuple):
    """Images (N, 3, H, W) of the same scenes; `negatives` (K, N, 3, H, W)."""

    sharp: Tensor
    blurry: Tensor
    restored: Tensor
    negatives: Tensor


def make_batch(sharp: Tensor, generator: torch.Generator) -> Batch:
    """Return sharp images with a shake, a shorter one as what a network restored, and negatives in between."""
    kernels = BLUR.sample(len(sharp), generator=generator)
    exposures = BLUR(sharp, kernels=kernels)
    negatives = ProgressiveNegatives(kind="exposure", synthesizer=BLUR)
    negatives.step(500, 1000)  # in training, at every step
    return Batch(sharp, exposures[-1], exposures[0], negatives(exposures[-1], sharp, kernels=kernels))


def scenes(folder: Path | None, generator: torch.Generator) -> Tensor:
    """Return the centres of the first photographs in a folder, or generated scenes, (N, 3, H, W)."""
    if folder is None:
        return generate_scenes(SCENES, SIZE, generator=generator)
    photographs = [read_image(path) for path in find_images(folder)[:SCENES]]
    if len(photographs) < SCENES or min(min(photograph.shape[1:]) for photograph in photographs) < SIZE:
        raise SystemExit(f"--images must name a folder of {SCENES} or more images of {SIZE} x {SIZE} px or more")
    centres = []
    for photograph in photographs:
        top, left = ((side - SIZE) // 2 for side in photograph.shape[1:])
        centres.append(photograph[:, top : top + SIZE, left : left + SIZE])
    return torch.stack(centres)


def discriminative_loss(path: Path | None, generator: torch.Generator) -> DiscriminativeFeatureLoss:
    """Return the loss of the discriminators at a path, or of a few small ones, trained now."""
    if path is not None:
        return DiscriminativeFeatureLoss(path)
    print(f"training {len(WIDTHS)} small discriminators on one scene; for real ones see train_discriminators")
    (scene,) = generate_scenes(1, SIZE, generator=generator)
    return train_discriminators(
        scene, BlurDegradation(), scales=len(WIDTHS), widths=WIDTHS, steps=STEPS, progress=False
    )


def small_encoder() -> nn.Module:
    """Return an encoder whose latents are a quarter as high and wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.GELU(), nn.Conv2d(16, 32, 5, 2, 2))


def vgg19_loss() -> TaskAdaptiveFeatureLoss:
    """Return the usual perceptual loss; with random weights, which cost the same as trained ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that the weights are random
        backbone = create_backbone("vgg19", weights=None, layers=["conv5_4"])
    return TaskAdaptiveFeatureLoss(backbone, distance="l1")


def wanted_change(loss: Loss, restored: Tensor, sharp: Tensor) -> Tensor:
    """Return minus the gradient of a loss with respect to the restored images, of their shape."""
    leaf = restored.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, sharp), leaf)
    return -gradient


def step_seconds(steps: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each step; they take turns, so that what slows the machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(1 + ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(own[1:]) for name, own in seconds.items()}  # the first one plans


def draw(batch: Batch, changes: Mapping[str, Tensor], path: Path) -> None:
    """Draw the busiest crop of a batch, and what each loss wants changed there."""
    scene, top, left = busiest_crop(batch.sharp)
    crop = (scene, slice(None), slice(top, top + CROP), slice(left, left + CROP))
    figure = Figure(figsize=(10.4, 5.2), layout="constrained", dpi=90)
    axes = figure.subplots(2, 4).flat
    for title, image in {"sharp": batch.sharp, "blurry": batch.blurry, "residual blur": batch.restored}.items():
        axis = next(axes)
        axis.imshow(image[crop].permute(1, 2, 0).clamp(0, 1).numpy())
        axis.set_title(title, fontsize=11)
    for title, change in changes.items():
        grey = change[crop].mean(0)
        bound = float(grey.abs().quantile(0.99))
        axis = next(axes)
        drawn = axis.imshow(grey.numpy(), cmap="RdBu_r", vmin=-bound, vmax=bound)
        axis.set_title(title, fontsize=11)
    for axis in figure.axes:
        axis.set_xticks([])
        axis.set_yticks([])
    bar = figure.colorbar(drawn, ax=figure.axes, ticks=[-bound, 0, bound], shrink=0.5)
    bar.ax.set_yticklabels(["darker", "as it is", "brighter"])
    figure.savefig(path)


def busiest_crop(sharp: Tensor) -> tuple[int, int, int]:
    """Return the scene, the top and the left of the crop with the largest differences of neighbours."""
    energy = sharp.diff(dim=2)[..., :-1].square() + sharp.diff(dim=3)[:, :, :-1].square()
    sums = nn.functional.avg_pool2d(energy.mean(1, keepdim=True), CROP, stride=4)
    scene, top, left = torch.unravel_index(sums.argmax(), sums[:, 0].shape)
    return int(scene), 4 * int(top), 4 * int(left)


def table(losses: Mapping[str, Loss], weights: Mapping[str, float], seconds: Mapping[str, float], batch: Batch) -> Rows:
    """Return a row for each loss: value, gradient norm relative to L1, weight, and time relative to VGG19."""
    rows = []
    for name, loss in losses.items():
        with torch.no_grad():
            value = float(loss(batch.restored, batch.sharp))
        ratio = gradient_ratio(loss, losses["L1"], batch.restored, batch.sharp)
        weight = f"{weights[name]:.3g}" if name in weights else ""
        rows.append([name, f"{value:.4g}", f"{ratio:.3g}", weight, f"{seconds[name] / seconds[USUAL]:.3f}"])
    return rows


def main() -> None:
    """Build the losses, weigh them, combine them, measure and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs (default: generated scenes)")
    parser.add_argument(
        "--discriminators",
        type=Path,
        metavar="PATH",
        help="what train_discriminators wrote, or a .pth of gfxdisp/mdf (default: a few small ones, trained now)",
    )
    parser.add_argument("--out", type=Path, metavar="PNG", default=Path("losses.png"), help="default: %(default)s")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(scenes(options.images, generator), generator)
    blurry, sharp, restored, negatives = batch.blurry, batch.sharp, batch.restored, batch.negatives

    l1 = nn.L1Loss()
    tafm = TaskAdaptiveFeatureLoss()
    mdf = discriminative_loss(options.discriminators, generator)
    contrast = ContrastiveFeatureLoss()
    terms: dict[str, Loss] = {
        "TAFM": tafm,
        "MDF" if options.discriminators else "MDF, small": mdf,
        "contrastive": functools.partial(contrast, negatives=negatives),
    }
    weights = {name: calibrate_weight(term, l1, restored, sharp) for name, term in terms.items()}
    a, b, c = weights.values()

    def together(restored: Tensor, sharp: Tensor) -> Tensor:
        return (
            l1(restored, sharp)
            + a * tafm(restored, sharp)
            + b * mdf(restored, sharp)
            + c * contrast(restored, sharp, negatives=negatives)
        )

    # The latent comparison trains the encoder that makes the latents: from two images of one scene it learns what does
    # not depend on their quality. It asks nothing of a restored image, and has no gradient to draw, unless a network
    # restores from these latents or the restored image is one of the two.
    encoder, latent = small_encoder(), LatentComparisonLoss()

    def compared() -> Tensor:
        return latent(encoder(blurry), encoder(sharp))

    losses: dict[str, Loss] = {"L1": l1, **terms, "all together": together}
    steps: dict[str, Callable[[], object]] = {
        name: functools.partial(wanted_change, loss, restored, sharp)
        for name, loss in {**losses, USUAL: vgg19_loss()}.items()
    }
    steps[LATENT] = lambda: torch.autograd.grad(compared(), list(encoder.parameters()))
    seconds = step_seconds(steps)
    rows = table(losses, weights, seconds, batch)
    relative = f"{seconds[LATENT] / seconds[USUAL]:.3f}"
    rows.append([LATENT, f"{float(compared().detach()):.4g}", "trains the encoder", "", relative])
    head = ["loss", "value", "gradient / L1's", f"weight for {RECOMMENDED_RATIO:g}", f"time / {USUAL}"]
    for name, *cells in [head, *rows]:
        print(f"{name:<18}", *(f"{cell:>20}" for cell in cells))
    draw(batch, {name: wanted_change(loss, restored, sharp) for name, loss in losses.items()}, options.out)
    print(f"wrote {options.out}: what each loss asks for, red brighter and blue darker, each in a scale of its own")


if __name__ == "__main__":
    main()
