"""The files that say what a run is, changed at random: they are read, or an error in words says why not."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from examples.deblurring.evaluation.methods import describe_network
from examples.deblurring.evaluation.settings import Network, Settings, read_settings
from examples.deblurring.training.config import as_dict, load_experiment
from tests.weights.test_mutations import damaged_bytes, edited_json

CONFIG = Path(__file__).resolve().parents[3] / "examples" / "deblurring" / "configs" / "unet_synthetic.yaml"
EXPERIMENT = json.dumps(as_dict(load_experiment(CONFIG))).encode()
SETTINGS = json.dumps(
    dataclasses.asdict(Settings(Network("hinet", {"width": 4}, "w.pth", "0" * 64), "gopro", "r", "test", {}, ["psnr"]))
).encode()


def read_run(path: Path) -> Network:
    (path.parent / "network.safetensors").touch()
    return describe_network(path.parent, None, {}, tlc=True)


@pytest.mark.parametrize(
    ("name", "data", "read"),
    [
        ("experiment.yaml", EXPERIMENT, load_experiment),
        ("experiment.yaml", CONFIG.read_bytes(), load_experiment),
        ("config.json", EXPERIMENT, read_run),
        ("settings.json", SETTINGS, lambda path: read_settings(path.parent)),
    ],
)
def test_random_mutations_are_read_or_refused(
    tmp_path: Path, name: str, data: bytes, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / name
    ways = damaged_bytes(data) | (edited_json(data) if data.startswith(b"{") else st.nothing())
    outcomes = {"read": 0, "refused": 0}

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ways)
    @example(data)
    @example(b"[" * 100_000)
    @example(b'{"a":' * 100_000)
    def check(mutated: bytes) -> None:
        path.write_bytes(mutated)
        try:
            read(path)
        except (ValueError, OSError) as error:
            outcomes["refused"] += 1
            assert len(str(error)) < 3000
        else:
            outcomes["read"] += 1

    check()
    assert outcomes["read"] >= 1 and outcomes["refused"] >= 10
