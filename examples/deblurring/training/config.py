"""What an experiment is: one YAML file, checked against these classes."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tafm_loss.losses import RECOMMENDED_RATIO

__all__ = [
    "Data",
    "Experiment",
    "Network",
    "Optimizer",
    "Schedule",
    "Term",
    "Training",
    "as_dict",
    "check_schedule",
    "learning_rate",
    "load_experiment",
]

EXTENDS = "extends"
SCHEDULES = ("constant", "cosine", "halving")
PRECISIONS = ("no", "fp16", "bf16")
COUNTS = ("steps", "batch_size", "accumulation", "workers", "log_every", "checkpoint_every", "samples_every")


@dataclasses.dataclass
class Network:
    """Which network.

    Args:
        name: as `list_networks()` has it.
        options: of `create_network`.
        weights: a checkpoint to start from; None for random weights.
    """

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None


@dataclasses.dataclass
class Data:
    """What it is trained on.

    Args:
        dataset: as `open_pairs` knows it.
        root: its folder, below the folder of data sets that the command line names.
        split: the part that is trained on.
        options: of `open_pairs`.
        crop_size: px.
        augmentation: as `random_crop` knows it.
        samples: another part, of which pictures are made on the way; None for no pictures.
    """

    dataset: str
    root: str
    split: str = "train"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    crop_size: int = 256
    augmentation: str = "flips_and_turns"
    samples: str | None = "test"


@dataclasses.dataclass
class Term:
    """One term of what is minimised, summed over the outputs of the network.

    Args:
        loss: as `LOSSES` has it.
        weight: a factor.
        gradient_ratio: in place of a weight: how strong the gradient of this term is when the run begins, relative to
            that of all terms with weights, at the restored image; the median over some batches. The term tafm has the
            recommended one if it has neither.
        options: of the loss.
    """

    loss: str
    weight: float | None = None
    gradient_ratio: float | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Optimizer:
    """Adam or AdamW.

    Args:
        name: "adam" or "adamw".
        learning_rate: the highest.
        betas: of the moments.
        weight_decay: 0 for none.
    """

    name: str = "adam"
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclasses.dataclass
class Schedule:
    """How the learning rate falls.

    Args:
        name: "constant", "cosine" or "halving".
        final: the rate at the end of the cosine.
        every: steps between two halvings.
        warm_up: steps of a linear rise at the start.
    """

    name: str = "cosine"
    final: float = 0.0
    every: int | None = None
    warm_up: int = 0


@dataclasses.dataclass
class Training:
    """How it is trained.

    Args:
        steps: of the optimizer.
        batch_size: crops in a step, over all processes and parts.
        accumulation: in how many parts a process's share goes through the network, to spare memory.
        clip: the largest norm of the gradient; None for no bound.
        ema: the decay of an exponential moving average of the weights; None for none.
        mixed_precision: "no", "fp16" or "bf16". Losses are computed in float32 all the same.
        seed: of first weights, order, crops, augmentation and blur.
        workers: threads that read images.
        log_every: steps between two rows of the log.
        checkpoint_every: steps.
        samples_every: steps between two pictures.
    """

    steps: int
    batch_size: int
    accumulation: int = 1
    clip: float | None = None
    ema: float | None = None
    mixed_precision: str = "no"
    seed: int = 0
    workers: int = 8
    log_every: int = 100
    checkpoint_every: int = 1000
    samples_every: int = 5000


@dataclasses.dataclass
class Experiment:
    """One row of a table.

    Args:
        about: what it reproduces, and where it differs.
        network: what is trained.
        data: on what.
        objective: what is minimised.
        optimizer: by what.
        schedule: of its rate.
        training: how long, and so on.
    """

    network: Network
    data: Data
    objective: list[Term]
    training: Training
    about: str = ""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)


def load_experiment(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read a YAML file; its key `extends` names another one beside it, of which it changes some keys.

    A list replaces the one below it as a whole; options are merged.

    Args:
        path: the file.
        changes: such as "training.steps=100", made last.

    Raises:
        OSError: if a file cannot be read.
        ValueError: for keys that are not known or missing, values of another type, or numbers that make no sense.
    """
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Experiment), *_layers(path, ()), OmegaConf.from_dotlist([*changes])
        )
        experiment = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split()):.500}") from error
    assert isinstance(experiment, Experiment)
    if experiment.training.mixed_precision == "False":  # which is how YAML reads a bare no
        experiment.training.mixed_precision = "no"
    for term in experiment.objective:
        if term.loss == "tafm" and term.weight is None and term.gradient_ratio is None:
            term.gradient_ratio = RECOMMENDED_RATIO
    try:
        _check(experiment)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return experiment


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as nested dicts and lists that JSON can hold."""
    return dataclasses.asdict(experiment)


def check_schedule(schedule: Schedule) -> None:
    """Raise ValueError for a schedule that is not known, or lacks its number."""
    if schedule.name not in SCHEDULES:
        raise ValueError(f"schedule.name must be one of {', '.join(SCHEDULES)}, got {schedule.name!r}")
    if schedule.name == "halving" and (schedule.every is None or schedule.every < 1):
        raise ValueError("schedule.every says after how many steps the rate is halved; it must be 1 or more")
    if schedule.final < 0:
        raise ValueError(f"schedule.final must not be negative, got {schedule.final}")


def learning_rate(step: int, steps: int, optimizer: Optimizer, schedule: Schedule) -> float:
    """Return the rate of a step, counted from 0, of a run of so many.

    >>> plan = Schedule("cosine", final=0.1, warm_up=2)
    >>> [round(learning_rate(step, 10, Optimizer(learning_rate=1.0), plan), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    highest = optimizer.learning_rate
    if step < schedule.warm_up:
        return highest * (step + 1) / schedule.warm_up
    if schedule.name == "constant":
        return highest
    if schedule.name == "halving":
        assert schedule.every is not None  # checked before the run
        return highest * 0.5 ** (step // schedule.every)
    done = (step - schedule.warm_up) / max(1, steps - schedule.warm_up)
    return schedule.final + (highest - schedule.final) * 0.5 * (1 + math.cos(math.pi * done))


def _layers(path: Path, above: tuple[Path, ...]) -> list[Any]:
    """Return the contents of a file and of those it extends, the remotest first."""
    path = path.resolve()
    if path in above:
        raise ValueError(f"{path} extends itself")
    layer = OmegaConf.load(path)
    if not isinstance(layer, DictConfig):
        raise ValueError(f"{path} must hold keys and values, got {type(layer).__name__}")
    base = layer.pop(EXTENDS, None)
    if base is not None and not isinstance(base, str):
        raise ValueError(f"{path}: {EXTENDS} must name a file beside it, got {base!r}")
    return [*([] if base is None else _layers(path.parent / base, (*above, path))), layer]


def _check(experiment: Experiment) -> None:
    for term in experiment.objective:
        _check_term(term)
    if not any(term.weight for term in experiment.objective):
        raise ValueError("the objective needs at least one term with a weight above 0")
    for place, options in (("network", experiment.network.options), ("data", experiment.data.options)):
        if reserved := sorted({"name", "seed", "root", "split"} & set(options)):
            raise ValueError(f"{place}.options must not hold {', '.join(reserved)}, which has a place of its own")
    rate, warm_up = experiment.optimizer.learning_rate, experiment.schedule.warm_up
    if not 0 <= rate < math.inf:
        raise ValueError(f"optimizer.learning_rate must be finite and not negative, got {rate}")
    if not 0 <= warm_up <= experiment.training.steps:
        raise ValueError(f"schedule.warm_up must be between 0 and training.steps, got {warm_up}")
    _check_training(experiment.training, experiment.data.crop_size)


def _check_training(training: Training, crop_size: int) -> None:
    counts = {f"training.{name}": getattr(training, name) for name in COUNTS} | {"data.crop_size": crop_size}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if training.mixed_precision not in PRECISIONS:
        raise ValueError(
            f"training.mixed_precision must be one of {', '.join(PRECISIONS)}, got {training.mixed_precision}"
        )
    if training.ema is not None and not 0 < training.ema < 1:
        raise ValueError(f"training.ema must be between 0 and 1, got {training.ema}")
    if training.clip is not None and not training.clip > 0:
        raise ValueError(f"training.clip must be above 0, got {training.clip}; leave it out for no bound")


def _check_term(term: Term) -> None:
    if (term.weight is None) == (term.gradient_ratio is None):
        raise ValueError(f"the term {term.loss} needs either a weight or a gradient_ratio")
    if term.weight is not None and not 0 <= term.weight < math.inf:
        raise ValueError(f"the weight of the term {term.loss} must be finite and not negative, got {term.weight}")
    if term.gradient_ratio is not None and not 0 < term.gradient_ratio < math.inf:
        raise ValueError(f"the gradient_ratio of the term {term.loss} must be above 0, got {term.gradient_ratio}")
    if "reduction" in term.options:
        raise ValueError(f"the term {term.loss} is a mean, as all are: leave its reduction out")
