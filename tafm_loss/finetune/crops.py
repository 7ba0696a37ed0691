"""Scenes in, aligned crops out, graded by a synthesizer, by a callable of the user, or as real exposures are."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tafm_loss.blur.pairs import crop_like
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.distractors import grey
from tafm_loss.finetune.sources import Graded, Images, none_usable, open_source

__all__ = ["Grade", "SceneCrops", "default_synthesizer", "grade", "scene_generators"]

Grade: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
# Brightness, contrast and saturation are each multiplied by 1 +- this.
COLOUR_JITTER = 0.2
SCENES_APART = 2**16


class SceneCrops:
    """Random crops of scenes, the same for a given generator.

    Crop, orientation and colour are drawn once per scene, before any blurring, so that all levels of a scene are
    aligned. The TAFM paper draws them for each member of a triplet anew. `images` are as in `open_source`, and errors
    too; `crop_size` is in px.
    """

    def __init__(self, images: Images, crop_size: int) -> None:
        if crop_size < 1:
            raise ValueError(f"crop_size must be at least 1 px, got {crop_size}")
        self.crop_size = crop_size
        self.source = open_source(images, crop_size)
        scenes = self.source.scenes
        if not len(scenes):
            raise ValueError("images must hold at least one, got none")
        self._items = torch.arange(len(scenes))
        numbers = {scene: number for number, scene in enumerate(dict.fromkeys(scenes))}
        self._scene_of = torch.tensor([numbers[scene] for scene in scenes])

    @property
    def description(self) -> str:
        """What the scenes are, in words."""
        every = len(self._scene_of)
        return self.source.description + ("" if len(self) == every else f" ({len(self)} of {every} items)")

    @property
    def names_digest(self) -> str:
        """The beginning of the SHA-256 of the names of all items, by which other images are known."""
        names = "\n".join(self.source.names)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:8]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def draw(self, count: int, generator: torch.Generator, part: slice = slice(None)) -> Graded:
        """Return `count` crops of different scenes, if there are as many, or else of different items.

        An item that cannot be used is replaced by another. Which one depends neither on the part nor on earlier draws.

        Args:
            count: how many.
            generator: where random numbers come from; it moves on by as much for any part.
            part: which of them to read and return; parts, put together, are the whole.

        Raises:
            ValueError: if no item can be used, or the part is empty.
        """
        slots = range(count)[part]
        if not slots:
            raise ValueError(f"a draw must hold at least one crop, got {part} of {count}")
        order = self._items[torch.randperm(len(self), generator=generator)]
        order = order[_scenes_apart(self._scene_of[order])]
        seeds = torch.randint(2**32, (count,), generator=generator).tolist()
        crops = [self._crop(self._first_usable(_candidates(order, slot, count)), seeds[slot]) for slot in slots]
        levels, extents = zip(*crops, strict=True)
        return Graded(torch.stack(levels, dim=1), torch.stack(extents, dim=1))

    def split(self, share: float, generator: torch.Generator) -> tuple["SceneCrops", "SceneCrops"]:
        """Return two parts without a common scene; the second holds about this share of the scenes, in (0, 1)."""
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {share}")
        scenes = self._scene_of[self._items].unique()
        if len(scenes) < 2:
            raise ValueError(f"a split needs at least 2 scenes, got {len(scenes)} in {self.description}")
        count = min(max(1, round(share * len(scenes))), len(scenes) - 1)
        chosen = scenes[torch.randperm(len(scenes), generator=generator)[:count]]
        second = torch.isin(self._scene_of[self._items], chosen)
        parts = copy.copy(self), copy.copy(self)
        parts[0]._items, parts[1]._items = self._items[~second], self._items[second]
        return parts

    def centres(self, most: int, size: int = 160) -> Tensor:
        """Return the central parts (M, 3, S, S) of the sharp levels of items that are spread evenly over all.

        M is at most `most`, and less for items that cannot be used; S is at most `size` px, and that of the smallest.
        """
        found = [self.source.first_usable(items.tolist()) for items in self._items.tensor_split(min(most, len(self)))]
        # Copies, so that of large images only the centres are held.
        images = [_centre(graded.levels[0], size).clone() for graded in found if graded is not None]
        if not images:
            raise none_usable(self.source.faults.values())
        side = min(min(image.shape[1:]) for image in images)
        return torch.stack([_centre(image, side) for image in images])

    def _first_usable(self, items: Iterator[int]) -> Graded:
        graded = self.source.first_usable(items)
        if graded is None:
            raise none_usable(self.source.faults.values())
        return graded

    def _crop(self, graded: Graded, seed: int) -> Graded:
        y, x, *rest = torch.rand(8, generator=torch.Generator().manual_seed(seed)).tolist()
        height, width = graded.levels.shape[-2:]
        size = self.crop_size
        top, left = int(y * (height - size + 1)), int(x * (width - size + 1))
        levels = graded.levels[..., top : top + size, left : left + size]
        return Graded(_recoloured(_turned(levels, *rest[:3]), *rest[3:]), graded.extents)


def default_synthesizer() -> BlurSynthesizer:
    """Return shake, linear, defocus and Gaussian blur of 1, 3, 10 and 25 px, each scene 40 % more or less."""
    kinds = {"shake": 0.4, "linear": 0.3, "defocus": 0.2, "gaussian": 0.1}
    return BlurSynthesizer((0.0, 1.0, 3.0, 10.0, 25.0), kind=kinds, extent_jitter=0.4)


def grade(synthesizer: BlurSynthesizer | Grade, crops: Graded, seed: int, *, count: int, part: slice) -> Graded:
    """Return the levels of crops that are a `part` of `count` scenes.

    Real exposures are returned as they are. A `BlurSynthesizer` draws kernels for all `count` scenes, so that the
    parts of several processes are those of one; a callable is called with the part alone, and what it returns checked.
    """
    if len(crops.levels) > 1:
        return crops
    sharp = crops.levels[0]
    if isinstance(synthesizer, BlurSynthesizer):
        generator = torch.Generator().manual_seed(seed)
        drawn = synthesizer.sample(count, image_size=(sharp.shape[-2], sharp.shape[-1]), generator=generator)
        kernels = drawn.of_scenes(part)
        return Graded(synthesizer(sharp, kernels=kernels), kernels.extents.to(sharp.device))
    (own,) = scene_generators(seed, range(part.start, part.start + 1), torch.device("cpu"))
    return _checked(synthesizer(sharp, generator=own), len(sharp))


def scene_generators(seed: int, scenes: range, device: torch.device) -> list[torch.Generator]:
    """Return a generator for each scene of a batch; equal seed and scene give equal numbers, whatever the batch."""
    return [torch.Generator(device).manual_seed((SCENES_APART * seed + scene) % 2**63) for scene in scenes]


def _checked(returned: Any, scenes: int) -> Graded:
    expected = "the synthesizer must return levels (L, N, C, H, W), sharp first and L >= 3, and extents (L, N)"
    if not isinstance(returned, tuple) or len(returned) != 2 or not all(isinstance(part, Tensor) for part in returned):
        raise ValueError(f"{expected}, got {type(returned).__name__}")
    levels, extents = returned
    if levels.dim() != 5 or len(levels) < 3 or extents.shape != levels.shape[:2] or levels.shape[1] != scenes:
        raise ValueError(f"{expected}, got shapes {tuple(levels.shape)} and {tuple(extents.shape)} for N = {scenes}")
    if bool((extents[0] != 0).any()) or not bool((extents.diff(dim=0) > 0).all()):
        raise ValueError(f"{expected} that begin with 0 and rise, got extents {extents.tolist()}")
    return Graded(levels, extents.to(levels.device))


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
