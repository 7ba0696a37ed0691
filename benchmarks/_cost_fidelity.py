"""How true the gradient of a loss stays in bfloat16: its cosine with that in float32, on residuals near convergence."""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from _cost_arms import DEFAULT, VGG19, Loss, build
from _cost_timing import Figures, autocast
from _photographs import central_crops
from torch import Tensor

from tafm_loss import BlurSynthesizer, TaskAdaptiveFeatureLoss, create_backbone

IMAGENET = "squeezenet1_0, ImageNet, our loss"
PSNR_DB = 35.0
CROP_SIZE = 128
SHAKE_PX = 3.0
# {how: (dtype of the prediction, of the target, of autocast)}; a network that adds to its input returns float32.
USES = {
    "autocast": (torch.float32, torch.float32, "bfloat16"),
    "autocast, prediction in bfloat16": (torch.bfloat16, torch.float32, "bfloat16"),
    "images in bfloat16": (torch.bfloat16, torch.bfloat16, "float32"),
}


def measure_fidelity(photographs: Path, squeezenet: Path, *, every: int, device: str) -> list[Figures]:
    """Return the cosines for each loss, residual and use of bfloat16, on every so many-th photograph."""
    sharp = central_crops(photographs, CROP_SIZE, every=every).to(device)
    rows = []
    for arm, loss in _losses(squeezenet, sharp).items():
        for residual, restored in restored_images(sharp).items():
            exact = gradient(loss, restored, sharp)
            for use, (pred_dtype, target_dtype, compute) in USES.items():
                found = gradient(loss, restored.to(pred_dtype), sharp.to(target_dtype), compute)
                rows.append({"arm": arm, "residual": residual, "use": use, **cosines(exact, found)})
    return rows


def restored_images(sharp: Tensor) -> dict[str, Tensor]:
    """Return the images as networks leave them, each at `PSNR_DB` from its sharp one: still shaken, or noisy."""
    generator = torch.Generator().manual_seed(0)
    shaken = BlurSynthesizer([SHAKE_PX], kind="shake")(sharp, generator=generator)[-1]
    noise = torch.randn(sharp.shape, generator=generator).to(sharp.device)
    return {"shake": sharp + scaled(shaken - sharp), "noise": sharp + scaled(noise)}


def scaled(residual: Tensor) -> Tensor:
    """Return the residual of each image at a mean square that is `PSNR_DB` below 1."""
    size = residual.square().mean((1, 2, 3), keepdim=True).sqrt()
    return residual * (10 ** (-PSNR_DB / 20) / size)


def gradient(loss: Loss, pred: Tensor, target: Tensor, compute: str = "float32") -> Tensor:
    """Return the gradient to pred in float32, computed under autocast to `compute`."""
    pred = pred.detach().requires_grad_()
    with autocast(pred.device.type, compute):
        value = loss(pred, target)
    return torch.autograd.grad(value, pred)[0].float()


def cosines(exact: Tensor, found: Tensor) -> Figures:
    """Return the least and the mean of the images' cosines, and that of the whole batch."""
    each = F.cosine_similarity(exact.flatten(1), found.flatten(1))
    batch = F.cosine_similarity(exact.flatten(), found.flatten(), dim=0)
    return {"least": each.min().item(), "mean": each.mean().item(), "batch": batch.item()}


def _losses(squeezenet: Path, like: Tensor) -> dict[str, Loss]:
    with warnings.catch_warnings():
        # A state dict of torchvision has no units, which the cosine does not see.
        warnings.simplefilter("ignore", UserWarning)
        backbone = create_backbone("squeezenet1_0", weights=squeezenet)
    return {
        DEFAULT: build(DEFAULT, like),
        IMAGENET: TaskAdaptiveFeatureLoss(backbone).to(like.device),
        VGG19: build(VGG19, like),
    }
