"""The demo's table and picture, as README.md shows them.

    python benchmarks/demo.py --trunks TRUNKS

Runs `tafm-loss demo` with its defaults, measures LPIPS, DISTS and ST-LPIPS as well, and writes results/demo.json and
docs/demo.jpg. TRUNKS holds alexnet-features.safetensors and vgg16-features.safetensors.
"""

import argparse
import io
import tempfile
from pathlib import Path

from _common import RESULTS, ROOT, command_line, metadata, write_result
from PIL import Image

from examples._common import write_atomically
from examples.deblurring.evaluation.perceptual import load_perceptual
from tafm_loss.demo import run_demo

QUALITY = 88


# How each is headed.
PERCEPTUAL = {"lpips": "LPIPS alex (lower)", "dists": "DISTS (lower)", "stlpips": "ST-LPIPS alex (lower)"}
DIGITS = 4


def main() -> None:
    """Run the demo and keep what README.md shows of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", type=Path, metavar="DIR", help="of AlexNet and VGG16 (default: torchvision's own)")
    trunks = parser.parse_args().trunks
    metrics = {title: (load_perceptual(name, trunks=trunks), DIGITS) for name, title in PERCEPTUAL.items()}
    # Before the picture is written, which is in the repository.
    origin = metadata(command_line())
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(out=Path(folder), metrics=metrics)
        with Image.open(Path(folder) / "demo.png") as picture:
            encoded = io.BytesIO()
            picture.convert("RGB").save(encoded, "JPEG", quality=QUALITY, optimize=True)
    write_atomically(ROOT / "docs" / "demo.jpg", encoded.getvalue())
    # An empty heading would leave the column of names without one.
    table = {"columns": ["Arm", *result.head[1:]], "rows": result.rows, "caption": " ".join(result.notes)}
    write_result(RESULTS / "demo.json", {"table": table, "metadata": origin})
    print(result)


if __name__ == "__main__":
    main()
