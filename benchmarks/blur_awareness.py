r"""Does a judge tell blur from changes of the same size that are not blur, also in what a trained deblurrer leaves?

Measures pixel losses and feature losses over untuned, tuned and random backbones, on clean blur by
`tafm_loss.report.measure` and on the residuals of a trained network by `_residuals.py`. Tuned backbones are
made in --backbones where they are not there. Writes results/blur_awareness.json and
results/blur_awareness_residuals.json after every judge, skips the judges that are there, and draws the figure:

    python benchmarks/blur_awareness.py --photographs BSDS500 --squeezenet FILE.safetensors --backbones DIR \
        --restorer runs/unet_synthetic --mdf Ds_SISR.pth [--again JUDGE]
    python benchmarks/blur_awareness.py --plot      # only draws docs/blur_awareness.png again, from the result files
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _awareness_plot import draw
from _awareness_tables import SHOWN_EXTENTS, awareness_table, residuals_table
from _backbones import backbones, loss_on_all_taps
from _common import RESULTS, ROOT, command_line, metadata, write_result
from _photographs import central_crops
from _residuals import STEP_SIZES, about, judged_residuals, restored_photographs, steps_from
from torch import Tensor, nn
from tqdm import tqdm

from examples.deblurring.evaluation.similarity import ssim
from tafm_loss import Backbone, DiscriminativeFeatureLoss
from tafm_loss.report import Distance, measure

AWARENESS, RESIDUALS = RESULTS / "blur_awareness.json", RESULTS / "blur_awareness_residuals.json"
PICTURE = ROOT / "docs" / "blur_awareness.png"
SIZE = 128
EVERY = 10
RECOVERED = 4
MDF = "MDF, official SISR"
# An image takes many times as long through the eight discriminators as through the other networks.
MDF_SIZE, MDF_EVERY, MDF_RECOVERED = 64, 50, 2

Figures = dict[str, Any]


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each image."""
    return (pred - target).square().mean((1, 2, 3))


