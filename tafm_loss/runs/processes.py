"""accelerate, for one run: devices, precision and processes, whatever else the environment says."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["accelerated"]

# What `accelerate config` can ask for, and would cut networks into parts.
STRATEGIES = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG")
TRUE = ("1", "true", "yes", "on")


@contextlib.contextmanager
def accelerated(mixed_precision: str, accumulation: int, **options: Any) -> Iterator[Any]:
    """Give accelerate's Accelerator of these numbers, and leave accelerate's own state as it was found.

    The environment decides on devices and processes alone: variables that set the precision, the parts of a batch or a
    compiler have no effect. Several processes stay joined at the end.

    Args:
        mixed_precision: "no", "fp16" or "bf16".
        accumulation: in how many parts a batch goes through a network.
        options: of the Accelerator.

    Raises:
        ValueError: if the environment says half of what several processes need, or names a strategy that cuts networks
            into parts; or if this precision or device cannot be had.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    launched = _launched()
    states = [AcceleratorState, GradientState]
    if not _joined():
        states.append(PartialState)
    before = {state: dict(state._shared_state) for state in states}
    for state in states:
        state._shared_state.clear()
    try:
        try:
            accelerator = Accelerator(
                mixed_precision=mixed_precision,
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation),
                dynamo_backend="no",
                **options,
            )
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"accelerate cannot start here with mixed_precision={mixed_precision!r}: {error}"
            ) from error
        if launched > 1 and accelerator.num_processes == 1:
            raise ValueError(
                f"{launched} processes were launched, but accelerate sees one: without a GPU, set "
                "ACCELERATE_USE_CPU=true"
            )
        yield accelerator
    finally:
        for state, content in before.items():
            if state is not PartialState or not _joined():
                state._shared_state.clear()
                state._shared_state.update(content)


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _launched() -> int:
    """Return how many processes the environment tells of."""
    if asked := [name for name in STRATEGIES if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in TRUE]:
        raise ValueError(f"ACCELERATE_USE_{asked[0]} is set, but networks are trained as a whole here: unset it")
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal():
        raise ValueError(f"WORLD_SIZE must be the number of processes, got {text!r}")
    missing = [name for name in ("RANK", "LOCAL_RANK") if name not in os.environ]
    if int(text) > 1 and missing:
        raise ValueError(
            f"WORLD_SIZE={text} tells of {text} processes, but {' and '.join(missing)} are not set: start them by "
            "torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    return int(text)
