"""A picture of what `ProgressiveNegatives` makes: mixtures of a blurry and a sharp image, and shorter exposures.

    python benchmarks/negatives_gallery.py

Writes docs/negatives.png. The photograph comes with scikit-image: chelsea (CC0, Stefan van der Walt). Beside each
negative is what it makes of a point of light, brightened.
"""

import argparse
import io
from pathlib import Path

import torch
from _common import ROOT
from blur_gallery import above, as_image, beside, cut, text, tile
from PIL import Image
from skimage import data
from torch import Tensor

from examples._common import write_atomically
from tafm_loss import BlurSynthesizer, ProgressiveNegatives

SHARPNESSES = (0.0, 0.25, 0.5, 0.75)
EXTENT = 24.0
SEED = 10
# Top, left, height and width, px.
EYE = (96, 132, 64, 84)
POINT = 43

WIDTH = 248
POINT_WIDTH = 129
LABEL_WIDTH = 150
GAP = 6
SPACE = 14


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", metavar="DIR", help="where to write (docs)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_png(negatives_gallery(), out / "negatives.png")


def negatives_gallery() -> Image.Image:
    """Return a row for each kind of negative, a column for each sharpness, and the sharp image in the last column."""
    photograph = as_image(data.chelsea())
    point = torch.zeros(1, 3, POINT, POINT)
    point[..., POINT // 2, POINT // 2] = 1
    titles = [f"sharpness {sharpness:g}" for sharpness in SHARPNESSES]
    titles[0] = "blurry: 0"
    rows = [[text("", LABEL_WIDTH), *(text(title, WIDTH) for title in [*titles, "sharp"])]]
    for kind in ("blend", "exposure"):
        photographs = [cut(image, EYE) for image in series(kind, photograph, "srgb")]
        # The root lets a faint path be seen beside a bright point.
        points = [(light / light.amax()).clamp(min=0).sqrt() for light in series(kind, point, None)]
        cells = [
            above([tile(image, WIDTH), tile(light, POINT_WIDTH)], GAP)
            for image, light in zip(photographs, points, strict=True)
        ]
        rows.append([text(kind, LABEL_WIDTH), *cells])
    return above([beside(row, SPACE) for row in rows], SPACE)


def series(kind: str, sharp: Tensor, transfer: str | None) -> list[Tensor]:
    """Return the negatives of rising sharpness of an image (1, 3, H, W) under one shake, and the image itself."""
    blur = BlurSynthesizer([(1 - sharpness) * EXTENT for sharpness in reversed(SHARPNESSES)], transfer=transfer)
    kernels = blur.sample(1, generator=torch.Generator().manual_seed(SEED))
    blurry = blur(sharp, kernels=kernels)[-1]
    exposure = {"kernels": kernels} if kind == "exposure" else {}
    makers = [ProgressiveNegatives(((0.0, s),), kind=kind, synthesizer=blur) for s in SHARPNESSES]
    return [*(make(blurry, sharp, **exposure)[0] for make in makers), sharp]


def write_png(picture: Image.Image, path: Path) -> None:
    """Write the picture as PNG, whole or not at all."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", optimize=True)
    write_atomically(path, encoded.getvalue())
    print(f"{path}: {picture.width} x {picture.height} px, {len(encoded.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
