"""The demo's table and picture, as README.md shows them.

    python benchmarks/demo.py

Runs `tafm-loss demo` with its defaults, and writes results/demo.json and docs/demo.jpg.
"""

import io
import tempfile
from pathlib import Path

from _common import RESULTS, ROOT, command_line, metadata, write_result
from PIL import Image

from examples._common import write_atomically
from tafm_loss.demo import run_demo

QUALITY = 88


def main() -> None:
    """Run the demo and keep what README.md shows of it."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(out=Path(folder))
        with Image.open(Path(folder) / "demo.png") as picture:
            encoded = io.BytesIO()
            picture.convert("RGB").save(encoded, "JPEG", quality=QUALITY, optimize=True)
    write_atomically(ROOT / "docs" / "demo.jpg", encoded.getvalue())
    # An empty heading would leave the column of names without one.
    table = {"columns": ["Arm", *result.head[1:]], "rows": result.rows, "caption": " ".join(result.notes)}
    write_result(RESULTS / "demo.json", {"table": table, "metadata": metadata(command_line())})
    print(result)


if __name__ == "__main__":
    main()
