"""Scenes in, aligned crops out."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tafm_loss.blur.pairs import crop_like
from tafm_loss.distractors import grey
from tafm_loss.finetune.sources import Graded, Images, none_usable, open_source

__all__ = ["GradedCrops", "SceneCrops"]

# Brightness, contrast and saturation are each multiplied by 1 +- this.
COLOUR_JITTER = 0.2


class GradedCrops(NamedTuple):
    """Crops of N scenes: `levels` (L, N, 3, S, S) in [0, 1], sharp first; `extents` (L, N) px. L is 1 for images."""

    levels: Tensor
    extents: Tensor


class SceneCrops:
    """Random crops of scenes, the same for a given generator.

    Crop, orientation and colour are drawn once per scene, before any blurring, so that all levels of a scene are
    aligned. The TAFM paper draws them for each member of a triplet anew.

    Args:
        images: as `open_source` takes them.
        crop_size: px.

    Raises:
        TypeError: if `images` is nothing of that kind.
        ValueError: if it holds no item of at least `crop_size`, or one that is no image.
    """

    def __init__(self, images: Images, crop_size: int) -> None:
        if crop_size < 1:
            raise ValueError(f"crop_size must be at least 1 px, got {crop_size}")
        self.crop_size = crop_size
        self.source = open_source(images, crop_size)
        if not len(self.source):
            raise ValueError("images must hold at least one, got none")
        self._items = torch.arange(len(self.source))
        numbers = {scene: number for number, scene in enumerate(dict.fromkeys(self.source.scenes))}
        self._scene_of = torch.tensor([numbers[scene] for scene in self.source.scenes])

    @property
    def description(self) -> str:
        """What the scenes are, in words."""
        part = "" if len(self) == len(self.source) else f" ({len(self)} of {len(self.source)} items)"
        return self.source.description + part

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def draw(self, count: int, generator: torch.Generator, part: slice = slice(None)) -> GradedCrops:
        """Return crops of different scenes, if there are as many, or else of different items.

        An item that cannot be used is replaced by another. Which one does not depend on the part, nor on what was
        drawn before.

        Args:
            count: how many.
            generator: where random numbers come from; it moves on by as much for any part.
            part: which of them to read and return. The parts of several processes, put together, are the whole.

        Raises:
            ValueError: if no item can be used, or the part is empty.
        """
        slots = range(count)[part]
        if not slots:
            raise ValueError(f"a draw must hold at least one crop, got {part} of {count}")
        order = self._items[torch.randperm(len(self), generator=generator)]
        order = order[_scenes_apart(self._scene_of[order])]
        seeds = torch.randint(2**32, (count,), generator=generator).tolist()
        crops = [self._crop(self._first_usable(order, slot, count), seeds[slot]) for slot in slots]
        levels, extents = zip(*crops, strict=True)
        return GradedCrops(torch.stack(levels, dim=1), torch.stack(extents, dim=1))

    def split(self, share: float, generator: torch.Generator) -> tuple["SceneCrops", "SceneCrops"]:
        """Return two parts without a common scene; the second holds about this share of the scenes.

        Args:
            share: in (0, 1); each part gets at least one scene.
            generator: where random numbers come from.

        Raises:
            ValueError: for another share, or if there is but one scene.
        """
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {share}")
        scenes = self._scene_of[self._items].unique()
        if len(scenes) < 2:
            raise ValueError(f"a split needs at least 2 scenes, got {len(scenes)} in {self.description}")
        count = min(max(1, round(share * len(scenes))), len(scenes) - 1)
        chosen = scenes[torch.randperm(len(scenes), generator=generator)[:count]]
        second = torch.isin(self._scene_of[self._items], chosen)
        return self._part(~second), self._part(second)

    def centres(self, most: int, size: int = 160) -> Tensor:
        """Return the central parts (M, 3, S, S) of the sharp levels of items that are spread evenly over all.

        Args:
            most: the largest M; items that cannot be used make it smaller.
            size: px, the largest S; it is smaller if one of the items is.

        Raises:
            ValueError: if no item can be used.
        """
        images = []
        for items in self._items.tensor_split(min(most, len(self))):
            graded = self.source.first_usable(items.tolist())
            if graded is not None:
                # A copy, so that of large images only the centres are held.
                images.append(_centre(graded.levels[0], size).clone())
        if not images:
            raise none_usable(list(self.source.faults.values()))
        side = min(min(image.shape[1:]) for image in images)
        return torch.stack([_centre(image, side) for image in images])

    def _part(self, chosen: Tensor) -> "SceneCrops":
        part = copy.copy(self)
        part._items = self._items[chosen]
        return part

    def _first_usable(self, order: Tensor, slot: int, count: int) -> Graded:
        graded = self.source.first_usable(_candidates(order, slot, count))
        if graded is None:
            raise none_usable(list(self.source.faults.values()))
        return graded

    def _crop(self, graded: Graded, seed: int) -> Graded:
        y, x, *rest = torch.rand(8, generator=torch.Generator().manual_seed(seed)).tolist()
        height, width = graded.levels.shape[-2:]
        size = self.crop_size
        top, left = int(y * (height - size + 1)), int(x * (width - size + 1))
        levels = graded.levels[..., top : top + size, left : left + size]
        return Graded(_recoloured(_turned(levels, *rest[:3]), *rest[3:]), graded.extents)


def _scenes_apart(scenes: Tensor) -> Tensor:
    """Return an order of items in which the first of each scene comes before the second of any, and so on."""
    by_scene = scenes.argsort(stable=True)
    grouped = scenes[by_scene]
    rounds = torch.empty_like(scenes)
    rounds[by_scene] = torch.arange(len(scenes)) - torch.searchsorted(grouped, grouped)
    return rounds.argsort(stable=True)


def _candidates(order: Tensor, slot: int, count: int) -> Iterator[int]:
    """Yield the item of a slot, then those that take its place: first the ones that no other slot falls back on."""
    first = slot % len(order)
    yield from order[first::count].tolist()
    yield from order.roll(-first).tolist()


def _turned(levels: Tensor, *draws: float) -> Tensor:
    """Return images in one of the eight orientations, chosen by three numbers in [0, 1)."""
    upside_down, mirrored, transposed = (draw < 0.5 for draw in draws)
    levels = levels.flip(-2) if upside_down else levels
    levels = levels.flip(-1) if mirrored else levels
    return levels.transpose(-1, -2) if transposed else levels


def _recoloured(levels: Tensor, *draws: float) -> Tensor:
    """Return levels (L, 3, H, W) of other brightness, contrast and saturation, chosen by three numbers in [0, 1)."""
    brightness, contrast, saturation = (1 + COLOUR_JITTER * (2 * draw - 1) for draw in draws)
    levels = brightness * levels
    # That of the sharp level for all: one change of colour is due to a scene. In float64 it does not depend on threads.
    mean = grey(levels[:1]).mean(dtype=torch.float64).float()
    levels = mean + contrast * (levels - mean)
    luma = grey(levels)
    return (luma + saturation * (levels - luma)).clamp(0, 1)


def _centre(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    return crop_like(image, image.new_empty(min(size, height), min(size, width)))
