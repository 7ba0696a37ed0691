"""The paper's form of backbone: the first blocks of CLIP, frozen, and a head that makes one embedding of an image."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from tafm_loss.backbones.clip_towers import CLIP_TOWERS, IMAGE_SIZE, WIDTH, ClipViTArchitecture, ClipViTNetwork, resize
from tafm_loss.backbones.config import BackboneConfig, Tap

__all__ = ["EmbeddingArchitecture", "EmbeddingNetwork"]

TOWER = "clip-vit-b16"
PATCH = CLIP_TOWERS[TOWER].patch
BLOCK = 3
EMBEDDING = 1024
TAP = "embedding"
HEAD = "head"


class EmbeddingNetwork(ClipViTNetwork):
    """CLIP's ViT-B/16 up to one block, frozen, and an MLP 1024-1024-1024 that turns its tokens into an embedding.

    "Task-Adaptive Feature Matching Loss for Image Deblurring" (ICIP 2023), as its released code builds it: all tokens
    after the block of index 3, the class token included, are flattened, so that the head takes 224 x 224 px alone and
    other images are resized to that. Here the resizing is bicubic and antialiased; the paper's is not antialiased.
    Pooled, the head takes the mean over the patch tokens instead: images of any size, and a hundredth of the weights.

    Args:
        image_size: side in px of the square that images are resized to, for flattened tokens; None for pooled ones.
        block: index of the block whose tokens are taken; the tower ends with it.

    Attributes:
        trained: prefixes of the names of the parameters that are tuned; all others have `requires_grad=False`.

    Raises:
        ValueError: if `image_size` is smaller than a patch.
    """

    trained: ClassVar[tuple[str, ...]] = (HEAD,)

    def __init__(self, image_size: int | None = IMAGE_SIZE, *, block: int = BLOCK) -> None:
        if image_size is not None and image_size < PATCH:
            raise ValueError(f"image_size must be at least {PATCH} px, one patch, or None to pool, got {image_size}")
        super().__init__(PATCH, [block])
        self.image_size = image_size
        self.block = block
        self.head = _head(_inputs(image_size))
        self.visual.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {"embedding": (N, 1024)} of normalised images (N, 3, H, W)."""
        if self.image_size is None:
            return {TAP: self.head(self.tokens(images)[self.block][:, 1:].mean(1))}
        square = (self.image_size, self.image_size)
        if images.shape[-2:] != square:
            images = resize(images, square)
        return {TAP: self.head(self.tokens(images)[self.block].flatten(1))}


class EmbeddingArchitecture(ClipViTArchitecture):
    """An `EmbeddingNetwork`: the tap `embedding`, OpenAI's weights for the tower, and a head that has to be tuned.

    The tap is no map. As its stride counts the side of the image that its one location stands for: what images are
    resized to, or, pooled, the 224 px that CLIP was trained on.

    Args:
        name: what it is called in `create_backbone`.
        image_size: as in `EmbeddingNetwork`.
    """

    taps = (TAP,)

    def __init__(self, name: str, image_size: int | None) -> None:
        super().__init__(TOWER)
        self.name = name
        self.image_size = image_size

    def default_layers(self) -> tuple[str, ...]:
        """Return the only tap."""
        return self.taps

    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the network with open_clip's random initialisation of the tower, and PyTorch's of the head."""
        return EmbeddingNetwork(self.image_size)

    def measure(self, network: nn.Module) -> tuple[dict[str, Tap], int]:
        """Return the tap and the size of a patch, below which an image is not taken."""
        return {TAP: Tap(EMBEDDING, self.image_size or IMAGE_SIZE)}, PATCH

    def config(self, network: nn.Module, *, base_weights: str | None) -> BackboneConfig:
        """Return the config of `network`, which ends in an embedding."""
        return dataclasses.replace(
            super().config(network, base_weights=base_weights), spatial=False, recommended_distance="l2"
        )

    @property
    def default_weights_name(self) -> str:
        """The name of OpenAI's weights in open_clip, and what they lack."""
        return f"{super().default_weights_name}, untuned head"

    def random_part(self, tensor_names: Iterable[str]) -> dict[str, Tensor]:
        """Return a head if there is none among the tensors, as in OpenAI's files."""
        if any(name.startswith(f"{HEAD}.") for name in tensor_names):
            return {}
        head: dict[str, Tensor] = _head(_inputs(self.image_size)).state_dict(prefix=f"{HEAD}.")
        return head


def _inputs(image_size: int | None) -> int:
    return WIDTH if image_size is None else WIDTH * (1 + (-(-image_size // PATCH)) ** 2)


def _head(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, EMBEDDING),
        nn.BatchNorm1d(EMBEDDING),
        nn.ReLU(),
        nn.Linear(EMBEDDING, EMBEDDING),
        nn.BatchNorm1d(EMBEDDING),
        nn.ReLU(),
        nn.Linear(EMBEDDING, EMBEDDING),
    )
