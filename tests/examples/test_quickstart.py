"""The first example: it runs without a warning, and lowers what it minimises."""

import re
import runpy
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_quickstart_lowers_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    steps = re.findall(r"L1 ([\d.]+), TAFM ([\d.]+)", capsys.readouterr().out)
    first, last = ([float(value) for value in step] for step in (steps[0], steps[-1]))
    assert last[0] < first[0] and last[1] < first[1]
