"""The picture of the benchmark, drawn from the result files alone."""

from pathlib import Path


def draw(results: Path, path: Path) -> None:
    """Draw."""
