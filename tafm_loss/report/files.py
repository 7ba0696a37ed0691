"""The report on disk: figures as JSON, and a picture of them."""

import importlib.util
import json
from pathlib import Path

from tafm_loss._files import write_atomically, write_figure
from tafm_loss.report.figure import Reports, plot_report

__all__ = ["FIGURES_FILE", "PICTURE_FILE", "write_reports"]

FIGURES_FILE = "report.json"
PICTURE_FILE = "report.png"


def write_reports(reports: Reports, folder: Path) -> None:
    """Write reports by title to `report.json` in a folder and, where matplotlib is installed, `report.png`."""
    write_atomically(folder / FIGURES_FILE, (json.dumps(reports, indent=1, allow_nan=False) + "\n").encode())
    if importlib.util.find_spec("matplotlib") is not None:
        write_figure(plot_report(reports), folder / PICTURE_FILE)
