"""One experiment, from its description to a folder with a trained network."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from examples._common import differences, write_atomically
from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import PairDataset
from examples.deblurring.models.checkpoints import load_weights, save_weights
from examples.deblurring.models.networks import create_network
from examples.deblurring.training.batches import Batches
from examples.deblurring.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from examples.deblurring.training.config import Experiment, Training, as_dict, check_schedule
from examples.deblurring.training.loop import Loop
from examples.deblurring.training.samples import Samples

__all__ = ["AVERAGE_FILE", "CONFIG_FILE", "WEIGHTS_FILE", "train"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "network.safetensors"
AVERAGE_FILE = "network_ema.safetensors"

SETTINGS_FILE = "settings.json"

# How a run is watched and where its data lie, which does not change what comes out.
WITHOUT_EFFECT = {
    "about",
    "data.root",
    "data.samples",
    *(f"training.{name}" for name in ("workers", "log_every", "checkpoint_every", "samples_every")),
}


def train(experiment: Experiment, datasets: Path, out: Path, *, resume: bool = False, progress: bool = True) -> bool:
    """Train a network, and return whether the end was reached, or an interrupt came first.

    Written to `out`: config.json and settings.json; history.jsonl, a row at a time; samples/STEP.png; checkpoint.pt;
    and, at the end or after an interrupt, network.safetensors and, with a moving average, network_ema.safetensors. The
    last weights are the result: none are chosen by a test set.

    Args:
        experiment: what is to be done.
        datasets: the folder of data sets.
        out: a new folder, or one that the same experiment has begun.
        resume: go on from the checkpoint in `out`, to what an unbroken run gives.
        progress: whether to show a bar.

    Raises:
        ValueError: for what the experiment names and does not exist; a folder that holds another run.
        FloatingPointError: if a loss stops being finite.
        OSError: if data cannot be read or `out` not be written.
    """
    check_schedule(experiment.schedule)
    data, plan = experiment.data, experiment.training
    accelerator = _accelerator(plan, out)
    size = _share(plan.batch_size, plan.accumulation, accelerator.num_processes)
    first = accelerator.process_index * size
    batches = Batches(
        open_pairs(data.dataset, datasets / data.root, data.split, **data.options),
        crop_size=data.crop_size,
        augmentation=data.augmentation,
        batch_size=plan.batch_size,
        share=slice(first, first + size),
        seed=plan.seed,
    )
    network = create_network(experiment.network.name, seed=plan.seed, **experiment.network.options)
    if experiment.network.weights is not None:
        load_weights(network, Path(experiment.network.weights))
    settings = _settings(experiment, batches.pairs, accelerator.num_processes)
    if accelerator.is_main_process:
        _check_folder(out, settings, resume=resume)
    checkpoint = Checkpoint(out, resume=resume)
    samples = None
    if data.samples is not None and accelerator.is_main_process:
        held_out = open_pairs(data.dataset, datasets / data.root, data.samples, **data.options)
        samples = Samples(held_out, out / "samples", accelerator.device)
    loop = Loop(experiment, network, batches, samples, checkpoint, accelerator, progress=progress)
    if accelerator.is_main_process:
        write_atomically(out / CONFIG_FILE, json.dumps(as_dict(experiment), indent=2).encode())
        write_atomically(out / SETTINGS_FILE, json.dumps(settings, indent=2).encode())
    accelerator.init_trackers("tensorboard")
    finished = loop.run()
    if accelerator.is_main_process:
        _save(loop, out)
    accelerator.end_training()
    return finished


def _accelerator(plan: Training, out: Path) -> Accelerator:
    trackers = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    try:
        accelerator = Accelerator(
            mixed_precision=plan.mixed_precision,
            gradient_accumulation_steps=plan.accumulation,
            log_with=trackers,
            project_dir=out,
        )
    except ValueError as error:
        raise ValueError(f"mixed_precision={plan.mixed_precision!r} cannot be had in this process: {error}") from error
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and accelerator.num_processes == 1:
        raise ValueError(
            f"{launched} processes were launched, but accelerate sees one; without a GPU, set ACCELERATE_USE_CPU=true"
        )
    return accelerator


def _share(batch_size: int, accumulation: int, processes: int) -> int:
    """Return how many crops of a batch one process takes."""
    if batch_size % (processes * accumulation):
        raise ValueError(
            f"training.batch_size must be a multiple of {processes} processes x {accumulation} parts, got {batch_size}"
        )
    return batch_size // processes


def _settings(experiment: Experiment, pairs: PairDataset, processes: int) -> dict[str, Any]:
    """Return all that decides the result, by name: a run must not go on with something else."""
    names = hashlib.sha256("\n".join(pair.name for pair in pairs.pairs).encode()).hexdigest()
    settings = {"processes": processes, "pairs": len(pairs), "names of the pairs": names[:8]}
    for part, value in as_dict(experiment).items():
        if isinstance(value, dict):
            settings |= {f"{part}.{name}": setting for name, setting in value.items()}
        else:
            settings[part] = value
    return {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}


def _check_folder(out: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Raise ValueError if a run must not begin, or not go on, in `out`."""
    if not resume:
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"{out} holds files already: go on with a run by --resume, or take another --out")
        return
    if not (out / CHECKPOINT_FILE).exists():
        raise ValueError(f"{out} holds no run to go on with, for there is no {CHECKPOINT_FILE}: leave --resume out")
    try:
        changed = differences(json.loads((out / SETTINGS_FILE).read_bytes()), json.loads(json.dumps(settings)))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{out / SETTINGS_FILE} does not say what the run is ({error}); take another --out") from error
    if changed:
        raise ValueError(f"{out} holds another run: {'; '.join(changed)}; take the same, or another --out")


def _save(loop: Loop, out: Path) -> None:
    save_weights(loop.network, out / WEIGHTS_FILE)
    if loop.average is not None:
        save_weights(loop.restorer, out / AVERAGE_FILE)
