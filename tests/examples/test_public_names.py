"""Examples and benchmarks use what users may use: public modules of the package, and the names that these list."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A module below a package is that package's own affair.
MODULES = (
    *("backbones", "basicsr", "blur", "demo", "distractors", "finetune", "images"),
    *("losses", "mdf", "report", "runs", "scenes", "weights"),
)
PUBLIC = {"tafm_loss", *(f"tafm_loss.{name}" for name in MODULES)}


def imported(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield what a file imports of the package: modules, and names of modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def is_public(module: str, name: str | None) -> bool:
    if f"{module}.{name}" in PUBLIC:
        return True
    return module in PUBLIC and (name is None or name in importlib.import_module(module).__all__)


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_no_private_name_of_the_package_is_imported(folder: str) -> None:
    private = {
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path in (ROOT / folder).rglob("*.py")
        for module, name in imported(path)
        if module.partition(".")[0] == "tafm_loss" and not is_public(module, name)
    }
    assert not private
