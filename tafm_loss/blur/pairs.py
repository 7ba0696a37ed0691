"""Sharp and blurred folders of images, for training any deblurring network."""

import csv
import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tafm_loss._files import read_object, user_path, write_atomically
from tafm_loss._text import differences
from tafm_loss._version import __version__
from tafm_loss.blur.camera import Nodes
from tafm_loss.blur.kernels import KINDS, BlurKernels, blur_extent
from tafm_loss.blur.light import add_sensor_noise, check_noise
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.images import IMAGE_SUFFIXES, find_images, read_image
from tafm_loss.runs.folder import is_unused, locked

__all__ = ["PairsReport", "crop_like", "write_pairs"]

SETTINGS_FILE = "settings.json"
TABLE_FILE = "pairs.csv"
# The folders of the blurred and of the sharp images.
LAYOUTS = {"input-target": ("input", "target"), "blur-sharp": ("blur", "sharp")}
DEFAULT_LAYOUT = "input-target"
COLUMNS = ("name", "source", "kind", "extent_px", "measured_px", "seed")
# What `read_image` says of files that are no images.
NOT_AN_IMAGE = "cannot be read as an image"


class PairsReport(NamedTuple):
    """What `write_pairs` did: pairs `written`, pairs `kept` from before, and `skipped` images with the reasons."""

    written: int
    kept: int
    skipped: list[tuple[Path, str]]


class _Scene(NamedTuple):
    """An image to blur: its file, its `source` in the table, the names of its pairs, the seed of its kernels."""

    path: Path
    source: str
    names: list[str]
    seed: int


class _UnusableImageError(Exception):
    """An image cannot be read, or is too small."""


def write_pairs(
    source: str | Path,
    out: str | Path,
    synthesizer: BlurSynthesizer,
    *,
    seed: int = 0,
    shot_noise: float = 0.0,
    read_noise: float = 0.0,
    layout: str = DEFAULT_LAYOUT,
    progress: bool = True,
) -> PairsReport:
    """Blur a folder of sharp images into pairs `out/input/NAME.png` (blurred) and `out/target/NAME.png` (sharp).

    NAME is the path of the image below `source` without its suffix; with several extents there is one pair for each,
    `NAME_10px` and `NAME_25px`, nested exposures of the same shake. The extent 2.5 is written 2p5, because some
    trainers cut names at the first dot. `out/pairs.csv` says how each pair was made, `out/settings.json` holds all that
    decides the result. Files are 8-bit RGB. The same settings give the same pairs, in whatever order: the same call
    takes up an interrupted run. Nothing is overwritten: a pair that is whole is kept, even if its image has changed
    since. Images that cannot be read, are too small for the blur, or of which half a pair of other content is there,
    are skipped with a warning.

    Args:
        source: a folder of images, searched with its sub-folders.
        out: a new or empty folder, or one that the same settings have begun.
        synthesizer: what blurs; without the extent 0, which would pair an image with itself.
        seed: of the kernels and the noise; those of an image depend on this and its path below `source` alone.
        shot_noise: photon noise of the blurred images, see `add_sensor_noise`; 8.9e-5 is a real camera's.
        read_noise: read noise of the blurred images; 2.9e-5 is a real camera's.
        layout: how the folders of blurred and sharp images are called: "input-target", or "blur-sharp" for
            `out/blur/NAME.png` and `out/sharp/NAME.png`.
        progress: whether to show a progress bar.

    Raises:
        TypeError: if `synthesizer` is no BlurSynthesizer.
        NotADirectoryError: if `source` is no folder, or `out` is a file.
        FileExistsError: if `out` holds other files.
        BlockingIOError: if another run holds `out`; the message says which.
        ValueError: if `out` holds pairs of other settings or of older names, lies in `source` or around it; if `source`
            holds no image that can be used, or two that differ in their suffix alone; for an extent of 0, negative
            noise or an unknown layout.
    """
    from tqdm.auto import tqdm

    source, out = user_path(source), user_path(out)
    _check_arguments(source, out, synthesizer, layout)
    check_noise(shot_noise, read_noise)
    scenes = _find_scenes(source, out, synthesizer, seed)
    made_with = {"version": __version__, "source": source.resolve().name, "seed": seed, "layout": layout}
    made_with |= {"shot_noise": shot_noise, "read_noise": read_noise, "synthesizer": type(synthesizer).__name__}
    made_with |= synthesizer.settings()
    _PairFolder(out, made_with)  # before anything is written to a folder of something else
    written, kept = 0, 0
    skipped = []
    with locked(out, *LAYOUTS[layout]):
        folder = _PairFolder(out, made_with)
        try:
            for scene in tqdm(scenes, disable=not progress, desc="blur", unit="image"):
                missing = len(folder.missing(scene.names))
                try:
                    if missing or not folder.rows.keys() >= set(scene.names):
                        _process(scene, folder, synthesizer, shot_noise, read_noise)
                except _UnusableImageError as error:
                    warnings.warn(f"skipped {scene.path}: {error}", stacklevel=2)
                    skipped.append((scene.path, str(error)))
                    continue
                written += missing
                kept += len(scene.names) - missing
        finally:
            folder.write_table()
    if not written + kept:
        # What is wrong with images says more than what is wrong with other files.
        path, reason = max(skipped, key=lambda skip: NOT_AN_IMAGE not in skip[1])
        raise ValueError(f"none of the {len(scenes)} images in {source} can be used; {path}: {reason}")
    return PairsReport(written, kept, skipped)


