"""The demo: a small deblurring network finished with and without the loss, and an unsharp mask as the rival."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss._files import write_figure
from tafm_loss._text import align
from tafm_loss.demo.pictures import plot_response, plot_restorations
from tafm_loss.demo.training import (
    HELD_OUT_SIZE,
    NOISE,
    SHAKE,
    Pairs,
    ResidualUNet,
    batches_of,
    blur_scenes,
    cosine_schedule,
    generated_pairs,
    photograph_pairs,
    restore,
    train_arms,
    train_finish,
    train_start,
    with_feature_loss,
)
from tafm_loss.losses import RECOMMENDED_RATIO, TaskAdaptiveFeatureLoss
from tafm_loss.report import response

__all__ = [
    "NOISE",
    "SHAKE",
    "DemoResult",
    "Mask",
    "Pairs",
    "ResidualUNet",
    "batches_of",
    "blur_scenes",
    "cosine_schedule",
    "generated_pairs",
    "matching_mask",
    "photograph_pairs",
    "psnr",
    "restore",
    "run_demo",
    "sharpness",
    "train_finish",
    "train_start",
    "with_feature_loss",
]

# A column: what computes it, and its digits.
Metric: TypeAlias = tuple[Callable[[Tensor, Tensor], Tensor], int]
OURS, RIVAL = "L1 + TAFM", "L1 + mask"
MASK_SIGMAS = (0.7, 1.0, 1.5, 2.5)
LARGEST_GAIN = 4.0
RESPONSE_EXTENTS = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.5, 6.5, 10.0, 14.0, 19.0, 25.0)
RESPONSE_SCENES = 6
UNIT_EXTENT = 10.0


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Args:
        head: the table's column headings.
        rows: the table's rows: a name, then means over the held-out scenes.
        notes: what must be known to read the table.
        files: the pictures that were written.
    """

    head: list[str]
    rows: list[list[str]]
    notes: list[str]
    files: list[Path]

    def __str__(self) -> str:
        """Return the table as text, with the notes and files below."""
        table = align(self.head, self.rows, right=range(1, len(self.head)))
        return "\n".join([table, "", *self.notes, "", *(f"wrote {path}" for path in self.files)])


