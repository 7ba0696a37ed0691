"""What the meter learns from and is judged on: blurred photographs of known extent, and pairs of real cameras."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss import BlurSynthesizer
from tafm_loss.blur import add_sensor_noise, from_linear, to_linear
from tafm_loss.distractors import jpeg
from tafm_loss.images import find_images, read_image
from tafm_loss.scenes import generate_scenes

LEARNED_SIZE = 192
# A photograph at its full size is soft itself: made so many times smaller, 0 px means sharp.
REDUCTIONS = (2, 3, 4, 6)
# Crops of each reduction, each the most detailed of some candidates: a blurred background is not sharp at 0 px.
CROPS, CANDIDATES = 4, 6
SCENES = 250
REPEATS = 4
LEAST, LARGEST = 0.5, 25.0
BINS = 8
SHARP_SHARE = 1 / BINS
# The noise of the camera of RSBlur, amplified so many times.
SHOT, READ = 8.9e-5, 2.9e-5
GAINS = (0.0, 1.0, 4.0, 16.0)
STRONG_GAIN = 64.0
CORRELATED = 0.02
QUALITY = 40
CHUNK = 8
SEEN = "shake"


class Graded(NamedTuple):
    """Images (N, 3, H, W) in [0, 1], the extents (N,) of their blur in px, and the number (N,) of their source."""

    images: Tensor
    extents: Tensor
    sources: Tensor


class Sharp(NamedTuple):
    """Sharp images (N, 3, H, W) in [0, 1], and the number (N,) of their source."""

    images: Tensor
    sources: Tensor


Camera = Callable[[Tensor, torch.Generator], Tensor]


def sharp_crops(photographs: Sequence[Path], seed: int) -> Sharp:
    """Return crops of photographs at several sizes."""
    generator = torch.Generator().manual_seed(seed)
    crops, sources = [], []
    for source, path in enumerate(photographs):
        own = list(_crops(read_image(path), generator))
        crops += own
        sources += [source] * len(own)
    return Sharp(torch.stack(crops), torch.tensor(sources))


def _crops(photograph: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    for reduction in REDUCTIONS:
        size = [side // reduction for side in photograph.shape[1:]]
        if min(size) < LEARNED_SIZE:
            continue
        reduced = F.interpolate(photograph[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        for _ in range(CROPS):
            candidates = [_random_crop(reduced, generator) for _ in range(CANDIDATES)]
            yield max(candidates, key=_detail)


def _random_crop(image: Tensor, generator: torch.Generator) -> Tensor:
    top, left = (int(torch.randint(side - LEARNED_SIZE + 1, (), generator=generator)) for side in image.shape[1:])
    return image[:, top : top + LEARNED_SIZE, left : left + LEARNED_SIZE]


def _detail(image: Tensor) -> float:
    """Return the share of an image's contrast that is between neighbours, in the middle of its regions."""
    steps = image.diff(dim=-1)[:, :-1].square() + image.diff(dim=-2)[:, :, :-1].square()
    return float(F.avg_pool2d(steps.mean(0, keepdim=True), 32).median() / image.var().clamp(min=1e-4))


def scenes(seed: int) -> Sharp:
    """Return generated scenes, whose sources are negative."""
    images = generate_scenes(SCENES, LEARNED_SIZE, generator=torch.Generator().manual_seed(seed))
    return Sharp(images, -1 - torch.arange(SCENES))


def shaken(sharp: Sharp, seed: int, repeats: int = REPEATS) -> Graded:
    """Return what is learned from: other exposures and contrasts of sharp images, shaken, with noise of any gain."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(repeats):
        images, extents = blurred(_exposed(sharp.images, generator), SEEN, generator)
        parts.append(Graded(_with_any_noise(images, generator), extents, sharp.sources))
    return Graded(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _exposed(images: Tensor, generator: torch.Generator) -> Tensor:
    gain, contrast, grey = torch.rand(3, len(images), 1, 1, 1, generator=generator)
    exposed = from_linear(to_linear(images, "srgb") * (0.4 + 1.2 * gain), "srgb")
    return grey.lerp(exposed, 0.4 + 0.6 * contrast)


def _with_any_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    gains = torch.randint(len(GAINS), (len(images),), generator=generator).tolist()
    return torch.cat(
        [quantised(noisy(image[None], GAINS[gain], generator)) for image, gain in zip(images, gains, strict=True)]
    )


def blurred(sharp: Tensor, kind: str, generator: torch.Generator, **options: Any) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, H, W) under blur of which all ratios are as likely, some sharp, and the extents (N,)."""
    images, extents = torch.empty_like(sharp), torch.zeros(len(sharp))
    order = torch.randperm(len(sharp), generator=generator)
    kept = round(SHARP_SHARE * len(sharp))
    images[order[:kept]] = sharp[order[:kept]]
    ratio = (LARGEST / LEAST) ** (1 / BINS)
    jitter = (ratio - 1) / (ratio + 1)
    for level, chosen in enumerate(order[kept:].tensor_split(BINS)):
        middle = LEAST * ratio**level / (1 - jitter)
        synthesizer = BlurSynthesizer((middle,), kind=kind, extent_jitter=jitter, **options)
        for some in chosen.split(CHUNK):
            kernels = synthesizer.sample(len(some), generator=generator)
            images[some] = synthesizer(sharp[some], kernels=kernels)[0]
            extents[some] = kernels.extents[0]
    return images, extents


