"""One experiment, from its description to a folder with a trained network."""

import hashlib
import importlib.util
import json
from pathlib import Path

from accelerate import Accelerator

from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import PairDataset
from examples.deblurring.models.checkpoints import load_weights, save_weights
from examples.deblurring.models.networks import create_network
from examples.deblurring.training.batches import Batches
from examples.deblurring.training.config import Experiment, Training, as_dict
from examples.deblurring.training.loop import Loop
from examples.deblurring.training.samples import Samples
from examples.deblurring.training.schedule import check_schedule
from tafm_loss._files import write_atomically
from tafm_loss.finetune.arguments import accelerator_for
from tafm_loss.finetune.checkpoint import Checkpoint

__all__ = ["AVERAGE_FILE", "CONFIG_FILE", "WEIGHTS_FILE", "train"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "network.safetensors"
AVERAGE_FILE = "network_ema.safetensors"

# How a run is watched and where its data lie, which does not change what comes out.
WITHOUT_EFFECT = ("workers", "log_every", "checkpoint_every", "samples_every")


def train(experiment: Experiment, datasets: Path, out: Path, *, resume: bool = False, progress: bool = True) -> bool:
    """Train a network, and return whether the end was reached, or an interrupt came first.

    Written to `out`: config.json; history.jsonl, a row at a time; samples/STEP.png; checkpoint.pt; and, at the end or
    after an interrupt, network.safetensors and, with a moving average, network_ema.safetensors. The last weights are
    the result: none are chosen by a test set.

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
    checkpoint = Checkpoint(out, _settings(experiment, batches.pairs), resume=resume)
    if not resume and checkpoint.path.exists():
        raise ValueError(f"{out} holds a run already: go on with it by --resume, or take another --out")
    samples = None
    if data.samples is not None and accelerator.is_main_process:
        held_out = open_pairs(data.dataset, datasets / data.root, data.samples, **data.options)
        samples = Samples(held_out, out / "samples", accelerator.device)
    loop = Loop(experiment, network, batches, samples, checkpoint, accelerator, progress=progress)
    if accelerator.is_main_process:
        write_atomically(out / CONFIG_FILE, json.dumps(as_dict(experiment), indent=2).encode())
    finished = loop.run()
    if accelerator.is_main_process:
        _save(loop, out)
    accelerator.end_training()
    return finished


def _accelerator(plan: Training, out: Path) -> Accelerator:
    trackers = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    accelerator: Accelerator = accelerator_for(
        plan.mixed_precision, plan.accumulation, log_with=trackers, project_dir=out
    )
    accelerator.init_trackers("tensorboard")
    return accelerator


def _share(batch_size: int, accumulation: int, processes: int) -> int:
    """Return how many crops of a batch one process takes."""
    if batch_size % (processes * accumulation):
        raise ValueError(
            f"training.batch_size must be a multiple of {processes} processes x {accumulation} parts, got {batch_size}"
        )
    return batch_size // processes


def _settings(experiment: Experiment, pairs: PairDataset) -> str:
    """Return all that decides the result, for a checkpoint that must not go on with something else."""
    settings = as_dict(experiment)
    del settings["about"], settings["data"]["root"], settings["data"]["samples"]
    for name in WITHOUT_EFFECT:
        del settings["training"][name]
    names = hashlib.sha256("\n".join(pair.name for pair in pairs.pairs).encode()).hexdigest()
    return f"{json.dumps(settings)} on {len(pairs)} pairs, names {names[:8]}"


def _save(loop: Loop, out: Path) -> None:
    save_weights(loop.network, out / WEIGHTS_FILE)
    if loop.average is not None:
        save_weights(loop.restorer, out / AVERAGE_FILE)
