"""CLIP's image towers as spatial taps, with OpenAI's weights through open_clip."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.backbones.architecture import Architecture, HubFile, Step, TappedNetwork
from tafm_loss.backbones.config import Tap

__all__ = [
    "CLIP_TOWERS",
    "IMAGE_SIZE",
    "WIDTH",
    "ClipResNetArchitecture",
    "ClipViTArchitecture",
    "ClipViTNetwork",
    "resize",
]

HUB_FILE = "open_clip_model.safetensors"
PREFIX = "visual."
RESNET_STEM = ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3", "act3")
RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
IMAGE_SIZE = 224
WIDTH = 768
BLOCKS = 12


class Tower(NamedTuple):
    """What open_clip calls a tower, where its weights are on the Hub, and the size of its patches in px (0: none)."""

    model: str
    repo_id: str
    patch: int = 0


CLIP_TOWERS: Mapping[str, Tower] = {
    "clip-rn50": Tower("RN50-quickgelu", "timm/resnet50_clip.openai"),
    "clip-vit-b16": Tower("ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai", 16),
    "clip-vit-b32": Tower("ViT-B-32-quickgelu", "timm/vit_base_patch32_clip_224.openai", 32),
}


class _ClipArchitecture(Architecture):
    """What the towers share: normalisation, names and default weights."""

    source = "open_clip"
    licence = "MIT"
    training_data = "WebImageText (OpenAI)"
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, name: str) -> None:
        self.name = name
        self.tower = CLIP_TOWERS[name]

    def accepts(self, tensor_name: str) -> bool:
        """Whether the tensor is of the image tower, or of the text side, which is not ours to judge."""
        return not tensor_name.startswith(PREFIX) or tensor_name in self._tower_names

    @functools.cached_property
    def _tower_names(self) -> frozenset[str]:
        with torch.device("meta"):
            return frozenset(PREFIX + name for name in self._whole_tower().state_dict())

    def _whole_tower(self) -> nn.Module:
        raise NotImplementedError

    @property
    def default_weights_name(self) -> str:
        """The name of OpenAI's weights in open_clip, and where they are on the Hub."""
        return f"open_clip {self.tower.model}, pretrained=openai (hf-hub:{self.tower.repo_id})"

    @property
    def default_weights(self) -> HubFile:
        """Where OpenAI's weights are, as open_clip publishes them."""
        return HubFile(HUB_FILE, self.tower.repo_id)


class ClipResNetArchitecture(_ClipArchitecture):
    """The ResNet-50 tower: taps `stem`, `layer1` ... `layer4`, at any image size; its attention pooling is left out."""

    taps = ("stem", *RESNET_STAGES)

    def _whole_tower(self) -> nn.Module:
        from open_clip.modified_resnet import ModifiedResNet

        tower: nn.Module = ModifiedResNet(
            layers=[3, 4, 6, 3], output_dim=1024, heads=32, image_size=IMAGE_SIZE, width=64
        )
        return tower

    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the tower up to the deepest of `layers`, with open_clip's random initialisation."""
        steps = [Step(PREFIX + name) for name in RESNET_STEM]
        steps += [Step(PREFIX + "avgpool", "stem"), *(Step(PREFIX + name, name) for name in RESNET_STAGES)]
        return TappedNetwork(nn.ModuleDict({"visual": self._whole_tower()}), steps, layers)


class ClipViTArchitecture(_ClipArchitecture):
    """A ViT-B tower: taps `block0` ... `block11`, each the patch tokens after that block as a map (N, 768, H/p, W/p).

    By default `block3` is read, as in the paper (its `layer_2` is the block of index 3).
    """

    taps = tuple(f"block{index}" for index in range(BLOCKS))

    def _whole_tower(self) -> nn.Module:
        tower: nn.Module = _vision_transformer(self.tower.patch, BLOCKS)
        return tower

    def default_layers(self) -> tuple[str, ...]:
        """Return the paper's tap."""
        return ("block3",)

    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the tower up to the deepest of `layers`, with open_clip's random initialisation."""
        return ClipViTNetwork(self.tower.patch, [self.taps.index(layer) for layer in layers])

    def measure(self, network: nn.Module) -> tuple[dict[str, Tap], int]:
        """Return the taps of `network` and the size of a patch, below which an image is not taken."""
        assert isinstance(network, ClipViTNetwork)
        taps = {f"block{index}": Tap(WIDTH, self.tower.patch) for index in sorted(network.blocks)}
        return taps, self.tower.patch


class ClipViTNetwork(nn.Module):
    """CLIP's ViT-B, read after some of its blocks, at any image size from one patch on.

    An image whose sides are no multiples of the patch is continued at the right and bottom by reflection, and
    the positional embedding is resampled (bicubic, antialiased) from the grid that it was trained on to the
    image's. At 224 x 224 px neither happens, and the maps equal open_clip's `forward_intermediates`; elsewhere
    open_clip's tower raises, or drops the last rows and columns.

    Args:
        patch: side of a patch in px.
        blocks: indices of the blocks to read; the tower ends with the deepest.
    """

    def __init__(self, patch: int, blocks: Iterable[int]) -> None:
        super().__init__()
        self.patch = patch
        self.blocks = frozenset(blocks)
        self.visual = _vision_transformer(patch, max(self.blocks) + 1)
        self.grid = IMAGE_SIZE // patch
        del self.visual.ln_post, self.visual.proj

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {`block<i>`: (N, 768, ceil(H / patch), ceil(W / patch))} of normalised images (N, 3, H, W)."""
        height, width = images.shape[-2:]
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        return {
            f"block{index}": tokens[:, 1:].transpose(1, 2).reshape(tokens.shape[0], WIDTH, rows, columns)
            for index, tokens in self.tokens(images).items()
        }

    def tokens(self, images: Tensor) -> dict[int, Tensor]:
        """Return {block: (N, 1 + patches, 768)} of normalised images (N, 3, H, W), the class token first."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.patch, 0, -height % self.patch), mode="reflect")
        patches = self.visual.conv1(padded)
        class_token = self.visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        x = self.visual.ln_pre(x + self._positions(*patches.shape[-2:]).to(patches.dtype))
        tokens: dict[int, Tensor] = {}
        for index, block in enumerate(self.visual.transformer.resblocks):
            x = x + _attention(block.attn, block.ln_1(x))
            x = x + block.mlp(block.ln_2(x))
            if index in self.blocks:
                tokens[index] = x
        return tokens

    def _positions(self, rows: int, columns: int) -> Tensor:
        embedding: Tensor = self.visual.positional_embedding
        if (rows, columns) == (self.grid, self.grid):
            return embedding
        maps = resize(embedding[1:].T.reshape(1, WIDTH, self.grid, self.grid), (rows, columns))
        return torch.cat([embedding[:1], maps[0].flatten(1).T])


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, C, H, W) at `size`, bicubic and antialiased, in their type."""
    # The antialiased kernels know no half precision.
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.interpolate(wide, size, mode="bicubic", antialias=True, align_corners=False).to(maps.dtype)


def _attention(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    # nn.MultiheadAttention takes another path without gradient than with it, and the two differ in the last bits: the
    # features of an image as a target would not be those of the same image as a prediction.
    qkv = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(query, key, value)
    output: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return output


def _vision_transformer(patch: int, blocks: int) -> Any:
    from open_clip.transformer import QuickGELU, VisionTransformer

    return VisionTransformer(
        image_size=IMAGE_SIZE,
        patch_size=patch,
        width=WIDTH,
        layers=blocks,
        heads=12,
        mlp_ratio=4.0,
        output_dim=512,
        act_layer=QuickGELU,
    )