def absolute_error(pred: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error of each image."""
    return (pred - target).abs().mean((1, 2, 3))


def pooled_squared_error(pred: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each image after averaging 8 x 8 px."""
    return squared_error(F.avg_pool2d(pred, 8), F.avg_pool2d(target, 8))


def dissimilarity(pred: Tensor, target: Tensor) -> Tensor:
    """Return one less the structural similarity of each image."""
    return 1 - ssim(pred, target)


def judges(options: argparse.Namespace) -> dict[str, Callable[[], Distance]]:
    """Return what makes each judge."""

    def loss_over(make: Callable[[], Backbone]) -> Callable[[], Distance]:
        return lambda: loss_on_all_taps(make(), reduction="none")

    found = backbones(options.backbones, options.photographs / "train", options.squeezenet)
    return {
        "MSE": lambda: squared_error,
        "L1": lambda: absolute_error,
        "MSE of 8 x 8 means": lambda: pooled_squared_error,
        "1 - SSIM": lambda: dissimilarity,
        **{name: loss_over(make) for name, make in found.items()},
        MDF: lambda: DiscriminativeFeatureLoss(options.mdf, reduction="none"),
    }


def described(judge: Distance) -> str:
    """Return what a judge says of itself, of a function its name."""
    return repr(judge) if isinstance(judge, nn.Module) else judge.__name__


def judged_blur(name: str, judge: Distance, photographs: Path) -> Figures:
    """Return all that is measured of a judge on clean blur."""
    if name == MDF:
        crops = central_crops(photographs, MDF_SIZE, every=MDF_EVERY)
        return measure(judge, crops, recovered_images=MDF_RECOVERED)
    return measure(judge, central_crops(photographs, SIZE, every=EVERY), recovered_images=RECOVERED)


def awareness_caption(images: int) -> str:
    return (
        f"Clean blur of {images} photographs (BSDS500 test, central {SIZE} px). Selectivity: the mean squared error of "
        f"a distractor that is as far as blur of {', '.join(SHOWN_EXTENTS)} px, over that of the blur; the least "
        "median over shake, linear and defocus. Recovery: pixels optimised from a 6 px shake by the judge alone, PSNR "
        f"before and after, {RECOVERED} images. Nyquist peak: of the gradient's power, over its mean. Mirrored: a 3 px "
        "shake's error with its sign turned, over the shake. Grey: the image without colour, over a 3 px shake. Other: "
        "another image, over a 24 px shake. Shift: by 1 px, over a 3 px shake. Least slope: of log response over log "
        "extent, 0.5 to 25 px; ordered: images whose response only grows. Medians. MDF, which takes long, has the "
        f"central {MDF_SIZE} px of every {MDF_EVERY}th photograph of the 200, {MDF_RECOVERED} of them recovered."
    )


def residuals_caption(facts: Figures) -> str:
    blurred, restored = (facts[key]["median"] for key in ("psnr_blurred", "psnr_restored"))
    return (
        f"Residuals of a trained network, examples/deblurring's small U-Net: {facts['images']} photographs (BSDS500 "
        f"test, central {SIZE} px), shakes of 3 to 13 px, median PSNR {blurred:.1f} dB blurred and {restored:.1f} dB "
        "restored. Selectivity: the mean squared error of noise that is as far from sharp as the restored image, over "
        f"that of the restored image. Reward: what a step from the restored image, {STEP_SIZES[0]:g} of the residual "
        "in root mean square, takes off the distance, over what as long a step to the sharp image does; unsharp masks "
        "of sigma 0.7 and 2 px, 3 px more of shake, the residual with random phases, white noise. Long: steps as long "
        "as the residual. Cosine: of the residual with the gradient turned round; by band: below 0.125, below 0.25 and "
        "above it, cycles/px. Squared error gives the masks next to nothing: what a judge gives for them it gives for "
        "sharpness, not for truth. The energy of the MSE's gradient is the residual's. Medians; "
        "a reward is the ratio of two."
    )


def kept(path: Path) -> Figures:
    """Return what a result file holds, nothing if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def update(
    path: Path,
    makers: dict[str, Callable[[], Distance]],
    measured: Callable[[str, Distance], Figures],
    table: Callable[[dict[str, Figures]], Figures],
    *,
    again: Sequence[str] = (),
    **facts: Any,
) -> None:
    """Measure the judges that the file does not hold, and write it after each; all of them if its facts are others."""
    known = kept(path)
    same = all(known.get(key) == value for key, value in facts.items())
    arms = {name: arm for name, arm in known.get("arms", {}).items() if same and name not in again}
    origin = known.get("metadata")
    for name, make in tqdm(makers.items(), desc=path.stem):
        if name not in arms:
            judge = make()
            arms[name] = {"judge": described(judge), **measured(name, judge)}
            origin = metadata(command_line())
        arms = {other: arms[other] for other in makers if other in arms}
        write_result(path, {"table": table(arms), "metadata": origin, **facts, "arms": arms})


def main() -> None:
    """Measure what is not measured yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measuring = "--plot" not in sys.argv
    parser.add_argument("--photographs", type=Path, required=measuring, help="BSDS500, with the folders train and test")
    parser.add_argument("--squeezenet", type=Path, required=measuring, help="ImageNet weights of squeezenet1_0")
    parser.add_argument("--backbones", type=Path, required=measuring, help="where tuned backbones are, or go")
    parser.add_argument("--restorer", type=Path, required=measuring, help="a training run of examples/deblurring")
    parser.add_argument("--mdf", type=Path, required=measuring, help="Ds_SISR.pth of gfxdisp/mdf")
    parser.add_argument("--again", action="append", default=[], help="a judge to measure again")
    parser.add_argument("--plot", action="store_true", help="measure nothing, draw the figure again")
    options = parser.parse_args()
    if not options.plot:
        torch.set_num_threads(1)
        test = options.photographs / "test"
        images = restored_photographs(options.restorer, test, SIZE, every=EVERY)
        steps = steps_from(images)
        facts = about(images, steps)
        makers = judges(options)
        update(
            RESIDUALS,
            makers,
            lambda _, judge: judged_residuals(judge, images, steps),
            lambda arms: residuals_table(arms, residuals_caption(facts)),
            again=options.again,
            residuals=facts,
        )
        update(
            AWARENESS,
            makers,
            lambda name, judge: judged_blur(name, judge, test),
            lambda arms: awareness_table(arms, awareness_caption(next(iter(arms.values()))["images"])),
            again=options.again,
            size=SIZE,
            every=EVERY,
        )
    draw(kept(AWARENESS)["arms"], kept(RESIDUALS)["arms"], PICTURE)


if __name__ == "__main__":
    main()
