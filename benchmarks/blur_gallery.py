"""Pictures of what `BlurSynthesizer` does, as README.md shows them: its kinds of blur, and the streaks that lamps draw.

    python benchmarks/blur_gallery.py

Writes docs/blur_kinds.jpg and docs/light_streaks.jpg. The photographs come with scikit-image: chelsea (CC0, Stefan van
der Walt) and rocket (public domain, SpaceX).
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _common import ROOT
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from torch import Tensor

from examples._common import write_atomically
from tafm_loss import BlurSynthesizer

QUALITY = 88
# README.md shows half of it, so that screens of high resolution have what they need.
WIDTH = 1800
GAP = 6
SPACE = 24
FONT_SIZE = 30
LINE = 48
LABEL_WIDTH = 170

EXTENTS = (0.0, 6.0, 12.0, 25.0)
KINDS = ("shake", "linear", "defocus", "gaussian")
ROLL_DEG = 6.0
# So much roll needs many nodes.
GRID = 9
# A bent path, which a roll changes much.
KINDS_SEED = 10
# Px; the kernels of the largest extent have 45, so that those of two points do not meet.
SPACING = 48
# Top, left, height and width, px.
EYE = (85, 120, 2 * SPACING, 2 * SPACING)
WHOLE = (0, 0, 4 * SPACING, 6 * SPACING)

LAMPS = (288, 60, 132, 160)
STREAK_EXTENT = 35.0
STREAK_SEED = 10
GAIN = 30.0


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", metavar="DIR", help="where to write (docs)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_jpeg(blur_kinds(), out / "blur_kinds.jpg")
    write_jpeg(light_streaks(), out / "light_streaks.jpg")


def blur_kinds() -> Image.Image:
    """Return a row for each kind of blur and a column for each extent: a photograph, and points blurred alike."""
    photograph = as_image(data.chelsea())
    whole = F.interpolate(photograph, WHOLE[2:], mode="bilinear", antialias=True)
    width = (WIDTH - LABEL_WIDTH) // len(EXTENTS) - SPACE
    titles = ["sharp", *(f"extent {extent:g} px" for extent in EXTENTS[1:])]
    rows = [[text("", LABEL_WIDTH), *(text(title, width) for title in titles)]]
    for kind in KINDS:
        pairs = photograph_and_points(BlurSynthesizer(EXTENTS, kind=kind), photograph, EYE, (width - GAP) // 2)
        rows.append([text(kind, LABEL_WIDTH), *(beside(pair, GAP) for pair in pairs)])
    pairs = photograph_and_points(BlurSynthesizer(EXTENTS, roll_deg=ROLL_DEG, grid=GRID), whole, WHOLE, width)
    label = f"shake with\n{ROLL_DEG:g}° of roll\n(the whole\nimage)"
    rows.append([text(label, LABEL_WIDTH), *(above(pair, GAP) for pair in pairs)])
    return above([beside(row, SPACE) for row in rows], SPACE)


def photograph_and_points(
    blur: BlurSynthesizer, photograph: Tensor, box: Sequence[int], width: int
) -> list[tuple[Image.Image, Image.Image]]:
    """Return for each level a box of the photograph and as large a grid of points, both of the given width."""
    dots = torch.zeros(1, 1, *box[2:])
    dots[..., SPACING // 2 :: SPACING, SPACING // 2 :: SPACING] = 1
    pairs = zip(levels(blur, photograph, KINDS_SEED), levels(blur, dots, KINDS_SEED), strict=True)
    # The light of a kernel is spread thin: its brightest point is shown white.
    return [(tile(cut(level, box), width), tile(light / light.amax(), width)) for level, light in pairs]


def light_streaks() -> Image.Image:
    """Return a photograph of lamps, and three ways to blur it by the same kernel."""
    photograph = as_image(data.rocket())
    ways = {
        "stored values blurred": BlurSynthesizer((STREAK_EXTENT,), transfer=None),
        "linear light blurred": BlurSynthesizer((STREAK_EXTENT,)),
        f"the same, highlight_gain={GAIN:g}": BlurSynthesizer((STREAK_EXTENT,), highlight_gain=GAIN),
    }
    width = (WIDTH - 3 * GAP) // (1 + len(ways))
    shown = {"sharp": photograph} | {title: levels(blur, photograph, STREAK_SEED)[0] for title, blur in ways.items()}
    cells = [above([text(title, width), tile(cut(image, LAMPS), width)], GAP) for title, image in shown.items()]
    return beside(cells, GAP)


def as_image(pixels: np.ndarray) -> Tensor:
    """Return pixels (H, W, 3) of 8 bits as an image (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def levels(blur: BlurSynthesizer, image: Tensor, seed: int) -> Tensor:
    """Return the levels (L, 1, C, H, W) of an image (1, C, H, W); the same seed gives the same camera path."""
    blurred: Tensor = blur(image, generator=torch.Generator().manual_seed(seed))
    return blurred


def cut(image: Tensor, box: Sequence[int]) -> Tensor:
    """Return the part of images (..., H, W) in a box of top, left, height and width."""
    top, left, height, width = box
    return image[..., top : top + height, left : left + width]


def tile(image: Tensor, width: int) -> Image.Image:
    """Return an image (1, C, H, W) in [0, 1] as a picture of the given width."""
    pixels = (image[0].expand(3, -1, -1).permute(1, 2, 0) * 255).round().byte()
    picture = Image.fromarray(pixels.numpy())
    return picture.resize((width, round(width * picture.height / picture.width)), Image.Resampling.BICUBIC)


def text(words: str, width: int) -> Image.Image:
    """Return lines of text, centred."""
    picture = Image.new("RGB", (width, LINE * (1 + words.count("\n"))), "white")
    middle = (width / 2, picture.height / 2)
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(picture).text(middle, words, fill="black", font=font, anchor="mm", align="center", spacing=10)
    return picture


def beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    """Return pictures in a row, centred vertically."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    joined = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, (joined.height - picture.height) // 2))
        left += picture.width + gap
    return joined


def above(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    """Return pictures in a column."""
    turned = [picture.transpose(Image.Transpose.TRANSPOSE) for picture in pictures]
    return beside(turned, gap).transpose(Image.Transpose.TRANSPOSE)


def write_jpeg(picture: Image.Image, path: Path) -> None:
    """Write the picture as JPEG, whole or not at all."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=QUALITY, optimize=True)
    write_atomically(path, encoded.getvalue())
    print(f"{path}: {picture.width} x {picture.height} px, {len(encoded.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
