"""The training loop: batches through the objective into the weights, with a log, checkpoints and pictures."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from examples._common import prefetch
from examples.deblurring.data.pairs import PairSample
from examples.deblurring.training.batches import Batches, seeded
from examples.deblurring.training.config import Experiment, Optimizer, learning_rate
from examples.deblurring.training.meter import Meter
from examples.deblurring.training.objective import Objective
from examples.deblurring.training.samples import Samples
from tafm_loss.runs import CHECKPOINT_FILE, Checkpoint, Progress, warned

__all__ = ["Loop", "create_optimizer"]

GRADIENT_NORM = "gradient_norm"
# One small batch may hold a crop that is all but sharp, and decide the weight by itself.
CALIBRATION_BATCHES = 16


class Loop:
    """Trains a network, in place.

    Args:
        experiment: what is to be done.
        network: with its first weights.
        batches: what it sees.
        samples: what pictures are made of, or None.
        checkpoint: where the state is kept.
        accelerator: accelerate's.
        progress: whether to show a bar.
    """

    def __init__(
        self,
        experiment: Experiment,
        network: nn.Module,
        batches: Batches,
        samples: Samples | None,
        checkpoint: Checkpoint,
        accelerator: Accelerator,
        *,
        progress: bool,
    ) -> None:
        self.experiment = experiment
        self.plan = experiment.training
        self.batches = batches
        self.samples = samples
        self.folder = checkpoint.path.parent
        self.checkpoint = checkpoint if accelerator.is_main_process else None
        self.accelerator = accelerator
        self.bar = progress and accelerator.is_main_process
        self.objective = Objective(experiment.objective, accelerator.device, self.plan.seed)
        # Before accelerate wraps the network: checkpoints and averages are of the bare one.
        self.network = network.to(accelerator.device).to(memory_format=torch.channels_last).train()
        self.average = None if self.plan.ema is None else _moving_average(self.network, self.plan.ema)
        self.model, self.optimizer = accelerator.prepare(
            self.network, create_optimizer(self.network, experiment.optimizer)
        )
        self.parts: dict[str, Any] = {
            "network": self.network,
            "optimizer": self.optimizer.optimizer,
            "objective": self.objective,
        }
        if self.average is not None:
            self.parts["average"] = self.average
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.state = checkpoint.load(self.parts) if checkpoint.resumes else Progress()
        if self.checkpoint is not None:
            self.checkpoint.begin(self.state.history)
        self.meter = Meter(accelerator.device)

    @property
    def restorer(self) -> nn.Module:
        """The network as it is to be used: the moving average of its weights, if there is one."""
        return self.network if self.average is None else self.average.module

    def run(self, interrupted: Callable[[], bool]) -> bool:
        """Train to the end, or to the end of the step in which `interrupted()`; return whether it was the end.

        Raises:
            FloatingPointError: if a loss stops being finite; the last checkpoint is kept.
        """
        if not self.objective.calibrated:
            self._calibrate()
        steps = range(self.state.step, self.plan.steps)
        batches = prefetch(self.batches.draw, steps, workers=self.plan.workers)
        device = self.accelerator.device
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with forked, contextlib.closing(batches):
            bar = tqdm(total=self.plan.steps, initial=self.state.step, disable=not self.bar, unit="step")
            for step in steps:
                self.meter.waiting()
                drawn = next(batches)
                self.meter.training(drawn.sharp.shape[0] * self.accelerator.num_processes)
                self._step(drawn, step)
                bar.update()
                self._after(step + 1, bar, stop := self._agreed(interrupted()))
                if stop:
                    break
            bar.close()
        return self.state.step == self.plan.steps

    # ---- a step ----

    def _step(self, drawn: PairSample, step: int) -> None:
        # Dropout follows from the step, so that a run taken up goes on as an unbroken one.
        torch.manual_seed(seeded(self.plan.seed, 3, step, self.accelerator.process_index).initial_seed())
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        for blurred, sharp in self._parts(drawn, step):
            with self.accelerator.accumulate(self.model):
                terms = self.objective(self.model(blurred), sharp)
                self.accelerator.backward(torch.stack([*terms.values()]).sum())
                for name, value in terms.items():
                    self.meter.add(name, value.detach() / self.plan.accumulation)
                if self.accelerator.sync_gradients:
                    self._clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.state.step = step + 1

    def _parts(self, drawn: PairSample, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        images = self.batches.on_device(drawn, step, self.accelerator.device)
        # In the layout of the weights, convolutions take a fraction of the time.
        blurred, sharp = (image.contiguous(memory_format=torch.channels_last) for image in images)
        return zip(blurred.chunk(self.plan.accumulation), sharp.chunk(self.plan.accumulation), strict=True)

    def _clip(self) -> None:
        # A bound of infinity measures the norm, and clips nothing.
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.plan.clip or float("inf"))
        self.meter.add(GRADIENT_NORM, torch.as_tensor(norm).detach())

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.plan.steps, self.experiment.optimizer, self.experiment.schedule)

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Give every term its weight: the median over parts of batches that come after the last one of the run."""
        self.network.eval()
        found = []
        for step in range(self.plan.steps, self.plan.steps + CALIBRATION_BATCHES):
            for blurred, sharp in self._parts(self.batches.draw(step), step):
                found.append(self.objective.calibrated_weights(self.network(blurred), sharp))
        self.network.train()
        weights = torch.tensor(found, device=self.accelerator.device, dtype=torch.float64)
        weights = self.accelerator.gather(weights).median(0).values
        self.objective.weights = weights.tolist()
        self._record(
            {"step": 0, **{f"{name}_weight": w for name, w in zip(self.objective.names, weights.tolist(), strict=True)}}
        )

    def _agreed(self, interrupted: bool) -> bool:
        """Return whether any process was interrupted; all get the same answer."""
        if self.accelerator.num_processes == 1:
            return interrupted
        flag = torch.tensor(float(interrupted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    # ---- what is kept ----

    def _after(self, step: int, bar: "tqdm[Any]", stop: bool) -> None:
        """Log, show and save, where it is time."""
        last = stop or step == self.plan.steps
        saved = last or step % self.plan.checkpoint_every == 0
        if saved or step % self.plan.log_every == 0:
            row = self._log(step)
            bar.set_postfix(
                {"loss": f"{row['loss']:.4g}", "images/s": f"{row['images_per_second']:.3g}"}, refresh=False
            )
        if saved:
            self._check_weights(step)
        shown = last or step % self.plan.samples_every == 0
        if shown and self.samples is not None:
            with warned("the picture", self.samples.folder):
                self._record({"step": step, "sample_gain_db": self.samples.show(self.restorer, step)})
        # Last, so that a run that is taken up has all rows up to here.
        if saved and self.checkpoint is not None:
            self.checkpoint.save(self.parts, self.state)
        if saved or shown or step % self.plan.log_every == 0:
            self.meter.reset()

    def _log(self, step: int) -> dict[str, float]:
        """Record the means since the last row; nothing is saved before they are known to be finite."""
        means = {name: float(self.accelerator.reduce(mean, "mean")) for name, mean in self.meter.means().items()}
        row = {"step": step, "loss": sum(means[name] for name in self.objective.names), **means}
        # A loss scaler has gradients that are not finite, now and then, and drops their steps.
        names = self.objective.names if self.accelerator.scaler is not None else [*means]
        if wrong := [name for name in names if not math.isfinite(row[name])]:
            raise FloatingPointError(f"{', '.join(wrong)} stopped being finite before step {step}; {self._kept()}")
        row |= {"learning_rate": self._rate(step - 1), **self.meter.costs()}
        self._record(row)
        return row

    def _check_weights(self, step: int) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise FloatingPointError(f"weights stopped being finite before step {step}; {self._kept()}")

    def _kept(self) -> str:
        path = self.folder / CHECKPOINT_FILE
        kept = f"the last checkpoint is kept in {path}; " if path.exists() else ""
        return f"{kept}try a lower rate, or a bound on the gradient (training.clip)"

    def _record(self, row: dict[str, float]) -> None:
        self.state.history.append(row)
        if self.checkpoint is not None:
            self.checkpoint.record(row)
            with warned("the log of the tracker", self.folder):
                values = {name: value for name, value in row.items() if name != "step"}
                self.accelerator.log(values, step=int(row["step"]))


def _moving_average(network: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))


def create_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer of an experiment; raises ValueError for one that is not known."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if settings.name not in kinds:
        raise ValueError(f"optimizer.name must be adam or adamw, got {settings.name!r}")
    return kinds[settings.name](
        network.parameters(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
    )