def quantised(images: Tensor) -> Tensor:
    """Return images as a file of 8 bits holds them."""
    return images.clamp(0, 1).mul(255).round().div(255)


def noisy(images: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """Return images with the noise of a sensor that is amplified so many times."""
    if not gain:
        return images
    return add_sensor_noise(images, shot=SHOT * gain, read=READ * gain, generator=generator)


def _strong(images: Tensor, generator: torch.Generator) -> Tensor:
    return noisy(images, STRONG_GAIN, generator)


def _correlated(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise as demosaicing and denoising leave it: smoothed over 3 x 3 px."""
    noise = F.avg_pool2d(torch.randn(images.shape, generator=generator), 3, stride=1, padding=1)
    return images + CORRELATED * 3 * noise


def _jpeg(images: Tensor, generator: torch.Generator) -> Tensor:
    return jpeg(quantised(noisy(images, 4.0, generator)), QUALITY)


def _sharpened(images: Tensor, generator: torch.Generator) -> Tensor:
    """Sharpen as cameras do: add what a 3 x 3 mean takes away."""
    images = noisy(images, 4.0, generator)
    return images + 0.8 * (images - F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1))


class Condition(NamedTuple):
    """A kind of blur with what a camera makes of it; `group` says what of it was not learned from."""

    group: str
    kind: str
    camera: Camera = _with_any_noise
    options: Mapping[str, Any] = {}


CONDITIONS = {
    "shake": Condition("none", "shake"),
    "linear": Condition("kind", "linear"),
    "defocus": Condition("kind", "defocus"),
    "gaussian": Condition("kind", "gaussian"),
    "strong noise": Condition("noise", "shake", _strong),
    "correlated noise": Condition("noise", "shake", _correlated),
    "JPEG": Condition("compression", "shake", _jpeg),
    "gamma 2.2": Condition("camera", "shake", options={"transfer": 2.2}),
    "stored values": Condition("camera", "shake", options={"transfer": None}),
    "lamps": Condition("camera", "shake", options={"highlight_gain": 20.0, "highlight_threshold": 0.9}),
    "sharpened": Condition("camera", "shake", _sharpened),
}


def judged(sharp: Tensor, name: str, seed: int) -> Graded:
    """Return photographs (N, 3, H, W) under one of `CONDITIONS`."""
    condition = CONDITIONS[name]
    generator = torch.Generator().manual_seed(seed)
    images, extents = blurred(sharp, condition.kind, generator, **condition.options)
    images = torch.cat([quantised(condition.camera(some, generator)) for some in images.split(CHUNK)])
    return Graded(images, extents, torch.arange(len(images)))


class Pair(NamedTuple):
    """A blurred and a sharp image (1, 3, H, W) of one moment, and the set and scene that they are of."""

    blurred: Tensor
    sharp: Tensor
    scene: str


def real_pairs(datasets: Path) -> Iterator[Pair]:
    """Yield the pairs of GoPro's scene and of REDS, each as large as its files."""
    gopro = datasets / "gopro-scene"
    for path in find_images(gopro / "blur"):
        yield Pair(read_image(path)[None], read_image(gopro / "sharp" / path.name)[None], "GoPro")
    reds = datasets / "reds-320x180"
    for split in ("train", "test"):
        for path in find_images(reds / f"{split}_blur"):
            other = reds / f"{split}_sharp" / path.parent.name / path.name
            yield Pair(read_image(path)[None], read_image(other)[None], f"REDS, {split} {path.parent.name[:3]}")
