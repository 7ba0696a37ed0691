"""What every benchmark shares: where a figure came from, and writing it down."""

import argparse
import datetime
import io
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from examples._common import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def metadata(command: str) -> dict[str, Any]:
    """Return what must be known to get the same figures again."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": command,
        "machine": f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads, PyTorch {torch.__version__}",
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def command_line() -> str:
    """Return the command that runs this script as it was run."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script
    return " ".join(["python", str(name), *sys.argv[1:]])


def refuse_quick_results(parser: argparse.ArgumentParser, *, quick: bool, out: Path) -> None:
    """End the program if a quick run would put its figures, which mean nothing, in the place of published ones."""
    if quick and RESULTS in (out, out.parent):
        parser.error("--quick needs an --out of its own: its figures mean nothing and must not replace published ones")


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write `result` as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure of matplotlib as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column aligned to the left and all others to the right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))


def reset_peak() -> float:
    """Forget the largest size this process has had, and return its present one in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Elsewhere than on Linux what building took may hide part of the growth.
        return peak()
    return _status("VmRSS")


def peak() -> float:
    """Return the largest resident size of this process, in MiB."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status(field: str) -> float:
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(match[1]) / 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
