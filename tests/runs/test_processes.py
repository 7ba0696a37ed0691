"""accelerate for one run: its own numbers count, and the caller's accelerate is left as it was."""

import os
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from tafm_loss.runs import accelerated

STATES = (PartialState, AcceleratorState, GradientState)


def states() -> list[dict[str, Any]]:
    return [dict(state._shared_state) for state in STATES]


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Any:
    before = states()
    for state in STATES:
        state._shared_state.clear()
    yield
    for state, content in zip(STATES, before, strict=True):
        state._shared_state.clear()
        state._shared_state.update(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
    ],
)
def test_the_numbers_of_the_run_count_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    network = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1)
    with accelerated("no", 2) as accelerator:
        assert accelerator.gradient_accumulation_steps == 2 and accelerator.mixed_precision == "no"
        assert accelerator.prepare(network) is network


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 tells of 2 processes, but RANK and LOCAL_RANK are not set: start them by"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}, "RANK and LOCAL_RANK are not set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "but LOCAL_RANK are not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be the number of processes, got 'two'"),
        ({"LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true"}, "accelerate cannot start here .*MASTER_ADDR"),
        ({"ACCELERATE_TORCH_DEVICE": "nope"}, "accelerate cannot start here"),
        ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP is set, but networks are trained as a whole"),
        ({"ACCELERATE_USE_DEEPSPEED": "1"}, "ACCELERATE_USE_DEEPSPEED is set"),
    ],
)
def test_an_environment_that_cannot_be_meant_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(ValueError, match=message), accelerated("no", 1):
        raise AssertionError
    assert dict(os.environ) == before or "LOCAL_RANK" in environment
    assert states() == [{}, {}, {}]


def test_the_callers_accelerate_is_left_as_it_was() -> None:
    with accelerated("bf16", 2), accelerated("no", 1) as inner:  # each has its own precision
        assert inner.mixed_precision == "no"
    assert states() == [{}, {}, {}]
    own = Accelerator(gradient_accumulation_steps=4)
    before = states()
    with pytest.raises(KeyError), accelerated("bf16", 2) as accelerator:
        assert accelerator.mixed_precision == "bf16"
        raise KeyError
    assert states() == before and own.gradient_accumulation_steps == 4 and own.mixed_precision == "no"
