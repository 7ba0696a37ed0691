"""What a long run may meet: several processes, a disk that is full or closed. In processes of their own, and slow."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tafm_loss.weights.loading import load_backbone
from tests.runs.programs import ROOT, Program, finish, output

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs mounts of POSIX")]

SMALL_RUN = str(ROOT / "tests" / "finetune" / "small_run.py")


def test_two_processes_give_what_one_does(tmp_path: Path) -> None:
    # Ten steps: Adam divides gradients near zero by themselves, so that rounding errors grow with every step.
    run = Program([SMALL_RUN, "OUT", "10"])
    one, two = tmp_path / "one", tmp_path / "two"
    finish(run.start(one))
    finish(run.twice().start(two))
    made_by = [torch.load(out / "checkpoint.pt", weights_only=True)["processes"] for out in (one, two)]
    assert made_by == [1, 2]
    histories = [(out / "history.jsonl").read_text().splitlines() for out in (one, two)]
    losses = [[json.loads(line)["loss"] for line in history] for history in histories]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    first, second = (load_backbone(out).state() for out in (one, two))
    for name, weights in first.items():
        # Ten steps of a rate that averages 1e-3 move a weight by 1e-2.
        assert (weights - second[name]).abs().mean() < 1e-3, name


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 4 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_nothing_but_the_newest_checkpoint(disk: Path, tmp_path: Path) -> None:
    out, run = disk / "out", Program([SMALL_RUN, "OUT", "2"], ["resume"])
    finish(run.start(out))
    kept = (out / "checkpoint.pt").read_bytes()
    weights = (out / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "config.json", "history.jsonl"):
        (out / name).unlink()
    filling = disk / "filling"
    with open(filling, "wb", buffering=0) as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        file.write(b"0" * max(0, free - 40_000))
    # Room for the history; neither for a second checkpoint nor for the weights.
    process = run.start(out)
    assert process.wait(300) != 0
    said = output(process)
    assert f"could not be written to {out}: [Errno 28] No space left on device: '{out}/model.safetensors'" in said
    rescued = Path(said.rpartition("it is safe in ")[2].partition(": copy")[0])
    assert (rescued / "model.safetensors").read_bytes() and load_backbone(rescued).config.recipe
    assert (out / "checkpoint.pt").read_bytes() == kept
    assert not list(out.glob(".*"))
    filling.unlink()
    finish(run.start(out))
    assert (out / "model.safetensors").read_bytes() == weights
