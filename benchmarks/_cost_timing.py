"""Times and memory of losses: what loss_cost.py measures of each case, arms in interleaved rounds."""

import contextlib
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

import torch
from _common import peak, reset_peak
from _cost_arms import Loss, build
from torch import Tensor

Figures = dict[str, Any]
Steps = Mapping[str, Callable[[], Any]]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FAST_SECONDS, FAST_REPEATS = 1.0, 5
SLOW_SECONDS, SLOW_ROUNDS = 8.0, 2
# Longer steps than this are predicted from the pixels, and not run, except in the case that has all arms.
LONGEST_SECONDS = 15.0
TOO_LONG = "predicted to take longer than the limit"


@dataclass(frozen=True)
class Case:
    """Images that a loss is measured on, and how; "bfloat16" is autocast on images in float32."""

    batch: int = 4
    size: int = 256
    dtype: str = "float32"
    compiled: bool = False
    device: str = "cpu"

    @property
    def pixels(self) -> int:
        return self.batch * self.size**2

    def images(self) -> tuple[Tensor, Tensor]:
        """Return pred, which asks for a gradient, and target."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, 3, self.size, self.size)
        pred, target = (torch.rand(shape, generator=generator).to(self.device) for _ in range(2))
        return pred.requires_grad_(), target


def step_of(loss: Loss, case: Case, pred: Tensor, target: Tensor) -> Callable[[], None]:
    """Return a call of the loss, forward and backward to pred."""
    called = torch.compile(loss, dynamic=False) if case.compiled else loss

    def step() -> None:
        with autocast(case.device, case.dtype):
            value = called(pred, target)
        torch.autograd.grad(value, pred)

    return step


def autocast(device: str, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return autocast to a dtype by name, which is off for float32."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, DTYPES[dtype])


def seconds_of(step: Callable[[], Any]) -> float:
    """Run a step to its end, that of the GPU's work included, and return its seconds."""
    _wait()
    start = time.perf_counter()
    step()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_interleaved(steps: Steps, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every step; quick ones run several times a round, slow ones in few rounds."""
    # The first step of each plans its convolutions, or compiles.
    for step in steps.values():
        step()
    first = {name: seconds_of(step) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for index in range(rounds):
        turn = index % max(len(names), 1)
        for name in names[turn:] + names[:turn]:
            if first[name] > SLOW_SECONDS and index >= SLOW_ROUNDS:
                continue
            for _ in range(FAST_REPEATS if first[name] < FAST_SECONDS else 1):
                seconds[name].append(seconds_of(steps[name]))
    return seconds


def measure_case(case: Case, names: Iterable[str], rounds: int) -> dict[str, Figures]:
    """Return {arm: its seconds}, or why it has none."""
    pred, target = case.images()
    torch.compiler.reset()
    steps = {name: step_of(build(name, target), case, pred, target) for name in names}
    failed = _failures(steps) if case.compiled else {}
    seconds = time_interleaved({name: step for name, step in steps.items() if name not in failed}, rounds)
    print(f"measured: {case}", file=sys.stderr, flush=True)
    return {name: {"seconds": found} for name, found in seconds.items()} | failed


def _failures(steps: Steps) -> dict[str, Figures]:
    """Return why steps cannot be compiled, of those that cannot."""
    failed = {}
    for name, step in steps.items():
        try:
            step()
        except Exception as error:  # a compiler may raise anything
            failed[name] = {"left_out": f"{type(error).__name__}: {error}".splitlines()[0]}
    return failed


def measure_cases(
    base: Case, cases: Iterable[Case], arms: Iterable[str], varied: Collection[str], rounds: int
) -> list[Figures]:
    """Measure all arms on `base` and `varied` on the other cases, without those that would take too long."""
    measured = measure_case(base, arms, rounds)
    rows = [_row(base, name, figures) for name, figures in measured.items()]
    for case in cases:
        predicted = {name: statistics.median(measured[name]["seconds"]) * case.pixels / base.pixels for name in varied}
        short = [name for name in varied if predicted[name] <= LONGEST_SECONDS]
        rows += [_row(case, name, figures) for name, figures in measure_case(case, short, rounds).items()]
        rows += [
            _row(case, name, {"left_out": TOO_LONG, "predicted_seconds": seconds})
            for name, seconds in predicted.items()
            if name not in short
        ]
    return rows


def _row(case: Case, name: str, figures: Figures) -> Figures:
    return {"arm": name, **asdict(case), **figures}


def median_seconds(rows: Iterable[Figures], case: Case) -> dict[str, float]:
    """Return {arm: its median} of the arms that were measured on a case."""
    return {
        row["arm"]: statistics.median(row["seconds"])
        for row in rows
        if "seconds" in row and Case(**{key: row[key] for key in asdict(case)}) == case
    }


def measure_peaks(names: Iterable[str], case: Case, script: str, threads: int) -> dict[str, float]:
    """Return {arm: MiB over what its weights and the images take}, each in a process of its own."""
    peaks = {}
    for name in names:
        request = json.dumps([name, *astuple(case)])
        command = [sys.executable, script, "--peak-of", request, "--threads", str(threads)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"the memory of {name} could not be measured:\n{run.stderr}")
        peaks[name] = float(run.stdout.splitlines()[-1])
    return peaks


def measure_peak(name: str, case: Case) -> float:
    """Return by how much two steps raise the memory of this process, or that of the GPU, in MiB."""
    pred, target = case.images()
    step = step_of(build(name, target), case, pred, target)
    gc.collect()
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        baseline = torch.cuda.memory_allocated()
    else:
        baseline = reset_peak()
    for _ in range(2):
        step()
    if case.device == "cuda":
        return (torch.cuda.max_memory_allocated() - baseline) / 2**20
    return peak() - baseline
