"""One run, and the file that keeps what came out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples._common import write_atomically


class Run:
    """One run: an arm with a ratio and a seed in a stage, and the file that keeps what came out."""

    def __init__(self, folder: Path, stage: str, seed: int, arm: str, ratio: float) -> None:
        self.stage, self.seed, self.arm, self.ratio = stage, seed, arm, ratio
        self.path = folder / f"{stage}-{seed}-{arm.replace(' ', '_').replace(',', '')}-{ratio:g}.json"

    def figures(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what came out, or None if the run is not there.

        Raises:
            ValueError: if it saw other batches or was made with other settings.
        """
        if not self.path.exists():
            return None
        found: dict[str, Any] = json.loads(self.path.read_text())
        for fact in ("batches", "settings"):
            if fact in found and found[fact] != facts[fact]:
                raise ValueError(f"{self.path} has {fact} {found[fact]}, now they are {facts[fact]}; move it away")
        return found

    def keep(self, figures: dict[str, Any]) -> None:
        """Write what came out, with what it came from."""
        about = {"stage": self.stage, "seed": self.seed, "arm": self.arm, "ratio": self.ratio}
        write_atomically(self.path, json.dumps(about | figures).encode())

    @classmethod
    def found(cls, folder: Path, stage: str) -> list[dict[str, Any]]:
        """Return what came out of all runs of a stage that are there."""
        return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{stage}-*.json"))]
