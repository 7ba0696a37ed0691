"""What it costs to load weights that are verified: in time, and in memory beside the size of the file.

The bundled backbone in a process that has imported torch, and a file of 300 MB, read, hashed and filled into a network,
beside what must be done at least (reading and hashing alone) and beside safetensors' own loader, which does not verify.
Arms in interleaved rounds of one process; peak memory in a process of its own for each. Writes
results/weights_loading.json:

    python benchmarks/weights_loading.py
"""

import argparse
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from _common import RESULTS, command_line, markdown, metadata, peak, reset_peak, write_result
from torch import Tensor, nn

from tafm_loss import Backbone, BackboneConfig, Tap, load_backbone, save_backbone

WIDTH = 5000
LAYERS = 3
MEGABYTE = 10**6
ROUNDS = 9

BUNDLED = """
import time, torch
started = time.perf_counter()
from tafm_loss import load_backbone
imported = time.perf_counter()
load_backbone("tafm-compact")
print(imported - started, time.perf_counter() - imported)
"""


class Wide(nn.Module):
    """Layers of many weights that do little with an image."""

    def __init__(self, device: str) -> None:
        super().__init__()
        layers = (nn.Conv2d(WIDTH, WIDTH, 1, bias=False, device=device) for _ in range(LAYERS))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.layers(images.mean(1, keepdim=True).expand(-1, WIDTH, -1, -1))}


CONFIG = BackboneConfig("wide", "wide", {"out": Tap(WIDTH, 1)}, (0.0,) * 3, (1.0,) * 3, 1)


def read_and_hash(path: Path) -> None:
    hashlib.sha256(path.read_bytes()).hexdigest()


def library(path: Path) -> None:
    tensors = safetensors.torch.load(path.read_bytes())
    Wide("meta").load_state_dict(tensors, assign=True)


def ours(path: Path) -> None:
    load_backbone(path.parent, module=Wide("meta"))


ARMS: dict[str, Callable[[Path], None]] = {
    "load_backbone: read, verified, in the network, tried on an image": ours,
    "reading and hashing alone": read_and_hash,
    "safetensors.torch.load, not verified, in the network": library,
}


def seconds(path: Path) -> dict[str, float]:
    """Return the median seconds of each arm."""
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(ROUNDS):
        for name, arm in ARMS.items():
            started = time.perf_counter()
            arm(path)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def memory(name: str, path: Path) -> float:
    """Return by how many megabytes a process grows that runs one arm."""
    command = [sys.executable, __file__, "--arm", name, "--file", str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def grow(name: str, path: Path) -> None:
    before = reset_peak()
    ARMS[name](path)
    print((peak() - before) * 2**20 / MEGABYTE)


def bundled() -> tuple[float, float]:
    """Return the median seconds of importing tafm_loss after torch, and of loading the bundled backbone then."""
    command = [sys.executable, "-c", BUNDLED]
    outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(ROUNDS)]
    importing, loading = zip(*(map(float, output.split()) for output in outputs), strict=True)
    return statistics.median(importing), statistics.median(loading)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "weights_loading.json")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.arm is not None:
        grow(options.arm, options.file)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = save_backbone(Backbone(Wide("cpu"), CONFIG), directory) / "model.safetensors"
        size = path.stat().st_size / MEGABYTE
        taken = seconds(path)
        grown = {name: memory(name, path) for name in ARMS}
    importing, loading = bundled()
    rows = [[f"{size:.0f} MB, {name}", f"{taken[name]:.2f} s", f"{grown[name]:.0f} MB"] for name in ARMS]
    rows.append(["`tafm-compact`, in a process that has imported the package", f"{loading:.3f} s", "-"])
    rows.append(["`import tafm_loss` after `import torch`", f"{importing:.2f} s", "-"])
    columns = ["loading weights", "time", "growth of the process"]
    result = {
        "metadata": metadata(command_line()),
        "megabytes": size,
        "seconds": taken,
        "growth_in_megabytes": grown,
        "bundled_seconds": loading,
        "import_seconds": importing,
        "table": {"columns": columns, "rows": rows, "caption": f"Medians of {ROUNDS} interleaved rounds."},
    }
    write_result(options.out, result)
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
