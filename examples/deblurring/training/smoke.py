"""An experiment from end to end on generated images: two steps, and an evaluation."""

import dataclasses
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from examples.deblurring.data.trees import make_tree
from examples.deblurring.evaluation.methods import describe_network
from examples.deblurring.evaluation.run import evaluate
from examples.deblurring.evaluation.settings import Settings
from examples.deblurring.training.config import Data, Experiment, Network, Term, Training, load_experiment
from examples.deblurring.training.run import train

__all__ = ["smoke"]

CROP_SIZE = 48
IMAGE_SIZE = (64, 96)
# In place of every backbone that is not bundled, and the smallest that computes as the paper's does.
OTHER_BACKBONE = "clip-vit-b16-embedding-pooled"
# The published sizes would take a minute each.
NARROW: dict[str, dict[str, Any]] = {
    "hinet": {"width": 8},
    "mimo-unet": {"width": 8},
    "mimo-unet-plus": {"width": 8},
    "mprnet": {"width": 24},
    "nafnet-32": {"width": 8},
    "nafnet-64": {"width": 8},
    "residual-unet": {"width": 8},
    "bdirnet": {"width": 8, "blocks": 1},
}


def smoke(config: Path, changes: Sequence[str] = ()) -> str:
    """Run an experiment in small, and return what to say of it.

    Layout of the data, objective, optimizer and schedule are those of the experiment. The network is narrow, crops and
    batches are small, and backbones that are not bundled give way to one with random weights.

    Args:
        config: the experiment.
        changes: as in `load_experiment`.

    Raises:
        ValueError: if the experiment has a fault; and OSError or FloatingPointError.
    """
    start = time.perf_counter()
    experiment = _small(load_experiment(config, changes))
    data = experiment.data
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(has random weights|is random)", UserWarning)
        datasets, out = Path(folder, "datasets"), Path(folder, "run")
        for split in filter(None, {data.split, data.samples}):
            size = (4 * IMAGE_SIZE[0], 4 * IMAGE_SIZE[1]) if data.dataset == "synthetic" else IMAGE_SIZE
            data.options |= make_tree(data.dataset, datasets / data.root, split, scenes=1, size=size)
        train(experiment, datasets, out, progress=False)
        _evaluate(data, datasets, out)
    return f"trained and evaluated in {time.perf_counter() - start:.0f} s"


def _small(experiment: Experiment) -> Experiment:
    """Return the experiment with two steps of two small crops."""
    plan, name = experiment.training, experiment.network.name
    # Accelerate has one precision in a process; several experiments share this one.
    small: Training = dataclasses.replace(
        plan,
        steps=2,
        batch_size=2 * plan.accumulation,
        mixed_precision="no",
        log_every=1,
        checkpoint_every=2,
        samples_every=2,
        workers=1,
    )
    return dataclasses.replace(
        experiment,
        network=Network(name, {**experiment.network.options, **NARROW.get(name, {})}),
        data=dataclasses.replace(experiment.data, crop_size=CROP_SIZE),
        objective=[dataclasses.replace(term, options=_without_downloads(term)) for term in experiment.objective],
        training=small,
    )


def _without_downloads(term: Term) -> dict[str, Any]:
    """Return the options of a term, with a backbone that needs no file but those of the package."""
    if "backbone" not in term.options:
        return term.options
    return {**term.options, "backbone": OTHER_BACKBONE, "random": True}


def _evaluate(data: Data, datasets: Path, out: Path) -> None:
    """Evaluate what a run has made, on what it was trained on."""
    settings = Settings(
        network=describe_network(out, None, {}),
        dataset=data.dataset,
        root=str(datasets / data.root),
        split=data.split,
        dataset_options=data.options,
        metrics=["psnr", "ssim"],
        limit=1,
    )
    evaluate(settings, out.with_name("evaluation"), device=torch.device("cpu"), progress=False)
