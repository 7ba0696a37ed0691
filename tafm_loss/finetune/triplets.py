"""Scenes in, graded versions of aligned crops out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tafm_loss._images import IMAGE_SUFFIXES, check_images, check_unit_range, find_images, read_image

__all__ = ["SceneCrops"]


class SceneCrops:
    """Random crops of scenes, the same for a given seed and step.

    One crop and one flip are drawn per scene, before any blurring, so that all versions of a crop are aligned.

    Args:
        images: a tensor (M, 3, H, W), a sequence of tensors (3, H, W) in [0, 1], or a folder of images.
        crop_size: px.

    Raises:
        ValueError: if there is no image, or one is smaller than the crop or no RGB image.
    """

    def __init__(self, images: Tensor | Sequence[Tensor] | str | Path, crop_size: int) -> None:
        self.scenes = _read_folder(Path(images)) if isinstance(images, str | Path) else list(images)
        self.crop_size = crop_size
        if len(self.scenes) < 2:
            raise ValueError(f"images must hold at least 2 scenes, got {len(self.scenes)}")
        for index, scene in enumerate(self.scenes):
            if scene.dim() != 3:
                raise ValueError(f"images[{index}] must have shape (3, H, W), got {tuple(scene.shape)}")
            check_images(scene[None], f"images[{index}]", minimum_size=crop_size)
            check_unit_range(scene, f"images[{index}]")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return crops (count, 3, crop_size, crop_size) of different scenes, if there are as many."""
        order = torch.randperm(len(self.scenes), generator=generator).repeat(-(-count // len(self.scenes)))
        return torch.stack([self._crop(self.scenes[int(index)], generator) for index in order[:count]])

    def _crop(self, scene: Tensor, generator: torch.Generator) -> Tensor:
        size = self.crop_size
        y, x, flip, turn = torch.rand(4, generator=generator).tolist()
        top, left = int(y * (scene.shape[1] - size + 1)), int(x * (scene.shape[2] - size + 1))
        crop = scene[:, top : top + size, left : left + size]
        crop = crop.flip(-1) if flip < 0.5 else crop
        return crop.transpose(-1, -2) if turn < 0.5 else crop


def _read_folder(folder: Path) -> list[Tensor]:
    if not folder.is_dir():
        raise ValueError(f"images must be a tensor, a sequence of tensors or a folder; there is no folder {folder}")
    paths = find_images(folder)
    if not paths:
        raise ValueError(f"there is no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in {folder}")
    return [read_image(path) for path in paths]
