"""What all pictures share: matplotlib is optional, and files are written whole."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from tafm_loss._files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["require_matplotlib", "write_figure"]


def require_matplotlib() -> None:
    """Raise unless matplotlib is there, before any time is spent on what it should draw.

    Raises:
        ModuleNotFoundError: naming the extra that brings it.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('pictures need matplotlib: pip install "tafm-loss[plots]"') from error


def write_figure(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