def crop_like(sharp: Tensor, blurred: Tensor) -> Tensor:
    """Return the central part of images (..., H, W) that is as large as `blurred` (..., h, w)."""
    height, width = blurred.shape[-2:]
    top, left = (sharp.shape[-2] - height) // 2, (sharp.shape[-1] - width) // 2
    return sharp[..., top : top + height, left : left + width]


def _check_arguments(source: Path, out: Path, synthesizer: BlurSynthesizer, layout: str) -> None:
    if not isinstance(synthesizer, BlurSynthesizer):
        raise TypeError(f"synthesizer must be a BlurSynthesizer, got {type(synthesizer).__name__}")
    if synthesizer.extents[0] == 0:
        raise ValueError(
            f"pairs need extents above 0, got {synthesizer.extents}: an extent of 0 pairs an image with itself"
        )
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be {' or '.join(LAYOUTS)}, got {layout!r}")
    if not source.is_dir():
        raise NotADirectoryError(f"source must be a folder of images; there is no folder {source}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out must be a folder; {out} is a file")
    read, written = source.resolve(), out.resolve()
    if read == written or read in written.parents or written in read.parents:
        raise ValueError(f"neither of the folders {source} and {out} may lie in the other: name an out elsewhere")


def _find_scenes(source: Path, out: Path, synthesizer: BlurSynthesizer, seed: int) -> list[_Scene]:
    suffixes = [f"_{_shortest(extent).replace('.', 'p')}px" for extent in synthesizer.extents]
    scenes: list[_Scene] = []
    first_of: dict[str, Path] = {}
    found, written = find_images(source), out.resolve()
    for folder in dict.fromkeys(path.parent for path in found):
        if folder.resolve().is_relative_to(written):
            raise ValueError(f"{folder} leads into the folder of the pairs, {out}: remove that link")
    for path in found:
        relative = path.relative_to(source)
        stem = relative.with_suffix("").as_posix()
        # Lower case, for not every file system tells A.png from a.png.
        first = first_of.setdefault(stem.lower(), path)
        if first != path:
            raise ValueError(f"{first} and {path} would become the same pair {stem}: rename one of them")
        names = [stem + suffix for suffix in suffixes] if len(suffixes) > 1 else [stem]
        digest = hashlib.sha256(f"{seed} {relative.as_posix()}".encode(errors="surrogateescape")).digest()
        # A generator on the CPU heeds the lowest 32 bits of a seed only.
        scenes.append(_Scene(path, relative.as_posix(), names, int.from_bytes(digest[:4], "little")))
    if not scenes:
        raise ValueError(f"there is no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in {source}")
    return scenes


def _shortest(extent: float) -> str:
    # Not :g, which writes different extents alike.
    return repr(extent).removesuffix(".0")


def _process(
    scene: _Scene, folder: "_PairFolder", synthesizer: BlurSynthesizer, shot_noise: float, read_noise: float
) -> None:
    """Write what `folder` lacks of a scene: files, or rows of its table only."""
    generator = torch.Generator().manual_seed(scene.seed)
    blurred = None
    try:
        scene.source.encode()
        sharp = read_image(scene.path)[None]
        image_size = (sharp.shape[-2], sharp.shape[-1])
        drawn = synthesizer.sample(1, image_size=image_size, generator=generator)
        if folder.missing(scene.names):
            blurred = synthesizer(sharp, kernels=drawn)[:, 0]
    except UnicodeEncodeError as error:
        raise _UnusableImageError("its name is not UTF-8, which the table is in") from error
    except (ValueError, FileNotFoundError) as error:
        raise _UnusableImageError(str(error).removeprefix(f"{scene.path} ")) from error
    # Before the files, among which an interruption may come; rows without files are not written.
    folder.list_pairs(scene, drawn, image_size)
    if blurred is not None:
        if shot_noise or read_noise:
            blurred = add_sensor_noise(
                blurred, shot=shot_noise, read=read_noise, transfer=synthesizer.transfer, generator=generator
            )
        folder.add(scene.names, blurred, crop_like(sharp[0], blurred))


