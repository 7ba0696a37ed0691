"""Teaching a backbone what blur is."""

import copy
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.objectives import OBJECTIVES, Objective
from tafm_loss.finetune.report import measure
from tafm_loss.finetune.triplets import SceneCrops
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.weights import save_backbone

__all__ = ["FinetuneResult", "finetune_backbone", "measure_units"]

TRAINING_DISTANCE = "normalized_l2"
UNIT_EXTENT = 10.0
HISTORY_EVERY = 20
CHECKPOINT_EVERY = 100
CHECKPOINT = "checkpoint.pt"


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning gives: the tuned backbone, {term: value} every few steps, and the measured figures."""

    backbone: Backbone
    history: list[dict[str, float]]
    report: dict[str, Any]


def finetune_backbone(
    backbone: Backbone,
    images: Tensor | Sequence[Tensor] | str | Path,
    *,
    synthesizer: BlurSynthesizer | None = None,
    objective: str | Objective = "graded",
    steps: int = 2000,
    batch_size: int = 6,
    crop_size: int = 96,
    learning_rate: float = 2e-3,
    validation: Tensor | None = None,
    out_dir: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    mixed_precision: str = "no",
    progress: bool = True,
) -> FinetuneResult:
    """Fine-tune a copy of a backbone until its feature distances order blur by its extent.

    After "Task-Adaptive Feature Matching Loss for Image Deblurring" (ICIP 2023), where a triplet loss with a margin
    of 1 orders (sharp, weak, strong). There the members of a triplet are cropped and recoloured independently and
    compared by one embedding; here they are aligned and compared at every location of every tap, and the default
    objective also keeps changes that are not blur near. Batch statistics stay as they are in the backbone.

    Args:
        backbone: what to start from; it is not changed.
        images: sharp scenes in [0, 1]: a tensor (M, 3, H, W), a sequence of tensors (3, H, W), or a folder.
        synthesizer: graded blur that begins with extent 0 and has at least two more levels; by default shake, linear,
            defocus and Gaussian blur of 1, 3, 10 and 25 px, each scene 40 % more or less.
        objective: "graded", "triplet", or an `Objective`.
        steps: of Adam, on a one-cycle schedule.
        batch_size: scenes in a step.
        crop_size: px; it must exceed half the largest kernel.
        learning_rate: the peak of the schedule.
        validation: sharp images (M, 3, H, W) on which the units and the figures are measured; `images` are sampled if
            None, and the report stays empty.
        out_dir: where checkpoints go and, at the end, the tuned backbone in the form that `load_backbone` reads.
        resume: go on from the checkpoint in `out_dir`, if there is one; the result is that of an unbroken run.
        seed: of crops, blur and distractors.
        mixed_precision: "no", "fp16" or "bf16", as accelerate knows them.
        progress: show a progress bar.

    Returns:
        the tuned backbone in evaluation mode, the history of the terms, and the report of `measure`.

    Raises:
        ValueError: for images that are too few, too small or no RGB images, an unknown objective, a synthesizer
            without a sharp level, or `resume` without `out_dir`.
    """
    from accelerate import Accelerator

    blur = _default_synthesizer() if synthesizer is None else synthesizer
    goal = _checked_objective(objective)
    if blur.extents[0] != 0 or len(blur.extents) < 3:
        raise ValueError(f"the synthesizer's extents must be 0 and at least two more, got {blur.extents}")
    if resume and out_dir is None:
        raise ValueError("resume=True needs the out_dir that holds the checkpoint")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    crops = SceneCrops(images, crop_size)
    accelerator = Accelerator(mixed_precision=mixed_precision)
    tuned = copy.deepcopy(backbone).requires_grad_(True).eval()
    tuned.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    model, optimizer = accelerator.prepare(tuned, optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer.optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    state = _State(tuned, optimizer.optimizer, schedule, None if out_dir is None else Path(out_dir))
    if resume:
        state.restore()
    for step in tqdm(range(state.step, steps), disable=not progress, desc="finetune", initial=state.step, total=steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        sharp = crops.draw(batch_size, generator).to(accelerator.device)
        terms = _objective_terms(model, goal, blur, sharp, state.tap_scales, generator)
        optimizer.zero_grad()
        accelerator.backward(torch.stack(list(terms.values())).sum())
        accelerator.clip_grad_norm_(tuned.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % HISTORY_EVERY == 0 or step == steps - 1:
            state.history.append({"step": float(step), **{name: float(term.detach()) for name, term in terms.items()}})
        state.step = step + 1
        if state.step % CHECKPOINT_EVERY == 0:
            state.save()
    tuned = tuned.to("cpu", memory_format=torch.contiguous_format).requires_grad_(False)  # type: ignore[call-overload]
    measured_on = crops.draw(64, torch.Generator().manual_seed(seed)) if validation is None else validation
    tuned.config = dataclasses.replace(tuned.config, units=measure_units(tuned, measured_on))
    report = {} if validation is None else measure(TaskAdaptiveFeatureLoss(tuned, reduction="none"), validation)
    tuned.config = dataclasses.replace(tuned.config, figures=report)
    if out_dir is not None:
        save_backbone(tuned, out_dir)
    return FinetuneResult(tuned, state.history, report)


@torch.no_grad()
def measure_units(backbone: Backbone, images: Tensor, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return {distance: {tap: mean distance}} between images (N, 3, H, W) and themselves under a 10 px shake."""
    synthesizer = BlurSynthesizer((UNIT_EXTENT,))
    drawn = synthesizer.sample(len(images), generator=torch.Generator().manual_seed(seed))
    totals = {distance: dict.fromkeys(backbone.config.taps, 0.0) for distance in DISTANCES}
    for index, sharp in enumerate(images.split(1)):
        kernels = drawn._replace(
            kernels=drawn.kernels[:, index : index + 1], extents=drawn.extents[:, index : index + 1]
        )
        near, far = backbone(sharp), backbone(synthesizer(sharp, kernels=kernels)[0])
        for distance, compare in DISTANCES.items():
            for tap in backbone.config.taps:
                totals[distance][tap] += float(compare(far[tap], near[tap]).mean()) / len(images)
    return totals


