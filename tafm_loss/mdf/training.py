"""Training discriminators on one image and one degradation, for the loss that compares images in their features."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss._ambient import usual_defaults
from tafm_loss._files import user_path
from tafm_loss._text import stable_name
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
from tafm_loss.finetune.arguments import check_folder
from tafm_loss.finetune.crops import scene_generators
from tafm_loss.images import check_images, check_unit_range, read_image
from tafm_loss.mdf.adversarial_scale import Scale, new_networks, train_scale
from tafm_loss.mdf.degradations import Degradation
from tafm_loss.mdf.loss import DiscriminativeFeatureLoss
from tafm_loss.runs import Checkpoint, Progress, locked, save_or_rescue
from tafm_loss.weights.folders import save_backbone

__all__ = ["train_discriminators"]

# Those of the official files: 32 features in the first four discriminators, 64 above.
NARROW, WIDE, NARROW_SCALES = 32, 64, 4
COARSEST_SIDE = 25
LEAST_SIDE = 32
LEAST_CONTRAST = 0.01
VERSIONS = 8
STATISTICS_VERSIONS = 2
# More pixels change nothing but the cost.
STATISTICS_SIDE = 256


@usual_defaults()
def train_discriminators(
    image: Tensor | str | os.PathLike[str],
    degradation: Degradation,
    *,
    scales: int = 8,
    steps: int = 100,
    widths: Sequence[int] | None = None,
    seed: int = 0,
    out_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> DiscriminativeFeatureLoss:
    """Train a loss for one task on one image: discriminators that tell what was restored from what is sharp.

    After Mustafa et al., "Training a Task-Specific Image Reconstruction Loss" (WACV 2022): a pyramid of versions of one
    image, from the coarsest to the finest; at each, a restorer against a discriminator, which is kept. The network and
    what takes over from the scale below are as in their files, the objective and its numbers SinGAN's (Shaham et al.,
    ICCV 2019). Their training code is not public: the restorer, the degradation anew at every scale, the crops, the
    number of steps and the batch statistics, measured in full size at the end, were designed here.

    About 6 minutes on one processor core for a photograph of 300 x 450 px; larger ones take little longer.

    Args:
        image: (3, H, W) or (1, 3, H, W) in [0, 1], H and W 32 px or more, or the path of an image file. The
            training runs on the device of a tensor.
        degradation: a callable `(sharp (N, 3, H, W), *, generator) -> degraded`, of that shape, in [0, 1], and a
            function of these alone, such as those of `tafm_loss.mdf`. It is called on the CPU, for every scale.
        scales: how many discriminators; their image sizes rise evenly from 25 px, the shorter side, to that of `image`.
        steps: at each scale.
        widths: the number of features of each discriminator; by default 32 for the first four, 64 above.
        seed: of weights, degradation and crops.
        out_dir: where the discriminators go in the form that `load_backbone` reads, and a checkpoint after every scale.
        resume: go on from the checkpoint in `out_dir`, if there is one; the result is that of an unbroken run.
        progress: show a progress bar.

    Returns:
        the loss, on the CPU.

    Raises:
        TypeError: if `image` is neither a tensor nor a path, or `degradation` cannot be called.
        ValueError: for an image, number or degradation without use; a checkpoint that is damaged or of another run.
        FloatingPointError: if the objective stops being finite.
        BlockingIOError: if another run holds `out_dir`; the message says which.
        OSError: if the image cannot be read, or `out_dir` not be written to. If that fails at the end alone, the
            message says where the loss is instead.
    """
    sharp = _checked_image(image)
    for argument, value in (("scales", scales), ("steps", steps)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{argument} must be an integer of 1 or more, got {value!r}")
    if type(seed) is not int:
        raise ValueError(f"seed must be an integer, got {seed!r}")
    if widths is None:
        widths = [NARROW] * min(scales, NARROW_SCALES) + [WIDE] * (scales - NARROW_SCALES)
    if len(widths) != scales or not all(type(width) is int and width > 0 for width in widths):
        raise ValueError(f"widths must be {scales} positive integers, one for each scale, got {list(widths)}")
    if isinstance(degradation, type) or not callable(degradation):
        raise TypeError(f"degradation must be an instance, such as BlurDegradation(), got {degradation!r:.80}")
    check_folder(out_dir, sharp, resume=resume)
    name, (height, width) = stable_name(degradation), sharp.shape[2:]
    data = f"one image of {height} x {width} px (sha256 {_digest(sharp)}) and its degraded form, {name}"
    numbers = f"scales={scales}, steps={steps}, widths={tuple(widths)}, seed={seed}"
    recipe = f"train_discriminators(degradation={name}, {numbers})"
    pyramid = _Pyramid(sharp, degradation, scales, seed)
    folder = None if out_dir is None else user_path(out_dir)
    with contextlib.ExitStack() as held:
        checkpoint = None
        if folder is not None:
            # Lambdas have no repr that tells them apart; what they do to the image does.
            settings = f"{recipe} on {data} (sha256 {_digest(pyramid.scale(0, None).degraded)})"
            held.enter_context(locked(folder))
            check_folder(folder, sharp, resume=resume)  # again: another run may have ended there
            checkpoint = Checkpoint(folder, settings, resume=resume)
        held.enter_context(torch.enable_grad())
        held.enter_context(torch.autocast(sharp.device.type, enabled=False))
        network = _train(pyramid, widths, steps, seed, checkpoint, progress=progress)
        label = name.split("(")[0].rpartition(".")[2].removesuffix("Degradation").lower()
        network.cpu().requires_grad_(False)
        backbone = discriminator_backbone(network, f"mdf-{label}", training_data=data, recipe=recipe)
        if folder is not None:
            save_or_rescue(partial(save_backbone, backbone), folder, "the loss")
    return DiscriminativeFeatureLoss(backbone)


class _Pyramid:
    def __init__(self, sharp: Tensor, degradation: Degradation, scales: int, seed: int) -> None:
        self.sharp, self.degradation, self.seed = sharp, degradation, seed
        full = sharp.shape[-2:]
        ratio = (COARSEST_SIDE / min(full)) ** (1 / max(1, scales - 1))
        self.sizes = [[round(side * ratio**above) for side in full] for above in reversed(range(scales))]

    def scale(self, index: int, restored: Tensor | None) -> Scale:
        """Return a scale, given what the one below restored; the coarsest one takes the degraded image instead."""
        size, sharp = self.sizes[index], self.sharp
        if size != list(sharp.shape[-2:]):
            sharp = F.interpolate(sharp, size, mode="bicubic", antialias=True).clamp(0, 1)
        # Equal seeds: as far as a draw does not depend on the size, a version is degraded alike at all scales.
        (generator,) = scene_generators(self.seed, range(1, 2), torch.device("cpu"))
        images = sharp.cpu().expand(VERSIONS, -1, -1, -1).contiguous()
        degraded = _checked_degraded(self.degradation(images, generator=generator), images).to(sharp)
        below = degraded if restored is None else F.interpolate(restored, size, mode="bicubic").clamp(0, 1)
        return Scale(sharp, degraded, below)


def _train(
    pyramid: _Pyramid, widths: Sequence[int], steps: int, seed: int, checkpoint: Checkpoint | None, *, progress: bool
) -> PatchDiscriminators:
    from tqdm.auto import tqdm

    device = pyramid.sharp.device
    weights, _, *generators = scene_generators(seed, range(len(widths) + 2), torch.device("cpu"))
    network, restorers = new_networks(widths, weights)
    parts = {"discriminators": network.to(device), "restorers": nn.ModuleList(restorers).to(device)}
    critics: list[Any] = list(network.children())
    state = Progress()
    if checkpoint is not None:
        if checkpoint.resumes:
            state = checkpoint.load(parts)
        checkpoint.begin(state.history)
    restored: Tensor | None = None
    with tqdm(total=len(widths) * steps, initial=state.step * steps, desc="scales", disable=not progress) as bar:
        for index, (critic, restorer) in enumerate(zip(critics, restorers, strict=True)):
            scale = pyramid.scale(index, restored)
            if index >= state.step:
                if index:
                    _take_over(critics[index - 1], critic)
                    _take_over(restorers[index - 1], restorer)
                bar.set_postfix_str(f"{index + 1} of {len(widths)}, {' x '.join(map(str, pyramid.sizes[index]))} px")
                row = train_scale(critic, restorer, scale, steps=steps, generator=generators[index], on_step=bar.update)
                state.step = index + 1
                state.history.append({"scale": index + 1, **row})
                if checkpoint is not None:
                    checkpoint.save(parts, state)
                    checkpoint.record(state.history[-1])
            with torch.no_grad():
                pairs = zip(scale.degraded, scale.below, strict=True)
                restored = torch.cat([restorer(degraded[None], below[None]) for degraded, below in pairs]).clamp(0, 1)
    assert restored is not None
    _measure_statistics(critics, scale, restored)
    return network


def _take_over(below: nn.Module, above: nn.Module) -> None:
    """Let a network begin with the weights of the one below, if they are of one shape."""
    state = below.state_dict()
    if all(state[name].shape == tensor.shape for name, tensor in above.state_dict().items()):
        above.load_state_dict(state)


@torch.no_grad()
def _measure_statistics(critics: Sequence[nn.Module], scale: Scale, restored: Tensor) -> None:
    """Set the statistics of batch normalisation to those of what the loss will see: images in full size.

    Neighbours differ more in the smaller versions that most discriminators are trained on: with their statistics, the
    features of full-size images would leave the range for which the nonlinearities were trained.
    """
    norms = [module for critic in critics for module in critic.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    top, left = (max(0, side - STATISTICS_SIDE) // 2 for side in scale.sharp.shape[-2:])
    window = (..., slice(top, top + STATISTICS_SIDE), slice(left, left + STATISTICS_SIDE))
    for version in range(STATISTICS_VERSIONS):
        images = torch.stack([scale.sharp[0], scale.degraded[version], restored[version]])[window]
        for critic in critics:
            critic.train()(images)
    for norm in norms:
        norm.momentum = momentum


def _checked_image(image: Tensor | str | os.PathLike[str]) -> Tensor:
    if isinstance(image, str | os.PathLike):
        image = read_image(os.fspath(image))
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor (3, H, W) in [0, 1] or a path, got {type(image).__name__}")
    images = image[None] if image.dim() == 3 else image
    check_images(images, "image", minimum_size=LEAST_SIDE)
    if len(images) != 1:
        raise ValueError(f"image must be one image, got {len(images)}; pass images[:1]")
    check_unit_range(images, "image")
    if float(images.float().std()) < LEAST_CONTRAST:
        raise ValueError("image must have contrast: discriminators learn nothing from a plain one")
    return images.detach().float().clamp(0, 1).contiguous()


def _checked_degraded(degraded: Tensor, sharp: Tensor) -> Tensor:
    try:
        check_images(degraded, "what it returns")
        check_unit_range(degraded, "what it returns")
        if degraded.shape != sharp.shape:
            raise ValueError(f"got {tuple(degraded.shape)}")
    except (TypeError, ValueError) as error:
        expected = f"images of the shape that it is given, {tuple(sharp.shape)}, in [0, 1]"
        raise ValueError(f"degradation must return {expected}: {error}") from None
    return degraded.detach()


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.cpu().numpy().tobytes()).hexdigest()[:8]
