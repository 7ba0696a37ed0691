"""The training loop: batches through the objective into the weights, with checkpoints and validation on the way."""

import contextlib
import copy
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.crops import Grade, SceneCrops, grade, scene_generators
from tafm_loss.finetune.sources import Graded
from tafm_loss.finetune.tuning import StepOutput, Tuning, Validation
from tafm_loss.runs import Checkpoint, Progress

__all__ = ["Loop", "Plan"]

HISTORY_EVERY = 20
VALIDATE_EVERY = 100
CHECKPOINT_EVERY = 100
WARM_UP = 0.05
LARGEST_GRADIENT = 1.0
READERS, AHEAD = 2, 4  # threads, and batches that they read before they are asked for


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a backbone is tuned: the numbers of `finetune_backbone`."""

    steps: int
    batch_size: int
    learning_rate: float
    accumulation: int
    patience: int | None
    seed: int


@dataclasses.dataclass(eq=False)
class Loop:
    """Tunes what `tuning` holds, in place: on `crops`, graded by `synthesizer`, with a validation pass on `held_out`.

    `accelerator` is accelerate's, which knows devices, precision and the other processes.
    """

    tuning: Tuning
    crops: SceneCrops
    held_out: SceneCrops | None
    synthesizer: BlurSynthesizer | Grade
    plan: Plan
    accelerator: Any
    checkpoint: Checkpoint | None
    progress: bool

    def __post_init__(self) -> None:
        trainable = [parameter for parameter in self.tuning.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=self.plan.learning_rate, betas=(0.9, 0.99))
        self.model, self.optimizer = self.accelerator.prepare(self.tuning, optimizer)
        self.parts = {"tuning": self.tuning, "optimizer": self.optimizer.optimizer}
        if self.accelerator.scaler is not None:
            self.parts["scaler"] = self.accelerator.scaler
        self.state = Progress()
        if self.checkpoint is not None and self.checkpoint.resumes:
            self.state = self.checkpoint.load(self.parts)
        if not self.accelerator.is_main_process:
            self.checkpoint = None
        if self.checkpoint is not None:
            self.checkpoint.begin(self.state.history)
        self.validation = None
        if self.held_out is not None:
            self.validation = Validation(self.held_out, self.synthesizer, self.plan.seed)

    def run(self, interrupted: Callable[[], bool]) -> bool:
        """Train to the end, or to the end of the step in which `interrupted()`; return whether it was the end.

        Raises:
            FloatingPointError: if a term or the gradient stops being finite; the last checkpoint is kept.
        """
        steps = range(self.state.step, self.state.step if self._no_longer_better() else self.plan.steps)
        shown: dict[str, str] = {}
        with contextlib.closing(self._read_ahead(steps)) as batches:
            hidden = not (self.progress and self.accelerator.is_main_process)
            bar = tqdm(batches, disable=hidden, desc="finetune", initial=self.state.step, total=self.plan.steps)
            for crops in bar:
                step, last = self.state.step, self.state.step + 1 == self.plan.steps
                measured = self._step(crops, interrupted)
                stop = measured.pop("stop") > 0
                if step % HISTORY_EVERY == 0 or last:
                    self._record({"step": float(step), **measured})
                shown |= {"loss": f"{measured['loss']:.3f}", "ordered": f"{measured['ordering_accuracy']:.2f}"}
                if self.validation is not None and ((step + 1) % VALIDATE_EVERY == 0 or last):
                    found = self._validate(self.validation)
                    shown |= {name: f"{value:.2f}" for name, value in found.items() if name.startswith("selectivity")}
                    stop = self._no_longer_better() or stop
                bar.set_postfix(shown, refresh=False)
                if self.checkpoint is not None and ((step + 1) % CHECKPOINT_EVERY == 0 or last or stop):
                    self.checkpoint.save(self.parts, self.state)
                if stop:
                    break
        finished = self.state.step == self.plan.steps or self._no_longer_better()
        if self.state.best is not None:
            self.tuning.load_state_dict(self.state.best["tuning"])
        return finished

    def _read_ahead(self, steps: range) -> Generator[Graded, None, None]:
        """Yield the crops of each step, drawn ahead by threads; an error comes at its step."""
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="crops")
        pending: deque[Future[Graded]] = deque()
        try:
            for step in steps:
                pending.append(pool.submit(self._draw, step))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # Not waiting, or an interrupt would hang for as long as the slowest file takes.
            pool.shutdown(wait=False, cancel_futures=True)

    def _draw(self, step: int) -> Graded:
        generator = torch.Generator().manual_seed(self._seed(step))
        return self.crops.draw(self.plan.batch_size, generator, part=self._share())

    def _step(self, crops: Graded, interrupted: Callable[[], bool]) -> dict[str, float]:
        """Take one optimizer step; return its means over parts and processes, and "stop" if one was interrupted."""
        step = self.state.step
        if step == 0:
            self._begin_scales(crops)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        outputs: list[StepOutput] = []
        for part in range(self.plan.accumulation):
            with self.accelerator.accumulate(self.model):
                output: StepOutput = self.model(*self._inputs(crops, step, part))
                self.accelerator.backward(torch.stack([*output.terms.values()]).sum())
                outputs.append(output)
                if self.accelerator.sync_gradients:
                    means, tap_distances = self._agreed(outputs, interrupted())
                    self._clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.tuning.move_scales(tap_distances)
        self.state.step = step + 1
        return means

    def _inputs(self, crops: Graded, step: int, part: int) -> tuple[Any, ...]:
        """Return the arguments of `Tuning.forward` for one part of this process's share of a batch."""
        share = self._share()
        size = (share.stop - share.start) // self.plan.accumulation
        here = slice(part * size, (part + 1) * size)
        place = slice(share.start + here.start, share.start + here.stop)
        device = self.accelerator.device
        moved = Graded(crops.levels[:, here].to(device), crops.extents[:, here].to(device))
        seed = self._seed(step)
        graded = grade(self.synthesizer, moved, seed, count=self.plan.batch_size, part=place)
        return *graded, scene_generators(seed, range(place.start, place.stop), device)

    def _agreed(self, outputs: Sequence[StepOutput], interrupted: bool) -> tuple[dict[str, float], Tensor]:
        """Return the means of numbers, and of distances at taps, over parts and processes; all get the same."""
        terms = {name: torch.stack([output.terms[name].detach() for output in outputs]) for name in outputs[0].terms}
        means = {name: values.mean() for name, values in terms.items()}
        means["loss"] = torch.stack([*means.values()]).sum()
        means["ordering_accuracy"] = torch.stack([output.ordering_accuracy for output in outputs]).mean()
        means["stop"] = means["loss"].new_tensor(float(interrupted))
        tap_distances = torch.stack([output.tap_distances for output in outputs]).mean(0)
        reduced = self.accelerator.reduce(torch.cat([torch.stack([*means.values()]), tap_distances]), "mean").cpu()
        numbers, at_taps = reduced[: len(means)].tolist(), reduced[len(means) :]
        wrong = [name for name, value in zip(means, numbers, strict=True) if not math.isfinite(value)]
        wrong += [] if at_taps.isfinite().all() else ["tap_distances"]
        if wrong:
            raise FloatingPointError(
                f"the objective is not finite at step {self.state.step}: {', '.join(wrong)}; {self._kept()}"
            )
        return dict(zip(means, numbers, strict=True)), at_taps

    def _clip(self) -> None:
        norm = self.accelerator.clip_grad_norm_(self.tuning.parameters(), LARGEST_GRADIENT)
        # A loss scaler looks for itself, and takes a smaller scale.
        if self.accelerator.scaler is None and not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient is not finite at step {self.state.step}, although the objective is; {self._kept()}"
            )

    def _kept(self) -> str:
        kept = "" if self.checkpoint is None else f"the last checkpoint is kept in {self.checkpoint.path}; "
        return f"{kept}look at the images of that step, or try a lower learning_rate"

    def _learning_rate(self, step: int) -> float:
        """Return the rate of a step: linear warm-up, then a cosine down to nothing."""
        warm_up = max(1, round(WARM_UP * self.plan.steps))
        if step < warm_up:
            return self.plan.learning_rate * (step + 1) / warm_up
        done = (step - warm_up) / max(1, self.plan.steps - warm_up)
        return self.plan.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _share(self) -> slice:
        """Return which scenes of every batch are this process's."""
        size = self.plan.batch_size // self.accelerator.num_processes
        start = self.accelerator.process_index * size
        return slice(start, start + size)

    def _seed(self, step: int) -> int:
        return (self.plan.seed * 1_000_003 + step) % 2**63

    @torch.no_grad()
    def _begin_scales(self, crops: Graded) -> None:
        if self.tuning.backbone.config.spatial:
            parts = range(self.plan.accumulation)
            _, tap_distances = self._agreed([self.tuning(*self._inputs(crops, 0, part)) for part in parts], False)
            self.tuning.begin_scales(tap_distances)

    def _validate(self, validation: Validation) -> dict[str, float]:
        """Record and return what the held-out scenes say, and keep the weights if they are the best so far."""
        own = validation.measure(self.tuning)
        # All processes must come to the same decisions.
        shared = self.accelerator.reduce(torch.tensor([*own.values()], device=self.accelerator.device), "mean")
        found = dict(zip(own, shared.tolist(), strict=True))
        self._record({"step": float(self.state.step - 1), **found})
        if self.plan.patience is not None:
            best, objective = self.state.best, found["validation_loss"]
            if best is None or objective < best["objective"]:
                tuning = copy.deepcopy(self.tuning.state_dict())
                self.state.best = {"objective": objective, "step": self.state.step, "passes_since": 0, "tuning": tuning}
            else:
                best["passes_since"] += 1
        return found

    def _no_longer_better(self) -> bool:
        best = self.state.best
        return best is not None and self.plan.patience is not None and best["passes_since"] >= self.plan.patience

    def _record(self, row: dict[str, float]) -> None:
        self.state.history.append(row)
        if self.checkpoint is not None:
            self.checkpoint.record(row)
