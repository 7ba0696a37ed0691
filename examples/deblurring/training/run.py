"""One experiment, from its description to a folder with a trained network."""

import contextlib
import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from examples._common import differences, read_json
from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import PairDataset
from examples.deblurring.models.checkpoints import load_weights, save_weights
from examples.deblurring.models.networks import create_network
from examples.deblurring.training.batches import Batches
from examples.deblurring.training.config import Experiment, as_dict, check_schedule
from examples.deblurring.training.loop import Loop
from examples.deblurring.training.quarantine import QUARANTINE_FILE, quarantine, quarantined
from examples.deblurring.training.samples import Samples
from tafm_loss.runs import (
    CHECKPOINT_FILE,
    Checkpoint,
    accelerated,
    interrupts,
    is_unused,
    locked,
    save_or_rescue,
    write_atomically,
)

__all__ = ["AVERAGE_FILE", "CONFIG_FILE", "WEIGHTS_FILE", "train"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "network.safetensors"
AVERAGE_FILE = "network_ema.safetensors"

SETTINGS_FILE = "settings.json"
SAMPLES = "samples"

# How a run is watched and where its data lie, which does not change what comes out.
WITHOUT_EFFECT = {
    "about",
    "data.root",
    "data.samples",
    *(f"training.{name}" for name in ("workers", "log_every", "checkpoint_every", "samples_every")),
}


def train(experiment: Experiment, datasets: Path, out: Path, *, resume: bool = False, progress: bool = True) -> bool:
    """Train a network, and return whether the end was reached, or an interrupt came first.

    Pairs that cannot be read are left out, with a warning, also when the run goes on; quarantine.json names them.

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
        BlockingIOError: if another run holds `out`; the message says which.
        OSError: if data cannot be read or `out` not be written. If that fails at the end alone, the message says where
            the weights are instead.
    """
    check_schedule(experiment.schedule)
    plan = experiment.training
    trackers = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    options = {"log_with": trackers, "project_dir": out}
    with accelerated(plan.mixed_precision, plan.accumulation, **options) as accelerator:
        return _train(experiment, datasets, out, accelerator, resume=resume, progress=progress)


def _train(
    experiment: Experiment, datasets: Path, out: Path, accelerator: Accelerator, *, resume: bool, progress: bool
) -> bool:
    data, plan = experiment.data, experiment.training
    size = _share(plan.batch_size, plan.accumulation, accelerator.num_processes)
    first = accelerator.process_index * size
    if not resume and accelerator.is_main_process:
        _check_unused(out)
    pairs = open_pairs(data.dataset, datasets / data.root, data.split, **data.options)
    begun = resume and (out / SETTINGS_FILE).exists()
    left_out = quarantined(out) if begun else {}
    pairs.leave_out(left_out)
    left_out |= quarantine(pairs, accelerator, begun=begun, progress=progress)
    batches = Batches(
        pairs,
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
    with contextlib.ExitStack() as held:
        samples = None
        if accelerator.is_main_process:
            _check_folder(out, settings, resume=resume)
            held.enter_context(locked(out, SAMPLES))
            _check_folder(out, settings, resume=resume)  # again: another run may have ended there
            if left_out:
                write_atomically(out / QUARANTINE_FILE, json.dumps(left_out, indent=2).encode())
            write_atomically(out / SETTINGS_FILE, json.dumps(settings, indent=2).encode())
            write_atomically(out / CONFIG_FILE, json.dumps(as_dict(experiment), indent=2).encode())
            if data.samples is not None:
                held_out = open_pairs(data.dataset, datasets / data.root, data.samples, **data.options)
                samples = Samples(held_out, out / SAMPLES, accelerator.device)
        checkpoint = Checkpoint(out, json.dumps(settings), resume=resume, processes=accelerator.num_processes)
        loop = Loop(experiment, network, batches, samples, checkpoint, accelerator, progress=progress)
        accelerator.init_trackers("tensorboard")
        with interrupts() as interrupted:
            finished = loop.run(interrupted)
            if accelerator.is_main_process:
                save_or_rescue(functools.partial(_save, loop), out, "the network")
        accelerator.end_training()
    return finished


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


def _check_unused(out: Path) -> None:
    if not is_unused(out):
        raise ValueError(f"{out} holds files already: go on with a run by --resume, or take another --out")


def _check_folder(out: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Raise ValueError if a run must not begin, or not go on, in `out`."""
    if not resume:
        _check_unused(out)
        return
    # A run that was killed early has settings, and no checkpoint: it begins anew.
    lost = (out / WEIGHTS_FILE).exists() and not (out / CHECKPOINT_FILE).exists()
    if lost or not (out / SETTINGS_FILE).exists():
        missing = CHECKPOINT_FILE if lost else SETTINGS_FILE
        raise ValueError(
            f"{out} holds no run to go on with, for there is no {missing}: leave --resume out, or take another --out"
        )
    try:
        changed = differences(read_json(out / SETTINGS_FILE), json.loads(json.dumps(settings)))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{out / SETTINGS_FILE} does not say what the run is ({error}); take another --out") from error
    if changed:
        raise ValueError(f"{out} holds another run: {'; '.join(changed)}; take the same, or another --out")


def _save(loop: Loop, folder: Path) -> None:
    save_weights(loop.network, folder / WEIGHTS_FILE)
    if loop.average is not None:
        save_weights(loop.restorer, folder / AVERAGE_FILE)