class _PairFolder:
    """The folder of pairs on disk, which is only ever added to; `made_with` is all that decides the pairs in it."""

    def __init__(self, path: Path, made_with: dict[str, Any]) -> None:
        self.path = path
        self.subfolders = LAYOUTS[made_with["layout"]]
        self.made_with = (json.dumps(made_with, indent=1) + "\n").encode()
        self._check_settings()
        self.rows = self._read_table()

    def missing(self, names: list[str]) -> list[str]:
        """Return the names of the pairs that lack a file."""
        return [name for name in names if not all(file.exists() for file in self._files(name))]

    def add(self, names: list[str], blurred: Tensor, target: Tensor) -> None:
        """Write the files that are missing of pairs of images (len(names), 3, H, W) and their one target (3, H, W)."""
        target_png = _encode_png(target)
        files: dict[Path, bytes] = {}
        for name in self.missing(names):
            files.update(zip(self._files(name), (_encode_png(blurred[names.index(name)]), target_png), strict=True))
        for path, data in files.items():
            if path.exists() and path.read_bytes() != data:
                raise _UnusableImageError(f"{path} is there without its other half and of other content: delete it")
        for path, data in {self.path / SETTINGS_FILE: self.made_with, **files}.items():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)

    def list_pairs(self, scene: _Scene, drawn: BlurKernels, image_size: tuple[int, int]) -> None:
        """Enter the pairs of a scene in the table."""
        measured = blur_extent(drawn.kernels)[:, 0]
        if measured.dim() == 3:
            # Over the nodes of a blur that varies, as over the image: the mean of the squared radius.
            shares = Nodes.over(image_size, measured.shape[-1], measured.device).shares
            measured = (measured.square().flatten(1) @ shares).sqrt()
        kind = KINDS[int(drawn.kinds[0])]
        for name, extent, px in zip(scene.names, drawn.extents[:, 0].tolist(), measured.tolist(), strict=True):
            values = (name, scene.source, kind, f"{extent:.4f}", f"{px:.4f}", str(scene.seed))
            self.rows[name] = dict(zip(COLUMNS, values, strict=True))

    def write_table(self) -> None:
        """Write the rows of the pairs that exist, in the order of their sources and extents."""
        rows = [row for name, row in self.rows.items() if not self.missing([name])]
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["source"], float(row["extent_px"]))))
        write_atomically(self.path / TABLE_FILE, text.getvalue().encode())

    def _files(self, name: str) -> tuple[Path, Path]:
        blurred, sharp = (self.path / subfolder / f"{name}.png" for subfolder in self.subfolders)
        return blurred, sharp

    def _read_table(self) -> dict[str, dict[str, str]]:
        path = self.path / TABLE_FILE
        if not path.exists():
            return {}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, restval=""))
            for row in rows:
                if tuple(row) != COLUMNS or not row["name"]:
                    raise ValueError("a row does not have the columns of the table")
                float(row["extent_px"])
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{path} is no table with the columns {', '.join(COLUMNS)} ({error}): delete it, and it is made anew"
            ) from error
        return {row["name"]: row for row in rows}

    def _check_settings(self) -> None:
        path = self.path / SETTINGS_FILE
        if not path.exists():
            if not is_unused(self.path):
                raise FileExistsError(f"{self.path} holds other files and no {SETTINGS_FILE}: name a new folder")
            return
        try:
            there = read_object(path.read_bytes())
        except ValueError:
            raise ValueError(f"{path} is not what made these pairs: name another folder, or delete this one") from None
        now = json.loads(self.made_with)
        # Folders that were begun before there was a choice have the default layout, and dots in their names.
        if changed := differences({"layout": DEFAULT_LAYOUT, **there}, now):
            raise ValueError(
                f"{self.path} holds pairs made with other settings: {'; '.join(changed)}; "
                "name another folder, or delete this one"
            )
        dotted = [extent for extent in map(_shortest, now["extents"]) if "." in extent]
        if "layout" not in there and len(now["extents"]) > 1 and dotted:
            raise ValueError(
                f"{self.path} holds pairs of older names, with a dot as in NAME_{dotted[0]}px: "
                "name another folder, or delete this one"
            )


def _encode_png(image: Tensor) -> bytes:
    """Encode an image (3, H, W) in [0, 1] as a PNG of 8 bits."""
    from PIL import Image

    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    buffer = io.BytesIO()
    # Level 1, not the usual 6: pairs are made in half the time, and take an eighth more space.
    Image.fromarray(pixels.numpy()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
