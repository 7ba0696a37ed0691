"""Means over steps, and what the steps cost."""

import sys
import time

import torch
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Sums since the last reset, kept on the device so that no step waits for them.

    Args:
        device: of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Forget all but the peak memory."""
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._wait = 0.0
        self._start = self._mark = time.perf_counter()

    def waiting(self) -> None:
        """Note that images are waited for."""
        self._mark = time.perf_counter()

    def training(self, images: int) -> None:
        """Note that so many images are there, over all processes, and a step begins."""
        self._wait += time.perf_counter() - self._mark
        self._steps += 1
        self._images += images

    def add(self, name: str, value: Tensor) -> None:
        """Add to a sum."""
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def means(self) -> dict[str, Tensor]:
        """Return the means over the steps."""
        return {name: total / self._steps for name, total in self._sums.items()}

    def costs(self) -> dict[str, float]:
        """Return images a second, the share of the time that was spent waiting for them, and the peak memory, MiB."""
        passed = time.perf_counter() - self._start
        return {
            "images_per_second": self._images / passed,
            "data_wait": self._wait / passed,
            "peak_memory_mib": _peak_memory(self.device) / 2**20,
        }


def _peak_memory(device: torch.device) -> float:
    """Return bytes: of tensors on a GPU, of the whole process on a CPU; NaN where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
