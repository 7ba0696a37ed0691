"""What a long run may meet: a kill, a full disk, several processes. In processes of their own, and slow."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tafm_loss.weights.loading import load_backbone

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kills by POSIX signals")]

RUN = Path(__file__).with_name("small_run.py")
STEPS = 48


def start(out: Path, *arguments: str, launcher: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, str(RUN), str(out), *(arguments or (str(STEPS),))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("unbroken")
    finish(start(out))
    return json.loads((out / f"done-{STEPS}").read_text())


def test_a_run_that_is_killed_anywhere_ends_bit_for_bit_where_an_unbroken_one_does(
    tmp_path: Path, unbroken: dict[str, Any]
) -> None:
    draws = random.Random(0)
    cut_short = 0
    for attempt in range(10):
        out = tmp_path / str(attempt)
        process = start(out)
        while not (out / "checkpoint.pt").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        time.sleep(draws.uniform(0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        cut_short += not (out / f"done-{STEPS}").exists()
        finish(start(out, str(STEPS), "resume"))
        assert json.loads((out / "done-resume").read_text()) == unbroken, attempt
        assert load_backbone(out).sha256
        lines = (out / "history.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == unbroken["history"]
    assert cut_short >= 5  # or the kills came too late to tell anything


def test_two_processes_give_what_one_does(tmp_path: Path) -> None:
    # Ten steps: Adam divides gradients near zero by themselves, so that rounding errors grow with every step.
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(one, "10"))
    # accelerate's own launcher starts several processes on GPUs alone.
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    finish(start(two, "10", launcher=launcher, env={**os.environ, "ACCELERATE_USE_CPU": "true"}))
    alone, together = (json.loads((out / "done-10").read_text()) for out in (one, two))
    assert (alone["processes"], together["processes"]) == (1, 2)
    losses = [[row["loss"] for row in run["history"]] for run in (alone, together)]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    first, second = (load_backbone(out).state() for out in (one, two))
    for name, weights in first.items():
        # Ten steps of a rate that averages 1e-3 move a weight by 1e-2.
        assert (weights - second[name]).abs().mean() < 1e-3, name


def test_a_full_disk_costs_a_warning_and_the_newest_checkpoint_at_most(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        out = disk / "out"
        finish(start(out, "2"))
        kept = (out / "checkpoint.pt").read_bytes()
        for name in ("model.safetensors", "config.json", "done-2", "history.jsonl"):
            (out / name).unlink()
        filling = disk / "filling"
        with open(filling, "wb", buffering=0) as file:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            file.write(b"0" * max(0, free - 40_000))
        # Room for the history; neither for a second checkpoint nor for the weights.
        process = start(out, "2", "resume")
        _, errors = process.communicate(timeout=300)
        assert process.returncode != 0 and "No space left" in errors
        assert (out / "checkpoint.pt").read_bytes() == kept
        assert not list(out.glob("*.tmp")) and not list(out.glob(".*.tmp"))
        filling.unlink()
        finish(start(out, "2", "resume"))
        assert load_backbone(out).config.recipe
    finally:
        subprocess.run(["umount", str(disk)], check=True)
