"""The learning rate of every step."""

import math

from examples.deblurring.training.config import Optimizer, Schedule

__all__ = ["check_schedule", "learning_rate"]

SCHEDULES = ("constant", "cosine", "halving")


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
