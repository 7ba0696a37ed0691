"""The page holds all it needs, says which crop is which, and takes any name."""

import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from examples.deblurring.evaluation.page import CROP_SIZE, Example, Panel, choose, make_example, render_page
from examples.deblurring.evaluation.tables import Cell, Table

TABLE = Table("Methods", ["", "PSNR"], [[Cell("mine"), Cell("30")]])


def pixels(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def decoded(page: str) -> list[Tensor]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    images = [np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]
    return [torch.from_numpy(image).permute(2, 0, 1) for image in images]


def test_nothing_comes_from_elsewhere_and_no_script_runs() -> None:
    page = render_page("a", [TABLE], "by a rule", [make_example("x", [("input", pixels(20, 30))], pixels(20, 30, 1))])
    assert "<script" not in page and "http" not in page and "url(" not in page
    assert set(re.findall(r'src="([^:]+):', page)) == {"data"}
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_odd_names_are_text() -> None:
    odd = '<img src=x onerror="alert(1)">&'
    page = render_page(odd, [Table(odd, ["", odd], [[Cell(odd), Cell(odd)]], [odd])], odd, [
        Example(odd, [Panel(odd, pixels(4, 4), odd)])
    ])  # fmt: skip
    assert "<img src=x" not in page and 'alt="&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;"' in page


def test_crops_are_shown_pixel_by_pixel_at_twice_their_size() -> None:
    image = pixels(40, 30)
    page = render_page("a", [], "rule", [Example("x", [Panel("input", image, "crop")])])
    assert torch.equal(decoded(page)[0], image)
    assert 'width="60" height="80"' in page and "image-rendering: pixelated" in page


def test_the_crop_is_where_the_input_is_worst_and_the_same_for_all() -> None:
    sharp = torch.full((3, 400, 500), 128, dtype=torch.uint8)
    blurred, restored = sharp.clone(), sharp.clone()
    blurred[:, 200:360, 320:480] = 138
    blurred[:, :20, :20] = 148
    restored[:, 200:360, 320:480] = 129
    example = make_example("x", [("input", blurred), ("mine", restored)], sharp)
    assert [panel.label for panel in example.panels] == ["input", "mine", "sharp"]
    assert [panel.pixels.shape for panel in example.panels] == [(3, CROP_SIZE, CROP_SIZE)] * 3
    assert [int(panel.pixels.amin()) for panel in example.panels] == [138, 129, 128]
    assert example.panels[0].caption.startswith(f"crop {20 * math.log10(255 / 10):.2f} dB, image ")
    assert example.panels[1].caption.startswith(f"crop {20 * math.log10(255):.2f} dB")
    error = (blurred.double() - sharp.double()).square().mean()
    assert example.panels[0].caption.endswith(f"image {10 * math.log10(255**2 / float(error)):.2f} dB")


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ([0.1, 0.5, 0.3], {1: "greatest gain", 2: "median gain", 0: "least gain"}),
        ([0.1], {0: "greatest gain"}),
        ([0.2, 0.1], {0: "greatest gain", 1: "least gain"}),
        ([math.inf, math.nan, -1.0], {0: "greatest gain", 1: "median gain", 2: "least gain"}),
    ],
)
def test_the_greatest_the_median_and_the_least_gain_are_chosen_once_each(
    gains: list[float], chosen: dict[int, str]
) -> None:
    assert choose(torch.tensor(gains)) == chosen


def test_a_method_that_is_called_input_does_not_hide_the_input() -> None:
    blurred, restored, sharp = (pixels(20, 30, seed) for seed in range(3))
    panels = make_example("x", [("input", blurred), ("input", restored)], sharp).panels
    assert [panel.label for panel in panels] == ["input", "input", "sharp"]
    assert torch.equal(panels[0].pixels, blurred) and torch.equal(panels[1].pixels, restored)