class _State:
    """All that changes while training: what a checkpoint holds."""

    def __init__(
        self,
        backbone: Backbone,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        folder: Path | None,
    ) -> None:
        self.parts: dict[str, Any] = {"backbone": backbone.network, "optimizer": optimizer, "schedule": schedule}
        self.path = None if folder is None else folder / CHECKPOINT
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.tap_scales: dict[str, Tensor] = {}

    def save(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        content |= {"step": self.step, "history": self.history, "tap_scales": self.tap_scales}
        temporary = self.path.with_suffix(".tmp")
        torch.save(content, temporary)
        os.replace(temporary, self.path)

    def restore(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        content = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        self.step, self.history, self.tap_scales = content["step"], content["history"], content["tap_scales"]


def _objective_terms(
    model: nn.Module,
    goal: Objective,
    blur: BlurSynthesizer,
    sharp: Tensor,
    tap_scales: dict[str, Tensor],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the terms of one step; all versions of all scenes go through the network at once."""
    kernels = blur.sample(len(sharp), generator=generator)
    levels = blur(sharp, kernels=kernels)
    versions = goal.versions(levels, kernels.extents, generator)
    batch = torch.cat([sharp, *(stack.flatten(0, 1) for stack in versions.values())])
    features: Mapping[str, Tensor] = model(batch.contiguous(memory_format=torch.channels_last))
    total = torch.zeros(len(batch) // len(sharp) - 1, len(sharp), device=sharp.device)
    for tap, maps in features.items():
        distances = _version_distances(maps, len(sharp))
        # Taps of very different distances must all count; their scales are running means, without gradient.
        current = distances[: len(levels) - 1].detach().mean()
        tap_scales[tap] = current if tap not in tap_scales else 0.95 * tap_scales[tap] + 0.05 * current
        total = total + distances / tap_scales[tap].clamp(min=1e-8) / len(features)
    by_name = dict(zip(versions, total.split([len(stack) for stack in versions.values()]), strict=True))
    return goal.terms(by_name, kernels.extents.to(sharp.device))


def _version_distances(features: Tensor, scenes: int) -> Tensor:
    """Return the distances (V, N) of all versions from the sharp scenes, which come first in `features`."""
    compare: Callable[[Tensor, Tensor], Tensor] = DISTANCES[TRAINING_DISTANCE]
    reference, *versions = features.split(scenes)
    return torch.stack([compare(version, reference).flatten(1).mean(1) for version in versions])


def _default_synthesizer() -> BlurSynthesizer:
    kinds = {"shake": 0.4, "linear": 0.3, "defocus": 0.2, "gaussian": 0.1}
    return BlurSynthesizer((0.0, 1.0, 3.0, 10.0, 25.0), kind=kinds, extent_jitter=0.4)


def _checked_objective(objective: str | Objective) -> Objective:
    if not isinstance(objective, str):
        return objective
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)} or an Objective, got {objective!r}")
    return OBJECTIVES[objective]()
