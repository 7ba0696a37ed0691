"""Teaching a backbone what blur is."""

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tafm_loss._ambient import usual_defaults
from tafm_loss._files import user_path
from tafm_loss._text import stable_name
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.config import BackboneConfig
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.arguments import (
    check_folder,
    check_plan,
    check_synthesizer,
    checked_objective,
    choose_parameters,
    copy_to_tune,
    split_scenes,
)
from tafm_loss.finetune.crops import Grade, SceneCrops, default_synthesizer
from tafm_loss.finetune.loop import Loop, Plan
from tafm_loss.finetune.objectives import Objective
from tafm_loss.finetune.sources import Images
from tafm_loss.finetune.tuning import Tuning
from tafm_loss.report import least_report_size, measure_units, report, write_reports
from tafm_loss.runs import Checkpoint, accelerated, interrupts, locked, save_or_rescue
from tafm_loss.weights.folders import save_backbone
from tafm_loss.weights.loading import load_backbone

__all__ = ["FinetuneResult", "finetune_backbone"]

REPORT_IMAGES = 32
RATE_FROM_NOTHING, RATE_FROM_TRAINED = 2e-3, 1e-3


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning gives.

    Args:
        backbone: the tuned one, on the CPU, in evaluation mode.
        history: rows of {"step", every term, "loss", "ordering_accuracy"}, every 20 steps, and of the validation
            passes: {"step", "validation_loss", "validation_ordering_accuracy", selectivities}.
        report: {"before": measures, "after": measures} of `tafm_loss.report.report` on validation images;
            empty without any, after an interrupt, and in all processes but the first.
        finished: whether the run came to its end; False after an interrupt.
    """

    backbone: Backbone
    history: list[dict[str, float]]
    report: dict[str, Any]
    finished: bool = True


@usual_defaults()
def finetune_backbone(
    backbone: Backbone | str | Path,
    images: Images,
    *,
    synthesizer: BlurSynthesizer | Grade | None = None,
    objective: str | Objective = "graded",
    steps: int = 2000,
    batch_size: int = 6,
    crop_size: int = 96,
    learning_rate: float | None = None,
    validation: float | Images | None = None,
    out_dir: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    mixed_precision: str = "no",
    progress: bool = True,
    trainable: Sequence[str] | None = None,
    accumulation: int = 1,
    patience: int | None = None,
) -> FinetuneResult:
    """Fine-tune a copy of a backbone until its feature distances order blur by its extent.

    After "Task-Adaptive Feature Matching Loss for Image Deblurring" (ICIP 2023), where a triplet loss with a margin
    of 1 orders (sharp, weak, strong). There the members of a triplet are cropped and recoloured independently and
    compared by one embedding. Here they are aligned, and by default compared at every location of every tap; the
    default objective also keeps changes that are not blur near.

    Crops, blur and distractors of every step follow from the seed and the number of the step. So several processes
    (`accelerate launch`, or without GPUs `ACCELERATE_USE_CPU=true torchrun`) give what one with the same `batch_size`
    gives, up to rounding, and so does a batch in parts. Three things are excepted: batch statistics of a head,
    callables as `synthesizer`, and parts of an odd number of scenes. The first process writes and measures; the others
    return when the training ends.

    Args:
        backbone: what to start from: a `Backbone`, or what `load_backbone` takes: a listed name, a folder, or
            "owner/name" on the Hub. It is not changed. Its batch statistics stay as they are, but for those of a head
            that is tuned.
        images: sharp scenes: a folder and its sub-folders, a tensor (M, 3, H, W) in [0, 1], a sequence, dataset or
            other iterable of tensors (3, H, W), alone or first in a tuple; or `FrameExposures`, whose real exposures
            are used as they are.
        synthesizer: a `BlurSynthesizer` that begins with extent 0 and has at least two more levels; by default shake,
            linear, defocus and Gaussian blur of 1, 3, 10 and 25 px, each scene 40 % more or less. Or any callable
            `(sharp (N, 3, H, W), *, generator)` that returns levels (L, N, 3, H, W), sharp first, and their extents
            (L, N), from 0 rising: what the backbone is to be adapted to need not be blur.
        objective: "graded", "triplet", or an `Objective`.
        steps: of AdamW, at a rate that rises for the first twentieth and then falls as a cosine.
        batch_size: scenes in a step, over all processes and parts.
        crop_size: px; it must exceed half the largest kernel.
        learning_rate: the highest rate; by default 2e-3 for a backbone with random weights, 1e-3 for a trained one.
        validation: the share of the scenes that is held out, below 1, or other images: for the validation passes, the
            units and the report. If None, there is no pass and no report, and units are measured on `images`.
        out_dir: where checkpoints and the history go and, at the end, the tuned backbone in the form that
            `load_backbone` reads, and the report.
        resume: go on from the checkpoint in `out_dir`, if there is one; the result is that of an unbroken run.
        seed: of crops, blur and distractors.
        mixed_precision: "no", "fp16" or "bf16", as accelerate knows them.
        progress: show a progress bar.
        trainable: beginnings of the names of the parameters to tune, such as ["features.12", "features.11"]; by
            default all, or what the network names in its attribute `trained`.
        accumulation: in how many parts a batch goes through the network, to spare memory.
        patience: stop after so many validation passes, one every 100 steps, without a lower objective, and take the
            weights of the lowest. If None, go to the end and take the last.

    Returns:
        the tuned backbone, the history and the report. The name, base weights, training data and recipe in the
        backbone's config are set from the arguments; replace them by better ones.

    Raises:
        TypeError: if `backbone` is none, `objective` a class, or the images are nothing that can be read.
        WeightsError: if there is no backbone of that name, or its weights cannot be had.
        ValueError: for a frozen backbone; images that are too few, too small, outside [0, 1] or no RGB images; an
            unknown objective; a synthesizer without a sharp level; a batch that cannot be split; names that no
            parameter has; a checkpoint that is damaged or of a run with other arguments; processes that cannot start.
        FloatingPointError: if the objective or its gradient stops being finite.
        BlockingIOError: if another run holds `out_dir`; the message says which.
        OSError: if `out_dir` cannot be written to. If that fails at the end alone, the message says where the tuned
            backbone is instead.

    Warns:
        UserWarning: about images that are skipped or converted, a checkpoint that cannot be written, another number of
            processes than before, and an interrupt (Ctrl-C, SIGTERM, SIGHUP): the run then ends after the step, with a
            backbone that can be used, and can be resumed.
    """
    start = load_backbone(backbone) if isinstance(backbone, str | Path) else backbone
    tuned = copy_to_tune(start)
    goal = checked_objective(objective)
    blur = default_synthesizer() if synthesizer is None else synthesizer
    check_synthesizer(blur)
    check_folder(out_dir, images, resume=resume)
    usual = RATE_FROM_NOTHING if start.config.base_weights == "none" else RATE_FROM_TRAINED
    rate = usual if learning_rate is None else learning_rate
    folder = None if out_dir is None else user_path(out_dir)
    with contextlib.ExitStack() as held:
        accelerator = held.enter_context(accelerated(mixed_precision, accumulation))
        plan = Plan(steps, batch_size, rate, accumulation, patience, seed)
        check_plan(plan, validated=validation is not None, processes=accelerator.num_processes)
        crops, held_out = split_scenes(images, validation, crop_size, seed)
        judged = None if held_out is None else held_out.centres(REPORT_IMAGES)
        _check_reported(start, judged)
        choose_parameters(tuned.network, trainable)
        tuned.to(memory_format=torch.channels_last)
        settings = {**dataclasses.asdict(plan), "crop_size": crop_size, "mixed_precision": mixed_precision}
        if trainable is not None:
            settings["trainable"] = list(trainable)
        config = _tuned_config(start, crops, goal, blur, settings)
        if folder is not None and accelerator.is_main_process:
            held.enter_context(locked(folder))
            check_folder(folder, images, resume=resume)  # again: another run may have ended there
        checkpoint = None
        if folder is not None:
            processes = accelerator.num_processes
            checkpoint = Checkpoint(folder, _named(config, crops, held_out), resume=resume, processes=processes)
        held.enter_context(torch.enable_grad())
        loop = Loop(Tuning(tuned, goal), crops, held_out, blur, plan, accelerator, checkpoint, progress)
        with interrupts() as interrupted:
            finished = loop.run(interrupted)
            # Mixed precision patched the forward of the module; it must compute as it will when it is loaded again.
            tuned = accelerator.unwrap_model(loop.model, keep_fp32_wrapper=False).backbone
            tuned.to("cpu", memory_format=torch.contiguous_format).requires_grad_(False).eval().config = config
            if folder is not None and accelerator.is_main_process:
                _save(tuned, folder)  # now, so that no failure to measure loses the weights
        reports: dict[str, Any] = {}
        if accelerator.is_main_process:
            unit_images = crops.centres(2 * REPORT_IMAGES) if judged is None else judged
            tuned.config = dataclasses.replace(config, units=measure_units(tuned, unit_images))
            if finished and judged is not None:
                reports = _reports(start, tuned, judged, seed, progress=progress)
                tuned.config = dataclasses.replace(tuned.config, measurements=reports["after"])
            if folder is not None:
                _save(tuned, folder, reports)
    if not finished:
        again = "" if checkpoint is None else "; resume=True goes on from there"
        warnings.warn(f"interrupted at step {loop.state.step} of {steps}{again}", stacklevel=3)
    return FinetuneResult(tuned, loop.state.history, reports, finished)


def _check_reported(start: Backbone, judged: Tensor | None) -> None:
    least = least_report_size(start)
    if judged is not None and judged.shape[-1] < least:
        raise ValueError(f"validation: images must be at least {least} px high and wide, got {judged.shape[-1]} px")


def _named(config: BackboneConfig, crops: SceneCrops, held_out: SceneCrops | None) -> str:
    """Return all that decides the result, in words: a run must not go on with something else."""
    validated = "nothing" if held_out is None else f"{held_out.description}, named {held_out.names_digest}"
    data = f"{config.training_data}, named {crops.names_digest}"
    return f"{config.recipe} of {data}, from {config.base_weights}, validated on {validated}"


def _reports(start: Backbone, tuned: Backbone, judged: Tensor, seed: int, *, progress: bool) -> dict[str, Any]:
    pair = {"before": copy.deepcopy(start).cpu(), "after": tuned}
    return {title: report(each, judged, seed=seed, progress=progress) for title, each in pair.items()}


def _save(tuned: Backbone, folder: Path, reports: dict[str, Any] | None = None) -> None:
    save_or_rescue(partial(save_backbone, tuned), folder, "the tuned backbone")
    if reports:
        try:
            write_reports(reports, folder)
        except OSError as error:
            raise OSError(
                f"the report could not be written: {error}; the tuned backbone is safe in {folder}"
            ) from error


def _tuned_config(
    start: Backbone, crops: SceneCrops, goal: Objective, synthesizer: BlurSynthesizer | Grade, settings: dict[str, Any]
) -> BackboneConfig:
    earlier = start.source or start.config.base_weights
    if earlier.startswith("none"):
        earlier = "random weights"
    blur = repr(synthesizer) if isinstance(synthesizer, BlurSynthesizer) else stable_name(synthesizer)
    named = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return dataclasses.replace(
        start.config,
        name=f"{start.config.name}-tuned",
        # What it is called and where it is from, for the licence and the credit that its copies owe.
        base_weights=f"{start.config.name}, sha256 {start.sha256[:8]}, from {earlier}",
        training_data=crops.description,
        recipe=f"finetune_backbone(objective={stable_name(goal)}, synthesizer={blur}, {named})",
        units={},
        measurements={},
    )
