"""Tiny generated data sets in the layouts of the real ones: for tests, and to try a configuration without any data."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from examples._common import write_atomically
from examples.deblurring.data import gopro, hide, realblur, reds
from examples.deblurring.data.files import ALL, encode_png
from examples.deblurring.data.gopro_all import official_length
from examples.deblurring.data.opening import options_of
from tafm_loss import BlurSynthesizer
from tafm_loss.scenes import generate_scenes

__all__ = ["make_tree"]

EXTENT = 3.0
# How far a scene moves between two images, px.
STEP = 4
JPEG_QUALITY = 50


class _Request(NamedTuple):
    """What to write: `scenes` of `frames` images of `size` (height, width) each."""

    root: Path
    split: str
    scenes: int
    frames: int
    size: tuple[int, int]
    seed: int


class _View(NamedTuple):
    """An image of a scene (3, H, W) uint8, by the numbers of both, with two kinds of blur."""

    scene: int
    frame: int
    sharp: Tensor
    blurred: Tensor
    gamma: Tensor


def make_tree(
    dataset: str,
    root: Path,
    split: str,
    scenes: int = 2,
    frames: int = 2,
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
) -> dict[str, Any]:
    """Write a part of a data set, of generated scenes, as the real one lies on disk.

    Args:
        dataset: one of `list_datasets()`.
        root: its folder, made if it is not there.
        split: one of its parts.
        scenes: how many.
        frames: how many pairs each scene has.
        size: height and width in px.
        seed: of the scenes and their blur. Parts of a data set differ by themselves.

    Returns:
        The options with which `open_pairs` reads it back.

    Raises:
        ValueError: for an unknown data set or part, and for more scenes than the real part has.
    """
    options = {"complete": False} if "complete" in options_of(dataset) else {}
    LAYOUTS[dataset](_Request(root, split, scenes, frames, size, seed))
    return options


def _canvases(request: _Request, added: int) -> Tensor:
    """Return the scenes (S, 3, H, W + added) in [0, 1]; each part has its own."""
    seed = request.seed + sum(request.split.encode()) * 1000
    height, width = request.size
    generator = torch.Generator().manual_seed(seed)
    return generate_scenes(request.scenes, (height, width + added), generator=generator)


def _views(request: _Request) -> Iterator[_View]:
    width = request.size[1]
    for scene, canvas in enumerate(_canvases(request, STEP * request.frames)):
        for frame in range(request.frames):
            sharp = canvas[None, :, :, STEP * frame : STEP * frame + width]
            seed = request.seed + scene * request.frames + frame
            blurred, gamma = (
                BlurSynthesizer((EXTENT,), transfer=transfer)(sharp, generator=torch.Generator().manual_seed(seed))[
                    0, 0
                ]
                for transfer in (None, 2.2)
            )
            yield _View(scene, frame, _pixels(sharp[0]), _pixels(blurred), _pixels(gamma))


def _pixels(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _scene_names(request: _Request, published: dict[str, dict[str, int]]) -> list[str]:
    gopro.check_split(request.split, published)
    names = list(published[request.split])
    if request.scenes > len(names):
        raise ValueError(f"{request.split} has {len(names)} scenes, {request.scenes} were asked for")
    return names


def _write(path: Path, image: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_png(image))


def _gopro(request: _Request) -> None:
    names = _scene_names(request, gopro.SCENES)
    for view in _views(request):
        folder = request.root / request.split / names[view.scene]
        for kind, image in (("blur", view.blurred), ("blur_gamma", view.gamma), ("sharp", view.sharp)):
            _write(folder / kind / f"{view.frame + 1:06}.png", image)


def _gopro_all(request: _Request) -> None:
    names = _scene_names(request, gopro.SCENES)
    longest = max(official_length(name) for name in names) * request.frames
    for name, canvas in zip(names, _canvases(request, longest), strict=False):
        for frame in range(official_length(name) * request.frames):
            image = _pixels(canvas[:, :, frame : frame + request.size[1]])
            _write(request.root / request.split / name / f"{frame + 1:06}.png", image)


def _realblur(camera: str, request: _Request) -> None:
    gopro.check_split(request.split, {split: {} for split in realblur.COUNTS})
    first = 1 if request.split == "train" else 1 + realblur.COUNTS["train"][1]
    lines = []
    for view in _views(request):
        folder = f"{realblur.FOLDERS[camera]}/scene{first + view.scene:03}"
        sharp, blurred = f"{folder}/gt/gt_{view.frame + 1}.png", f"{folder}/blur/blur_{view.frame + 1}.png"
        _write(request.root / sharp, view.sharp)
        _write(request.root / blurred, view.blurred)
        lines.append(f"{sharp} {blurred} ")
    list_file = realblur.LIST_FILE.format(camera=camera, split=request.split)
    write_atomically(request.root / list_file, "\n".join(lines).encode())


def _hide(request: _Request) -> None:
    gopro.check_split(request.split, {split: {} for split in hide.FOLDERS})
    folders = hide.FOLDERS[request.split]
    first = 950 if request.split == "train" else 1096
    for view in _views(request):
        recording = first + view.scene
        name = f"{view.frame + 1}fromGOPR{recording:04}{'.MP4' if recording >= 1000 else ''}.png"
        _write(request.root / folders[(view.scene + view.frame) % len(folders)] / name, view.blurred)
        _write(request.root / "GT" / name, view.sharp)
    for folder in folders:
        (request.root / folder).mkdir(parents=True, exist_ok=True)


def _reds(request: _Request) -> None:
    names = _scene_names(request, reds.SCENES)
    part = request.split.removesuffix("300")
    # So that a frame ends in 9, which the part "val300" is made of.
    first = max(0, 10 - request.frames)
    for view in _views(request):
        below = f"{names[view.scene]}/{first + view.frame:08}"
        for kind, image in (("blur", view.blurred), ("sharp", view.sharp)):
            _write(request.root / part / f"{part}_{kind}" / f"{below}.png", image)
        compressed = request.root / part / f"{part}_blur_jpeg" / f"{below}.jpg"
        compressed.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(compressed, _jpeg(view.blurred))


def _jpeg(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _folder(request: _Request) -> Path:
    return request.root if request.split == ALL else request.root / request.split


def _flat(request: _Request) -> None:
    for view in _views(request):
        name = f"scene{view.scene + 1}-{view.frame + 1:06}.png"
        _write(_folder(request) / "input" / name, view.blurred)
        _write(_folder(request) / "target" / name, view.sharp)


def _synthetic(request: _Request) -> None:
    for view in _views(request):
        _write(_folder(request) / f"photograph{view.scene + 1}_{view.frame + 1}.png", view.sharp)


LAYOUTS: dict[str, Callable[[_Request], None]] = {
    "gopro": _gopro,
    "gopro_all": _gopro_all,
    "realblur_j": lambda request: _realblur("J", request),
    "realblur_r": lambda request: _realblur("R", request),
    "hide": _hide,
    "reds": _reds,
    "flat": _flat,
    "synthetic": _synthetic,
}
