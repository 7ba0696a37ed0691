"""One run, and the file that keeps what came out."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples._common import write_atomically


@dataclasses.dataclass(frozen=True)
class Run:
    """An arm with a ratio and a seed in a stage."""

    folder: Path
    stage: str
    seed: int
    arm: str
    ratio: float

    @property
    def path(self) -> Path:
        """The file that keeps what came out."""
        arm = "".join(letter if letter.isalnum() else "_" for letter in self.arm)
        return self.folder / f"{self.stage}-{self.seed}-{arm}-{self.ratio:g}.json"

    def figures(self) -> dict[str, Any]:
        """Return what came out."""
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found

    def keep(self, figures: Mapping[str, Any]) -> None:
        """Write what came out, with what it came from."""
        about = {"stage": self.stage, "seed": self.seed, "arm": self.arm, "ratio": self.ratio}
        write_atomically(self.path, json.dumps(about | dict(figures)).encode())

    @classmethod
    def found(cls, folder: Path, stage: str) -> list[dict[str, Any]]:
        """Return what came out of all runs of a stage that are there."""
        return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{stage}-*.json"))]
