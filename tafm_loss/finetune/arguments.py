"""What `finetune_backbone` is given: checked, and turned into what the loop works with."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from tafm_loss._files import user_path
from tafm_loss.backbones.backbone import Backbone, check_features
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.crops import Grade, SceneCrops
from tafm_loss.finetune.loop import Plan
from tafm_loss.finetune.objectives import OBJECTIVES, Objective
from tafm_loss.finetune.sources import Images
from tafm_loss.report import REPORT_FILE
from tafm_loss.runs import CHECKPOINT_FILE
from tafm_loss.weights.folders import CONFIG_FILE, WEIGHTS_FILE

__all__ = [
    "check_folder",
    "check_plan",
    "check_synthesizer",
    "checked_objective",
    "choose_parameters",
    "copy_to_tune",
    "split_scenes",
]


def copy_to_tune(backbone: Backbone) -> Backbone:
    """Return a copy to tune, in evaluation mode; raises TypeError or ValueError for what cannot be tuned."""
    if not isinstance(backbone, Backbone):
        raise TypeError(f"backbone must be a Backbone or what load_backbone takes, got {type(backbone).__name__}")
    if not list(backbone.parameters()):
        raise ValueError("backbone is the frozen copy inside a loss; tune the backbone it was made from")
    tuned = copy.deepcopy(backbone).eval()
    try:
        check_features(tuned)
    except ValueError as error:
        raise ValueError(f"backbone cannot be tuned: {error}") from error
    return tuned


def checked_objective(objective: str | Objective) -> Objective:
    """Return the objective of that name, or the one that is given."""
    if isinstance(objective, type):
        name = objective.__name__
        raise TypeError(f"objective must be an instance, got the class {name}; write {name}()")
    if not isinstance(objective, str):
        return objective
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)} or an Objective, got {objective!r}")
    return OBJECTIVES[objective]()


def check_synthesizer(synthesizer: BlurSynthesizer | Grade) -> None:
    """Raise unless it can be called and, if it makes blur, has a sharp level and two more."""
    if not callable(synthesizer):
        raise TypeError(f"synthesizer must be a BlurSynthesizer or a callable, got {type(synthesizer).__name__}")
    if isinstance(synthesizer, BlurSynthesizer) and (synthesizer.extents[0] != 0 or len(synthesizer.extents) < 3):
        raise ValueError(f"the synthesizer's extents must be 0 and at least two more, got {synthesizer.extents}")


def check_plan(plan: Plan, *, validated: bool, processes: int) -> None:
    """Raise ValueError for numbers that make no sense together."""
    if plan.steps < 1 or plan.accumulation < 1:
        raise ValueError(f"steps and accumulation must be at least 1, got {plan.steps} and {plan.accumulation}")
    if not 0 < plan.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a positive number, got {plan.learning_rate}")
    parts = processes * plan.accumulation
    if plan.batch_size % parts or plan.batch_size < 2 * parts:
        raise ValueError(
            f"batch_size must be at least 2 scenes, and a multiple, for each of {processes} processes x "
            f"{plan.accumulation} parts, got {plan.batch_size}"
        )
    if plan.patience is not None and plan.patience < 1:
        raise ValueError(f"patience must be at least 1 validation pass, got {plan.patience}")
    if plan.patience is not None and not validated:
        raise ValueError("patience needs validation: a share of the scenes such as 0.1, or images")


def check_folder(out_dir: str | Path | None, images: Images, *, resume: bool) -> None:
    """Raise ValueError unless results can go to `out_dir` without harm to what is there, and to the images."""
    if out_dir is None:
        if resume:
            raise ValueError("resume=True needs the out_dir that holds the checkpoint")
        return
    folder = user_path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out_dir must be a folder; {folder} is a file")
    found = [name for name in (CHECKPOINT_FILE, WEIGHTS_FILE, CONFIG_FILE, REPORT_FILE) if (folder / name).exists()]
    if found and not (resume and found[0] == CHECKPOINT_FILE):
        raise ValueError(f"{folder} holds {found[0]} of an earlier run; resume that run, or choose another folder")
    if isinstance(images, str | Path) and user_path(images).resolve() in (folder.resolve() / "file").parents:
        raise ValueError(f"out_dir must not lie in the folder of images, {images}; got {out_dir}")


def choose_parameters(network: nn.Module, trainable: Sequence[str] | None) -> None:
    """Let gradient reach the parameters that `trainable` names alone, and batch statistics learn in a tuned head."""
    if isinstance(trainable, str):
        raise TypeError(f"trainable must be a sequence of names, got a string; write [{trainable!r}]")
    own: Sequence[str] = getattr(network, "trained", ())
    prefixes = (own or ("",)) if trainable is None else trainable
    names = [name for name, _ in network.named_parameters()]
    if unknown := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]:
        raise ValueError(f"trainable: no parameter begins with {', '.join(map(repr, unknown))}; there are {names}")
    if not prefixes:
        raise ValueError(f"trainable must name parameters; there are {names}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(prefixes)))
    for name, module in network.named_modules():
        if name in own:
            module.train(any(parameter.requires_grad for parameter in module.parameters()))


def split_scenes(
    images: Images, validation: float | Images | None, crop_size: int, seed: int
) -> tuple[SceneCrops, SceneCrops | None]:
    """Return the scenes to train on and, if any, those to validate on."""
    crops, held_out = SceneCrops(images, crop_size), None
    try:
        if isinstance(validation, int | float):
            crops, held_out = crops.split(validation, torch.Generator().manual_seed(seed))
        elif validation is not None:
            held_out = SceneCrops(validation, crop_size)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from error
    if len(crops) < 2:
        raise ValueError(f"images must hold at least 2 scenes to train on, got {len(crops)}")
    return crops, held_out
