"""The training loop: batches through the objective into the weights, with checkpoints and validation on the way."""

import contextlib
import copy
import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.checkpoint import Checkpoint, Progress
from tafm_loss.finetune.grading import Grade, grade, scene_generators
from tafm_loss.finetune.interrupts import interrupts
from tafm_loss.finetune.prefetch import prefetch
from tafm_loss.finetune.triplets import GradedCrops, SceneCrops
from tafm_loss.finetune.tuning import StepOutput, Tuning
from tafm_loss.finetune.validation import Validation

__all__ = ["Loop", "Plan"]

HISTORY_EVERY = 20
VALIDATE_EVERY = 100
CHECKPOINT_EVERY = 100
WARM_UP = 0.05
LARGEST_GRADIENT = 1.0
SCALE_MEMORY = 0.95


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a backbone is tuned: the numbers of `finetune_backbone`."""

    steps: int
    batch_size: int
    learning_rate: float
    accumulation: int
    patience: int | None
    seed: int


class Loop:
    """Tunes what `tuning` holds, in place.

    Args:
        tuning: the backbone and its objective.
        crops: training scenes.
        held_out: scenes for the validation pass, or None for no pass.
        synthesizer: what grades them.
        plan: the numbers.
        accelerator: accelerate's, which knows devices, precision and the other processes.
        checkpoint: where to keep the state, or None.
        progress: whether to show a bar.
    """

    def __init__(
        self,
        tuning: Tuning,
        crops: SceneCrops,
        held_out: SceneCrops | None,
        synthesizer: BlurSynthesizer | Grade,
        plan: Plan,
        accelerator: Any,
        checkpoint: Checkpoint | None,
        *,
        progress: bool,
    ) -> None:
        self.plan = plan
        self.tuning = tuning
        self.crops = crops
        self.synthesizer = synthesizer
        self.accelerator = accelerator
        self.checkpoint = checkpoint
        self.bar = progress and accelerator.is_main_process
        trainable = [parameter for parameter in tuning.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=plan.learning_rate, betas=(0.9, 0.99))
        self.model, self.optimizer = accelerator.prepare(tuning, optimizer)
        self.parts = {"tuning": tuning, "optimizer": self.optimizer.optimizer}
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.state = Progress()
        if checkpoint is not None and checkpoint.resumes:
            self.state = checkpoint.load(self.parts, accelerator.device)
        if checkpoint is not None and accelerator.is_main_process:
            checkpoint.begin(self.state.history)
        self.validation = None if held_out is None else Validation(held_out, synthesizer, plan.seed)

    def run(self) -> bool:
        """Train to the end, and return whether it was reached, or an interrupt came first.

        Raises:
            FloatingPointError: if a term or the gradient stops being finite; the last checkpoint is kept.
        """
        steps = range(self.state.step, self.state.step if self._no_longer_better() else self.plan.steps)
        batches = prefetch(self._draw, steps)
        shown: dict[str, str] = {}
        with interrupts() as interrupted, contextlib.closing(batches):
            bar = tqdm(batches, disable=not self.bar, desc="finetune", initial=self.state.step, total=self.plan.steps)
            for crops in bar:
                measured, stop = self._step(crops, interrupted)
                step = self.state.step
                if (step - 1) % HISTORY_EVERY == 0 or step == self.plan.steps:
                    self._record({"step": float(step - 1), **measured})
                shown |= {"loss": f"{measured['loss']:.3f}", "ordered": f"{measured['ordering_accuracy']:.2f}"}
                if self.validation is not None and (step % VALIDATE_EVERY == 0 or step == self.plan.steps):
                    figures = self._validate()
                    shown |= {name: f"{value:.2f}" for name, value in figures.items() if name.startswith("selectivity")}
                    stop = self._no_longer_better() or stop
                bar.set_postfix(shown, refresh=False)
                if step % CHECKPOINT_EVERY == 0 or step == self.plan.steps or stop:
                    self._save()
                if stop:
                    break
        finished = self.state.step == self.plan.steps or self._no_longer_better()
        if self.state.best is not None:
            self.tuning.load_state_dict(self.state.best["tuning"])
        return finished

    # ---- a step ----

    def _draw(self, step: int) -> GradedCrops:
        generator = torch.Generator().manual_seed(self._seed(step))
        return self.crops.draw(self.plan.batch_size, generator, part=self._share())

    def _step(self, crops: GradedCrops, interrupted: threading.Event) -> tuple[dict[str, float], bool]:
        """Take one optimizer step; return its means over parts and processes, and whether one was interrupted."""
        step = self.state.step
        if self.state.scales is None:
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
                    means = self._agreed(outputs, interrupted.is_set())
                    self._check_finite(means, step)
                    self._clip(step)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self._move_scales(means["tap_distances"])
        self.state.step = step + 1
        row = {name: float(value) for name, value in means.items() if value.dim() == 0 and name != "stop"}
        return row, bool(means["stop"] > 0)

    def _inputs(self, crops: GradedCrops, step: int, part: int) -> tuple[Any, ...]:
        """Return the arguments of `Tuning.forward` for one part of this process's share of a batch."""
        share = self._share()
        size = (share.stop - share.start) // self.plan.accumulation
        here = slice(part * size, (part + 1) * size)
        place = slice(share.start + here.start, share.start + here.stop)
        device = self.accelerator.device
        moved = GradedCrops(crops.levels[:, here].to(device), crops.extents[:, here].to(device))
        seed = self._seed(step)
        levels, extents = grade(self.synthesizer, moved, seed, count=self.plan.batch_size, part=place)
        generators = scene_generators(seed, range(place.start, place.stop), device)
        return levels, extents, generators, self.state.scales, self.state.untuned_scales

    def _agreed(self, outputs: Sequence[StepOutput], interrupted: bool) -> dict[str, Tensor]:
        """Return the means over parts and processes; every process gets the same."""
        terms = {name: torch.stack([output.terms[name].detach() for output in outputs]) for name in outputs[0].terms}
        means = {name: values.mean() for name, values in terms.items()}
        means["loss"] = torch.stack([*means.values()]).sum()
        means["ordering_accuracy"] = torch.stack([output.ordering_accuracy for output in outputs]).mean()
        means["stop"] = means["loss"].new_tensor(float(interrupted))
        tap_distances = torch.stack([output.tap_distances for output in outputs]).mean(0)
        reduced = self.accelerator.reduce(torch.cat([torch.stack([*means.values()]), tap_distances]), "mean").cpu()
        return {**dict(zip(means, reduced, strict=False)), "tap_distances": reduced[len(means) :]}

    def _check_finite(self, means: Mapping[str, Tensor], step: int) -> None:
        wrong = [name for name, value in means.items() if not torch.isfinite(value).all()]
        if wrong:
            raise FloatingPointError(f"the objective is not finite at step {step}: {', '.join(wrong)}; {self._kept()}")

    def _clip(self, step: int) -> None:
        norm = self.accelerator.clip_grad_norm_(self.tuning.parameters(), LARGEST_GRADIENT)
        # A loss scaler looks for itself, and takes a smaller scale.
        if self.accelerator.scaler is None and not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient is not finite at step {step}, although the objective is; {self._kept()}"
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

    # ---- the scale of every tap ----

    def _begin_scales(self, crops: GradedCrops) -> None:
        ones = torch.ones(len(self.tuning.taps), device=self.accelerator.device)
        self.state.scales = self.state.untuned_scales = ones
        if not self.tuning.backbone.config.spatial:
            return
        with torch.no_grad():
            outputs = [
                self.tuning(*self._inputs(crops, self.state.step, part)) for part in range(self.plan.accumulation)
            ]
        first = self._agreed(outputs, False)["tap_distances"]
        self.state.scales = self.state.untuned_scales = first.clamp(min=1e-8).to(ones)

    def _move_scales(self, tap_distances: Tensor) -> None:
        scales = self.state.scales
        assert scales is not None  # set before the first step
        if self.tuning.backbone.config.spatial:
            now = tap_distances.to(scales).clamp(min=1e-8)
            self.state.scales = SCALE_MEMORY * scales + (1 - SCALE_MEMORY) * now

    # ---- validation ----

    def _validate(self) -> dict[str, float]:
        """Record and return what the held-out scenes say, and keep the weights if they are the best so far."""
        assert self.validation is not None
        assert self.state.scales is not None and self.state.untuned_scales is not None
        own = self.validation.figures(self.tuning, self.state.scales, self.state.untuned_scales)
        # All processes must come to the same decisions.
        shared = self.accelerator.reduce(torch.tensor([*own.values()], device=self.accelerator.device), "mean")
        figures = dict(zip(own, shared.tolist(), strict=True))
        self._record({"step": float(self.state.step - 1), **figures})
        self._note_best(figures["validation_loss"])
        return figures

    def _note_best(self, objective: float) -> None:
        if self.plan.patience is None:
            return
        best = self.state.best
        if best is None or objective < best["objective"]:
            tuning = copy.deepcopy(self.tuning.state_dict())
            self.state.best = {"objective": objective, "step": self.state.step, "passes_since": 0, "tuning": tuning}
        else:
            best["passes_since"] += 1

    def _no_longer_better(self) -> bool:
        best = self.state.best
        return best is not None and self.plan.patience is not None and best["passes_since"] >= self.plan.patience

    # ---- what is kept ----

    def _record(self, row: dict[str, float]) -> None:
        self.state.history.append(row)
        if self.checkpoint is not None and self.accelerator.is_main_process:
            self.checkpoint.record(row)

    def _save(self) -> None:
        if self.checkpoint is not None and self.accelerator.is_main_process:
            self.checkpoint.save(self.parts, self.state)
