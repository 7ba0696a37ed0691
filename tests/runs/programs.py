"""Long runs in small, in processes of their own: how each is started, started again, and what it must end in."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[2]
# accelerate's own launcher starts several processes on GPUs alone.
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
# Times are in these. What is not there twice, such as a temporary file, is found all the same.
WITH_TIMES = ("checkpoint.pt", "history.jsonl", "events.out.tfevents")


class Program(NamedTuple):
    """How a run is started.

    Args:
        command: what Python is given, with "OUT" in the place of the folder.
        resume: what is added to go on; nothing, if the same command goes on.
        begun: whether a folder holds a run that can go on by `resume`.
    """

    command: Sequence[str]
    resume: Sequence[str] = ()
    begun: Callable[[Path], bool] = Path.exists

    def twice(self) -> "Program":
        """Return the same run by two processes."""
        return self._replace(command=[*TWO_PROCESSES, *self.command])

    def start(self, out: Path) -> "subprocess.Popen[bytes]":
        """Start it, or let it go on, in a group of processes that can be killed as one."""
        command = [sys.executable, *(str(out) if word == "OUT" else word for word in self.command)]
        command += self.resume if self.begun(out) else ()
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        out.parent.mkdir(parents=True, exist_ok=True)
        said = out.with_name("said").open("w+b")  # not a pipe, which nobody reads while the run goes on
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
        process.stdout = said
        return process


def kill(process: "subprocess.Popen[bytes]") -> bool:
    """Kill a run and all its processes; return whether it was cut short by that."""
    if process.poll() is not None:
        return False
    # Not the group: torchrun gives each of its workers one of its own.
    launcher = psutil.Process(process.pid)
    for each in [launcher, *launcher.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
            each.wait(60)
    process.wait()
    return True


def finish(process: "subprocess.Popen[bytes]") -> str:
    """Wait for a run, which must come to its end, and return what it said."""
    code = process.wait(600)
    said = output(process)
    assert code == 0, said
    return said


def output(process: "subprocess.Popen[bytes]") -> str:
    """Return what a run said so far."""
    assert process.stdout is not None
    process.stdout.seek(0)
    return process.stdout.read().decode()


def results(out: Path) -> dict[str, bytes]:
    """Return the files that a run must end in, bit for bit."""
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not path.name.startswith(WITH_TIMES)}
