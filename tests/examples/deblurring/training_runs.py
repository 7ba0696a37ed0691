"""What tests of training share: how a run is asked for, and what it leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

Run = Callable[..., bool]
Weights = dict[str, torch.Tensor]


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def weights(folder: Path, name: str = "network") -> Weights:
    return load_file(folder / f"{name}.safetensors")
