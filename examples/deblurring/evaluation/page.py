"""The page of a result: crops of a few images, chosen by a rule, in one HTML file that fetches nothing."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.deblurring.data.files import as_pixels, encode_png
from examples.deblurring.data.pairs import PairSample
from examples.deblurring.evaluation.methods import open_method
from examples.deblurring.evaluation.results import Result, open_data
from examples.deblurring.evaluation.similarity import psnr
from examples.deblurring.evaluation.tables import Table, as_html
from tafm_loss.images import read_pixels

__all__ = [
    "CROP_SIZE",
    "PLACE",
    "SAVED_IMAGES",
    "Example",
    "Panel",
    "as_document",
    "as_panels",
    "choose",
    "crop_place",
    "make_example",
    "make_gallery",
    "render_page",
]

CROP_SIZE = 160
STEP = 8
SAVED_IMAGES = "images"
PLACE = (
    f"Crops of {CROP_SIZE} px, twice enlarged without interpolation, are at the place where the input's squared error "
    "is largest."
)
ENLARGEMENT = 2

# Crops keep their size, whatever the window's: a picture that is scaled again would show the scaling.
STYLE = """
:root { color-scheme: light dark; --text: #1c1f23; --soft: #5c636b; --line: #d9dde2; --ground: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e9; --soft: #9aa2ab; --line: #3a4047; --ground: #15181b; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 112rem; color: var(--text); background: var(--ground);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; overflow-wrap: anywhere; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.notes { color: var(--soft); font-size: .87rem; margin: .4rem 0; max-width: 60rem; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; }
img { display: block; image-rendering: pixelated; max-width: none; }
.panels figure { overflow: hidden; max-width: 100%; }
figcaption { font-size: .87rem; margin-top: .3rem; overflow-wrap: anywhere; }
figcaption span { display: block; color: var(--soft); }
"""


class Panel(NamedTuple):
    """One picture: what it is of, its pixels (3, H, W) in uint8, and a line below it."""

    label: str
    pixels: Tensor
    caption: str


class Example(NamedTuple):
    """The pictures of one image side by side, under a heading."""

    heading: str
    panels: list[Panel]


def choose(values: Tensor, quantity: str = "gain") -> dict[int, str]:
    """Return the images with the greatest, the median and the least value, as {index: which it is}.

    Args:
        values: (N,); NaN, which is the difference of two infinite values, counts as 0.
        quantity: what the values are of, in a word.
    """
    order = values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf).argsort(stable=True).tolist()
    places = {"greatest": order[-1], "median": order[len(order) // 2], "least": order[0]}
    chosen: dict[int, str] = {}
    for which, index in places.items():
        chosen.setdefault(index, f"{which} {quantity}")
    return chosen


def make_example(heading: str, images: Sequence[tuple[str, Tensor]], sharp: Tensor) -> Example:
    """Return crops of one size and place, where the first image is furthest from the sharp one, with their PSNR.

    Args:
        heading: above them.
        images: (label, pixels) each, such as the input and what methods have made of it; (3, H, W), uint8.
        sharp: the same.
    """
    place = crop_place(images[0][1], sharp)
    panels = [
        Panel(label, pixels[place], f"crop {_decibels(pixels[place], sharp[place])}, image {_decibels(pixels, sharp)}")
        for label, pixels in images
    ]
    return Example(heading, [*panels, Panel("sharp", sharp[place], "the target")])


def crop_place(first: Tensor, second: Tensor) -> tuple[slice, ...]:
    """Return the index of the crop in which two images (3, H, W) have the largest squared difference."""
    error = (first.double() - second.double()).square().mean(0)
    height, width = error.shape
    size = min(CROP_SIZE, height), min(CROP_SIZE, width)
    density = F.avg_pool2d(error[None, None], size, stride=STEP)[0, 0]
    row, column = divmod(int(density.argmax()), density.shape[1])
    return (..., slice(row * STEP, row * STEP + CROP_SIZE), slice(column * STEP, column * STEP + CROP_SIZE))


def _decibels(pixels: Tensor, sharp: Tensor) -> str:
    if torch.equal(pixels, sharp):
        return "equal to the target"
    return f"{float(psnr(pixels[None] / 255, sharp[None] / 255)):.2f} dB"


def make_gallery(
    results: Mapping[str, Result], values: Tensor, device: torch.device, *, quantity: str = "gain"
) -> list[Example]:
    """Return crops of the images with the greatest, the median and the least of some values, of all methods.

    Restored images that were saved are read; others are restored once more.

    Args:
        results: by label, on the same images; those of the input are left out, for it is shown in any case.
        values: what the images are chosen by, in the order of the first result's rows.
        device: where images are restored.
        quantity: what the values are of, in a word.

    Raises:
        OSError: if data or weights are gone.
        ValueError: if they have changed.
    """
    first = next(iter(results.values()))
    chosen = {first.rows.names[index]: which for index, which in choose(values, quantity).items()}
    samples = _read(first, list(chosen))
    restored = {
        label: _restored(result, samples, device)
        for label, result in results.items()
        if result.settings.network is not None
    }
    return [
        make_example(
            f"{name}: {which}",
            [("input", samples[name].blurred), *((label, images[name]) for label, images in restored.items())],
            samples[name].sharp,
        )
        for name, which in chosen.items()
    ]


def _read(result: Result, names: list[str]) -> dict[str, PairSample]:
    pairs = open_data(result.settings)
    index_of = {pair.name: index for index, pair in enumerate(pairs.pairs)}
    if gone := [name for name in names if name not in index_of]:
        raise ValueError(f"{result.settings.root} has no image {gone[0]} any more: evaluate it anew")
    return {name: pairs[index_of[name]] for name in names}


def _restored(result: Result, samples: Mapping[str, PairSample], device: torch.device) -> dict[str, Tensor]:
    files = {name: result.folder / SAVED_IMAGES / f"{name}.png" for name in samples}
    if all(file.is_file() for file in files.values()):
        return {name: read_pixels(file) for name, file in files.items()}
    method = open_method(result.settings.network, device)
    return {name: as_pixels(method(sample.blurred.to(device) / 255)) for name, sample in samples.items()}


def render_page(title: str, tables: Sequence[Table], rule: str, examples: Sequence[Example]) -> str:
    """Return the page.

    Args:
        title: of the page.
        tables: above the pictures.
        rule: how the images were chosen, and where the crops are; or why there is none. "" leaves the pictures out.
        examples: what is shown of them.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", *map(as_html, tables)]
    if rule:
        parts += ["<h2>Crops</h2>", f'<p class="notes">{html.escape(rule)}</p>', *map(_example, examples)]
    return as_document(title, "\n".join(parts))


def as_document(title: str, body: str) -> str:
    """Return a page of its own, in the style of all, of what is HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _example(example: Example) -> str:
    return f"<h2>{html.escape(example.heading)}</h2>\n{as_panels(example.panels)}"


def as_panels(panels: Sequence[Panel]) -> str:
    """Return pictures side by side, which are part of the text."""
    figures = "\n".join(map(_panel, panels))
    return f'<div class="panels">\n{figures}\n</div>'


def _panel(panel: Panel) -> str:
    height, width = (ENLARGEMENT * side for side in panel.pixels.shape[-2:])
    data = base64.b64encode(encode_png(panel.pixels)).decode()
    label = html.escape(panel.label)
    return (
        f'<figure style="width: {width}px"><img src="data:image/png;base64,{data}" '
        f'width="{width}" height="{height}" alt="{label}">'
        f"<figcaption>{label}<span>{html.escape(panel.caption)}</span></figcaption></figure>"
    )
