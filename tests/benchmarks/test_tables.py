"""The tables of the documentation are made from result files, and a difference is found."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "tables.py"


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, looking at a repository of its own."""
    spec = importlib.util.spec_from_file_location("tables", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["tables.py"])
    return module


def write_result(root: Path, name: str, rows: list[list[Any]]) -> None:
    result = {
        "table": {"columns": ["loss", "ms"], "rows": rows, "caption": "Lower is better."},
        "metadata": {"machine": "a machine", "commit": "0123456789abcdef-dirty", "command": "python x.py"},
    }
    (root / "benchmarks" / "results" / f"{name}.json").write_text(json.dumps(result))


def test_a_block_is_filled_and_the_rest_is_kept(tables: ModuleType, tmp_path: Path) -> None:
    write_result(tmp_path, "cost", [["ours", 3.5], ["a|b", 70]])
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table:cost -->\nold\n<!-- /table -->\nafter\n")
    assert tables.main() == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| loss | ms |\n| --- | ---: |\n| ours | 3.5 |\n| a\\|b | 70 |\n" in text
    assert "Lower is better. `python x.py`, a machine, commit 01234567-dirty." in text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["README.md"]
    # A table may be in any document.
    readme.write_text("nothing\n")
    other = tmp_path / "examples" / "deblurring" / "README.md"
    other.parent.mkdir(parents=True)
    other.write_text("<!-- table:cost -->\n<!-- /table -->\n")
    assert tables.main() == 0
    assert "| ours | 3.5 |" in other.read_text() and readme.read_text() == "nothing\n"


def test_check_finds_what_is_not_measured_or_differs_and_changes_nothing(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:cost -->\n<!-- /table -->\n")
    assert tables.main() == 0 and "Not measured yet" in readme.read_text()
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    assert tables.main() == 1
    monkeypatch.setattr("sys.argv", ["tables.py"])
    write_result(tmp_path, "cost", [["ours", 3.5]])
    assert tables.main() == 0
    filled = readme.read_text()
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    assert tables.main() == 0
    write_result(tmp_path, "cost", [["ours", 3.6]])
    assert tables.main() == 1
    assert "python benchmarks/tables.py" in capsys.readouterr().err
    assert readme.read_text() == filled


def test_faults_are_refused(tables: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "benchmarks" / "results"
    with pytest.raises(ValueError, match="open and close"):
        tables.fill("<!-- table:a -->\n<!-- table:b -->\n<!-- /table -->", results)
    write_result(tmp_path, "cost", [["ours"]])
    with pytest.raises(ValueError, match="no page has a block for the result files cost"):
        tables.check_placed(["nothing", "<!-- table:other -->"], results)
    with pytest.raises(ValueError, match="a row must have 2 cells"):
        tables.fill("<!-- table:cost -->\n<!-- /table -->", results)
