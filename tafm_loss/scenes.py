"""Generated scenes: training data with no licence attached.

Dead leaves, after Lee, Mumford and Huang, "Occlusion Models for Natural Images" (IJCV 2001): shapes of power-law
size that occlude each other have the edges, the scaling and the heavy tails of photographs. Added here: leaves with
shading and 1/f texture, palettes that a scene shares, smooth and soft-edged regions, thin strokes and rows of glyphs.
"""

import math

import torch
from torch import Tensor

from tafm_loss._ambient import usual_defaults
from tafm_loss.images import LUMA

__all__ = ["generate_scenes"]

PALETTE_COLOURS = 6
TEXTURES = 4


def generate_scenes(n: int, size: int | tuple[int, int], *, generator: torch.Generator | None = None) -> Tensor:
    """Return n scenes (n, 3, H, W), RGB in [0, 1], for a size of H = W px or (H, W).

    Raises:
        ValueError: if n is negative or a side is shorter than 8 px.

    Example:
        >>> generate_scenes(2, (48, 64), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 48, 64])
    """
    height, width = (size, size) if isinstance(size, int) else size
    if n < 0 or min(height, width) < 8:
        raise ValueError(f"n must not be negative and sides at least 8 px, got n={n} and {height} x {width}")
    with usual_defaults("cpu" if generator is None else generator.device):
        scenes = [_Scene(height, width, generator).paint() for _ in range(n)]
        return torch.stack(scenes) if scenes else torch.empty(0, 3, height, width)