def run_demo(
    *,
    images: Path | None = None,
    out: Path = Path("demo-out"),
    steps: int = 2400,
    seed: int = 0,
    device: torch.device | None = None,
    progress: bool = True,
    metrics: Mapping[str, Metric] | None = None,
) -> DemoResult:
    """Train a small deblurring network with L1 and with L1 + `TaskAdaptiveFeatureLoss`, and compare them.

    The rival is an unsharp mask on the output of L1, as strong as it takes to make that as sharp as the output of
    L1 + the loss. Writes `demo.png` and `response.png` into `out`, over those of an earlier demo. The same seed gives
    the same result on the same machine; the global random state is left alone.

    Args:
        images: a folder of photographs; None takes generated scenes.
        out: the folder for the pictures; made if need be.
        steps: how long each arm is trained; the first two thirds are shared.
        seed: of the scenes, the blur, the network and the batches.
        device: where the networks are trained; None for the processor.
        progress: whether to show a progress bar.
        metrics: more columns of the table, {heading: (what returns (N,) of restored and sharp images, digits)}.

    Raises:
        ModuleNotFoundError: if matplotlib or piq is missing.
        NotADirectoryError: if `images` is no folder.
        FileExistsError: if `out` is a file.
        ValueError: if `images` holds too few photographs or one that cannot be read, or `steps` is less than 3.
    """
    if steps < 3:
        raise ValueError(f"steps must be at least 3, got {steps}")
    if missing := [name for name in ("matplotlib", "piq") if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(f'the demo needs {" and ".join(missing)}: pip install "tafm-loss[demo]"')
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    training, held_out = generated_pairs(generator) if images is None else photograph_pairs(images, generator)
    kind = "generated scenes" if images is None else "photographs"
    loss = TaskAdaptiveFeatureLoss().to(device)
    arms = train_arms(training.to(device), loss, steps=steps, seed=seed, progress=progress)
    blurred = held_out.blurred.to(device)
    pixel, feature = (restore(network, blurred).cpu() for network in (arms.pixel, arms.feature))
    mask = matching_mask(pixel, feature, held_out.sharp)
    restored = {"blurred": held_out.blurred, "L1": pixel, RIVAL: mask(pixel), OURS: feature}
    columns = {**METRICS, **(metrics or {})}
    values = {name: measure(found, held_out.sharp, columns) for name, found in restored.items()}
    notes = [
        f"Means over {len(held_out.sharp)} held-out {kind}, blurred by a shake of 5 to 8 px with noise of {NOISE:g}.",
        f"{OURS} is L1 + {arms.weight:.3g} x TAFM: its gradient is {RECOMMENDED_RATIO:g} x that of L1 at the start.",
        f"The mask (sigma {mask.sigma:g} px, gain {mask.gain:.2f}) makes L1 as sharp as {OURS}, at the highest PSNR.",
        f"Scenes on which {OURS} has the higher PSNR: {_wins(values, 'L1')} against L1, {_wins(values, RIVAL)} against "
        "the mask.",
    ]
    caption = (
        f"Held-out {kind}, those whose blur shows most, {HELD_OUT_SIZE} px wide; framed patch enlarged. "
        f"Sharpness: gradient energy relative to the sharp image. The mask is set to the sharpness of {OURS}.\n"
        "The three restorations are close to each other: what differs is measured in the table, and hardly seen."
    )
    files = [out / "demo.png", out / "response.png"]
    write_figure(plot_restorations({**restored, "sharp": held_out.sharp}, held_out.sharp, _legend, caption), files[0])
    _draw_response(held_out, kind, seed, files[1])
    return DemoResult(["", *columns], _rows(values, columns), notes, files)


class Mask(NamedTuple):
    """An unsharp mask: `gain` times what a Gaussian of `sigma` px removes is added."""

    sigma: float
    gain: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return the sharpened images (N, C, H, W), clamped to [0, 1]."""
        return (images + self.gain * self.detail(images)).clamp(0, 1)

    def detail(self, images: Tensor) -> Tensor:
        """Return what the Gaussian removes of images (N, C, H, W)."""
        radius = int(3 * self.sigma + 0.5)
        offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        window = torch.exp(-(offsets**2) / (2 * self.sigma**2))
        window = window / window.sum()
        flat = F.pad(images.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
        smooth = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
        return images - smooth.view_as(images)


def matching_mask(images: Tensor, as_sharp_as: Tensor, sharp: Tensor) -> Mask:
    """Return the mask that makes images as sharp as others on average; of those, the one with the highest PSNR."""
    wanted = float(sharpness(as_sharp_as, sharp).mean())

    def gain(sigma: float) -> float:
        detail = Mask(sigma, 0.0).detail(images)
        low, high = 0.0, LARGEST_GAIN
        for _ in range(20):
            middle = (low + high) / 2
            enough = float(sharpness((images + middle * detail).clamp(0, 1), sharp).mean()) >= wanted
            low, high = (low, middle) if enough else (middle, high)
        return high

    masks = [Mask(sigma, gain(sigma)) for sigma in MASK_SIGMAS]
    return max(masks, key=lambda mask: float(psnr(mask(images), sharp).mean()))


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of images (N, C, H, W) in [0, 1], dB, (N,)."""
    return -10 * (images.double() - reference.double()).square().mean((1, 2, 3)).log10()


def sharpness(images: Tensor, reference: Tensor) -> Tensor:
    """Return the gradient energy relative to the reference, (N,): below 1 is blurrier, above 1 sharper or noisier."""
    x, y = (
        batch.diff(dim=-1).square().mean((1, 2, 3)) + batch.diff(dim=-2).square().mean((1, 2, 3))
        for batch in (images.double(), reference.double())
    )
    return x / y


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Return the structural similarity of images (N, C, H, W) in [0, 1], (N,)."""
    import piq

    return torch.as_tensor(piq.ssim(images, reference, data_range=1.0, downsample=False, reduction="none"))


METRICS: Mapping[str, Metric] = {
    "PSNR, dB (higher)": (psnr, 2),
    "SSIM (higher)": (ssim, 4),
    "sharpness (1 = sharp)": (sharpness, 2),
}


def measure(images: Tensor, sharp: Tensor, columns: Mapping[str, Metric] = METRICS) -> dict[str, Tensor]:
    """Return {heading: (N,) values} of images against `sharp`."""
    return {heading: metric(images, sharp) for heading, (metric, _) in columns.items()}


def _rows(values: Mapping[str, Mapping[str, Tensor]], columns: Mapping[str, Metric]) -> list[list[str]]:
    """Return the table of means over the scenes."""
    return [
        [name, *(f"{float(row[heading].mean()):.{digits}f}" for heading, (_, digits) in columns.items())]
        for name, row in values.items()
    ]


def _wins(values: Mapping[str, Mapping[str, Tensor]], rival: str) -> str:
    difference = values[OURS]["PSNR, dB (higher)"] - values[rival]["PSNR, dB (higher)"]
    return f"{int((difference > 0).sum())} of {len(difference)}"


def _legend(image: Tensor, reference: Tensor) -> str:
    if torch.equal(image, reference):
        return "the target"
    kept = float(sharpness(image[None], reference[None]))
    return f"{float(psnr(image[None], reference[None])):.1f} dB, sharpness {kept:.2f}"


def _draw_response(held_out: Pairs, kind: str, seed: int, path: Path) -> None:
    """Draw how the loss and the squared error answer to growing blur, each 1 at a shake of 10 px."""
    loss = TaskAdaptiveFeatureLoss(reduction="none")
    scenes = held_out.sharp[:RESPONSE_SCENES]
    distances: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        f"TAFM ({loss.backbone.config.name})": loss,
        "mean squared error": _mean_squared_error,
    }
    curves = {}
    for name, distance in distances.items():
        values = response(distance, scenes, extents=RESPONSE_EXTENTS, seed=seed)
        curves[name] = values / values[RESPONSE_EXTENTS.index(UNIT_EXTENT)].mean()
    caption = (
        f"One shake of {len(scenes)} held-out {kind}, growing. Both are scaled to 1 at {UNIT_EXTENT:g} px, so that "
        "their shapes\ncan be compared, not their heights. Lines: mean; bands: all scenes."
    )
    write_figure(plot_response(RESPONSE_EXTENTS, curves, caption), path)


def _mean_squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean((1, 2, 3))
