"""Teaching a backbone what blur is."""

import copy
import dataclasses
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tafm_loss._images import check_images, check_unit_range
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.kernels import kernel_size
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.objectives import OBJECTIVES, Objective
from tafm_loss.finetune.report import RESPONSE_EXTENTS, measure, measure_units
from tafm_loss.finetune.steps import objective_terms
from tafm_loss.finetune.triplets import SceneCrops
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.weights import save_backbone

__all__ = ["FinetuneResult", "finetune_backbone"]

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
        validation: sharp images (M, 3, H, W) on which the units and the figures are measured; if None, the units are
            measured on crops of `images`, and the report stays empty.
        out_dir: where checkpoints go and, at the end, the tuned backbone in the form that `load_backbone` reads.
        resume: go on from the checkpoint in `out_dir`, if there is one; the result is that of an unbroken run, and a
            checkpoint of a run with other arguments is refused.
        seed: of crops, blur and distractors.
        mixed_precision: "no", "fp16" or "bf16", as accelerate knows them.
        progress: show a progress bar.

    Returns:
        the tuned backbone in evaluation mode, the history of the terms, and the report of `measure`. The name, base
        weights, training data and recipe in its config are set from the arguments; replace them by better ones.

    Raises:
        TypeError: if `backbone` is no `Backbone` or `objective` a class.
        ValueError: for a frozen backbone; images that are too few, too small, outside [0, 1] or no RGB images; an
            unknown objective; a synthesizer without a sharp level; `resume` without `out_dir` or from another run.
        RuntimeError: if the objective stops being finite, or there is more than one process.
    """
    blur = _default_synthesizer() if synthesizer is None else synthesizer
    goal = _checked_objective(objective)
    _check_backbone(backbone)
    _check_run(blur, steps, batch_size, validation, resumable=not resume or out_dir is not None)
    crops = SceneCrops(images, crop_size)
    recipe = (
        f"finetune_backbone(objective={type(goal).__name__}, extents={blur.extents}, {steps=}, {batch_size=}, "
        f"{crop_size=}, {learning_rate=}, {seed=}, {mixed_precision=})"
    )
    start = f"{backbone.config.name}, sha256 {backbone.sha256[:8]}"
    accelerator = _accelerator(mixed_precision)
    tuned = copy.deepcopy(backbone).requires_grad_(True).eval()
    tuned.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    model, optimizer = accelerator.prepare(tuned, optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer.optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    parts = {"backbone": tuned.network, "optimizer": optimizer.optimizer, "schedule": schedule}
    if accelerator.scaler is not None:
        parts["scaler"] = accelerator.scaler
    state = _State(parts, f"{recipe} from {start}", None if out_dir is None else Path(out_dir) / CHECKPOINT)
    if resume:
        state.restore()
    for step in tqdm(range(state.step, steps), disable=not progress, desc="finetune", initial=state.step, total=steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        sharp = crops.draw(batch_size, generator).to(accelerator.device)
        terms = objective_terms(model, goal, blur, sharp, state.tap_scales, generator)
        optimizer.zero_grad()
        accelerator.backward(_finite_sum(terms, step))
        accelerator.clip_grad_norm_(tuned.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % HISTORY_EVERY == 0 or step == steps - 1:
            state.history.append({"step": float(step), **{name: float(term.detach()) for name, term in terms.items()}})
        state.step = step + 1
        if state.step % CHECKPOINT_EVERY == 0:
            state.save()
    # Mixed precision patched the forward of the module; the result must compute as it will when it is loaded again.
    tuned = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    tuned = tuned.to("cpu", memory_format=torch.contiguous_format).requires_grad_(False)
    tuned.config = dataclasses.replace(
        tuned.config,
        name=f"{backbone.config.name}-tuned",
        base_weights=start,
        training_data=f"{len(crops.scenes)} scenes",
        recipe=recipe,
        units={},
        figures={},
    )
    report = _measure(tuned, crops.draw(64, torch.Generator().manual_seed(seed)), validation, out_dir)
    return FinetuneResult(tuned, state.history, report)


def _check_run(
    blur: BlurSynthesizer, steps: int, batch_size: int, validation: Tensor | None, *, resumable: bool
) -> None:
    if blur.extents[0] != 0 or len(blur.extents) < 3:
        raise ValueError(f"the synthesizer's extents must be 0 and at least two more, got {blur.extents}")
    if not resumable:
        raise ValueError("resume=True needs the out_dir that holds the checkpoint")
    if steps < 1 or batch_size < 2:
        raise ValueError(f"steps must be at least 1 and batch_size at least 2, got {steps} and {batch_size}")
    if validation is not None:
        check_images(validation, "validation", minimum_size=kernel_size(RESPONSE_EXTENTS[-1]) // 2 + 1)
        check_unit_range(validation, "validation")


def _finite_sum(terms: Mapping[str, Tensor], step: int) -> Tensor:
    total = torch.stack(list(terms.values())).sum()
    if not torch.isfinite(total):
        values = {name: float(term.detach()) for name, term in terms.items()}
        raise RuntimeError(f"the objective is not finite at step {step}: {values}; try a lower learning_rate")
    return total


def _measure(tuned: Backbone, crops: Tensor, validation: Tensor | None, out_dir: str | Path | None) -> dict[str, Any]:
    """Put units and figures into the config, and save; the weights first, so that no failure here loses them."""
    if out_dir is not None:
        save_backbone(tuned, out_dir)
    images = crops if validation is None else validation.cpu()
    tuned.config = dataclasses.replace(tuned.config, units=measure_units(tuned, images))
    report = {} if validation is None else measure(TaskAdaptiveFeatureLoss(tuned, reduction="none"), images)
    tuned.config = dataclasses.replace(tuned.config, figures=report)
    if out_dir is not None:
        save_backbone(tuned, out_dir)
    return report


class _State:
    """All that changes while training: what a checkpoint holds."""

    def __init__(self, parts: dict[str, Any], settings: str, path: Path | None) -> None:
        self.parts = parts
        self.settings = settings
        self.path = path
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.tap_scales: dict[str, Tensor] = {}

    def save(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        content |= {"step": self.step, "history": self.history, "tap_scales": self.tap_scales}
        content["settings"] = self.settings
        temporary = self.path.with_suffix(".tmp")
        torch.save(content, temporary)
        os.replace(temporary, self.path)

    def restore(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        try:
            content = torch.load(self.path, weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{self.path} is no checkpoint that can be read ({error}); remove it to start anew"
            ) from error
        if content.get("settings") != self.settings:
            raise ValueError(
                f"{self.path} is of another run: {content.get('settings')}, not {self.settings}; "
                "take the same arguments, or another out_dir"
            )
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        self.step, self.history, self.tap_scales = content["step"], content["history"], content["tap_scales"]


def _accelerator(mixed_precision: str) -> Any:
    from accelerate import Accelerator

    try:
        accelerator = Accelerator(mixed_precision=mixed_precision)
    except ValueError as error:
        raise ValueError(f"mixed_precision={mixed_precision!r} cannot be had in this process: {error}") from error
    if accelerator.num_processes > 1:
        raise RuntimeError(f"finetune_backbone runs in one process, got {accelerator.num_processes}")
    return accelerator


def _check_backbone(backbone: Backbone) -> None:
    if not isinstance(backbone, Backbone):
        raise TypeError(
            f"backbone must be a Backbone, got {type(backbone).__name__}; make one by create_backbone(name)"
        )
    if not list(backbone.parameters()):
        raise ValueError("backbone is the frozen copy inside a loss; tune the backbone it was made from")


def _default_synthesizer() -> BlurSynthesizer:
    kinds = {"shake": 0.4, "linear": 0.3, "defocus": 0.2, "gaussian": 0.1}
    return BlurSynthesizer((0.0, 1.0, 3.0, 10.0, 25.0), kind=kinds, extent_jitter=0.4)


def _checked_objective(objective: str | Objective) -> Objective:
    if isinstance(objective, type):
        raise TypeError(
            f"objective must be an instance, got the class {objective.__name__}; write {objective.__name__}()"
        )
    if not isinstance(objective, str):
        return objective
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)} or an Objective, got {objective!r}")
    return OBJECTIVES[objective]()