class _Scene:
    """One canvas, painted from back to front."""

    def __init__(self, height: int, width: int, generator: torch.Generator | None) -> None:
        self.height, self.width = height, width
        self.generator = generator
        self.palette = self._draw_palette()
        self.textures = torch.stack([self._pink_noise() for _ in range(TEXTURES)])
        self.busyness = self._uniform()
        slope = 0.5 * self.textures[0] * self._uniform()
        self.canvas = (self._colour()[:, None, None] + slope * 0.3).clamp(0, 1).expand(3, height, width).clone()

    def paint(self) -> Tensor:
        area = self.height * self.width
        self._paint_leaves(int(area * 0.011 * (0.1 + self.busyness)))
        for _ in range(int(self._uniform() * 6)):
            self._paint_stroke()
        if self._uniform() < 0.3:
            self._paint_glyphs()
        noise = torch.randn(self.canvas.shape, generator=self.generator) * (0.012 * self._uniform() ** 2)
        return (self.canvas + noise).clamp(0, 1)

    def _uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _draw_palette(self) -> Tensor:
        """Colours whose lightness varies more than their hue, as in photographs."""
        lightness = self._uniform(0.25, 0.65) + 0.22 * torch.randn(PALETTE_COLOURS, 1, generator=self.generator)
        tint = torch.randn(1, 3, generator=self.generator) * 0.05
        chroma = torch.randn(PALETTE_COLOURS, 3, generator=self.generator) * self._uniform(0.02, 0.1)
        luma = torch.tensor(LUMA)
        chroma = chroma + tint
        return (lightness + chroma - (chroma * luma).sum(1, keepdim=True)).clamp(0, 1)

    def _colour(self) -> Tensor:
        index = min(int(self._uniform() * PALETTE_COLOURS), PALETTE_COLOURS - 1)
        jitter = torch.randn(3, generator=self.generator) * 0.03 + self._uniform(-0.15, 0.15)
        return (self.palette[index] + jitter).clamp(0.01, 0.99)

    def _pink_noise(self) -> Tensor:
        """A field of unit variance whose amplitude falls as 1 / f to a power between 0.6 and 1.8, often oriented."""
        fy = torch.fft.fftfreq(self.height)[:, None]
        fx = torch.fft.rfftfreq(self.width)[None]
        angle, stretch = self._uniform(0, math.pi), 1 + 5 * self._uniform() ** 3
        along = fx * math.cos(angle) + fy * math.sin(angle)
        across = (fy * math.cos(angle) - fx * math.sin(angle)) * stretch
        frequency = (along.square() + across.square()).sqrt().clamp(min=1 / max(self.height, self.width))
        spectrum = torch.fft.rfft2(torch.randn(self.height, self.width, generator=self.generator))
        field = torch.fft.irfft2(spectrum * frequency ** -self._uniform(0.6, 1.8), s=(self.height, self.width))
        field = field - field.mean()
        scaled: Tensor = field / field.std().clamp(min=1e-6)
        return scaled

    def _paint_leaves(self, count: int) -> None:
        """Large leaves anywhere, small ones in clusters, so that some regions stay calm."""
        largest = 0.4 * max(self.height, self.width)
        smallest = self._uniform(1.2, 5.0)
        # Radii of density r^-2, drawn through the inverse of their distribution.
        share = torch.rand(count, generator=self.generator)
        radii = 1 / (1 / smallest - share * (1 / smallest - 1 / largest))
        clusters = [(self._uniform(0, self.height), self._uniform(0, self.width)) for _ in range(4)]
        spread = self._uniform(0.08, 0.4) * max(self.height, self.width)
        for radius in radii.tolist():
            centre = (self._uniform(0, self.height), self._uniform(0, self.width))
            if radius < 0.05 * largest + smallest and self._uniform() < 0.75:
                y, x = clusters[int(self._uniform() * len(clusters)) % len(clusters)]
                offset = torch.randn(2, generator=self.generator) * spread
                centre = (y + float(offset[0]), x + float(offset[1]))
            self._paint_leaf(centre, radius)

    def _paint_leaf(self, centre: tuple[float, float], radius: float) -> None:
        aspect = self._uniform(0.25, 1.0)
        power = 2.0 if self._uniform() < 0.6 else self._uniform(3.0, 12.0)
        softness = 0.9 if self._uniform() < 0.85 else self._uniform(1.0, 4.0)
        self._paint_shape(centre, (radius, radius * aspect), self._uniform(0, math.pi), power, softness)

    def _paint_stroke(self) -> None:
        centre = (self._uniform(0, self.height), self._uniform(0, self.width))
        length = self._uniform(0.1, 0.6) * max(self.height, self.width)
        self._paint_shape(centre, (length, self._uniform(0.6, 1.8)), self._uniform(0, math.pi), 10.0, 0.9)

    def _paint_shape(
        self, centre: tuple[float, float], axes: tuple[float, float], angle: float, power: float, softness: float
    ) -> None:
        """Paint a superellipse with shading, texture and an edge `softness` px wide."""
        if not (-axes[0] < centre[0] < self.height + axes[0] and -axes[0] < centre[1] < self.width + axes[0]):
            return
        reach = math.hypot(*axes) + softness + 1
        top, bottom = max(0, int(centre[0] - reach)), min(self.height, int(centre[0] + reach) + 1)
        left, right = max(0, int(centre[1] - reach)), min(self.width, int(centre[1] + reach) + 1)
        y = torch.arange(top, bottom)[:, None] - centre[0]
        x = torch.arange(left, right)[None] - centre[1]
        u = (x * math.cos(angle) + y * math.sin(angle)) / axes[0]
        v = (y * math.cos(angle) - x * math.sin(angle)) / axes[1]
        distance = (u.abs() ** power + v.abs() ** power + 1e-12) ** (1 / power)
        cover = ((1 - distance) * (min(axes) / softness) + 0.5).clamp(0, 1)
        texture = self.textures[int(self._uniform() * TEXTURES) % TEXTURES, top:bottom, left:right]
        contrast = 0.0 if self._uniform() < 0.35 else 0.12 * self._uniform() ** 2
        shade = (u * self._uniform(-0.12, 0.12) + v * self._uniform(-0.12, 0.12)).clamp(-0.3, 0.3)
        paint = self._colour()[:, None, None] + shade + contrast * texture
        region = self.canvas[:, top:bottom, left:right]
        region += cover * (paint - region)

    def _paint_glyphs(self) -> None:
        """Paint a block of rows of random 5 x 3 glyphs, one colour on what lies below."""
        scale = 1 + int(self._uniform() * 3)
        rows = max(1, int(self._uniform(0.05, 0.4) * self.height / (7 * scale)))
        columns = max(1, int(self._uniform(0.2, 0.8) * self.width / (4 * scale)))
        ink = torch.rand(rows, 7, columns, 4, generator=self.generator) < 0.55
        ink[:, 5:] = False
        ink[..., 3] = False
        mask = ink.float().view(rows * 7, columns * 4).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        mask = mask[: self.height, : self.width]
        top = int(self._uniform(0, self.height - mask.shape[0] + 1))
        left = int(self._uniform(0, self.width - mask.shape[1] + 1))
        region = self.canvas[:, top : top + mask.shape[0], left : left + mask.shape[1]]
        region += mask * (self._colour()[:, None, None] - region)
