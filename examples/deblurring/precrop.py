"""Cuts the images of a data set into overlapping crops, from which networks are trained faster.

    python -m examples.deblurring.precrop gopro datasets/GOPRO_Large datasets/GOPRO_crops

A training crop of 256 px then takes the decoding of 512 x 512 px, not of 1280 x 720. HINet and NAFNet were trained so:
512 px each 256 px, the last ones flush with the right and the bottom border, which makes 8 crops of an image and 16,824
of GOPRO_Large. They are written to OUT/train/{input,target}/SCENE-NNNNNN_s001.png, which the data set "flat" reads. The
same command takes up an interrupted run.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from examples._common import differences, read_json, run_program, user_path, write_atomically
from examples.deblurring.data.files import encode_png
from examples.deblurring.data.opening import key_values, list_datasets, open_pairs
from examples.deblurring.data.pairs import PairedImages
from tafm_loss.images import read_header
from tafm_loss.runs import is_unused

__all__ = ["crop_starts", "main", "write_crops"]

SETTINGS_FILE = "precrop.json"


def crop_starts(length: int, size: int, step: int) -> list[int]:
    """Return where crops begin along an axis: every `step` px, and a last one that ends with the axis.

    >>> crop_starts(1280, 512, 256), crop_starts(720, 512, 256)
    ([0, 256, 512, 768], [0, 208])
    """
    starts = list(range(0, length - size + 1, step))
    return starts if not starts or starts[-1] + size == length else [*starts, length - size]


def write_crops(
    pairs: PairedImages,
    out: Path,
    source: Mapping[str, Any],
    *,
    size: int = 512,
    step: int = 256,
    progress: bool = True,
) -> int:
    """Write the crops of all pairs to `out/{input,target}/NAME_sNNN.png`; crops that are there are kept.

    Args:
        pairs: what to cut.
        out: a new folder, or one that the same call has begun.
        source: where the pairs come from, as JSON can hold it; crops of two sources are not mixed.
        size: px.
        step: px from one crop to the next.
        progress: whether to show a progress bar.

    Returns:
        How many pairs of crops there are.

    Raises:
        FileExistsError: if `out` holds other files than crops.
        ValueError: if size or step make no sense, an image is smaller than a crop, or `out` holds crops of another
            size, step, source or other pairs.
    """
    if not 1 <= step <= size:
        raise ValueError(f"the step must be from 1 px to the {size} px of a crop, or the image has gaps; got {step}")
    names = "\n".join(pair.name for pair in pairs.pairs)
    numbers = {"size": size, "step": step, "pairs": len(pairs)}
    _check_settings(out, {**source, **numbers, "names_sha256": hashlib.sha256(names.encode()).hexdigest()})
    written = 0
    for index, pair in enumerate(tqdm(pairs.pairs, disable=not progress, desc="crop", unit="pair")):
        (width, height), _ = read_header(pair.sharp)
        # As the file holds it: an image that EXIF data turn has as many crops, elsewhere.
        count = len(_corners(height, width, size, step))
        if not count:
            raise ValueError(f"crops of {size} px do not fit into {pair.sharp} of {width} x {height} px")
        files = [
            tuple(out / half / f"{pair.name}_s{number:03}.png" for half in ("input", "target"))
            for number in range(1, count + 1)
        ]
        if not all(path.exists() for both in files for path in both):
            sample = pairs[index]
            height, width = sample.sharp.shape[1:]
            corners = _corners(height, width, size, step)
            for both, (top, left) in zip(files, corners, strict=True):
                for path, image in zip(both, sample, strict=True):
                    write_atomically(path, encode_png(image[:, top : top + size, left : left + size]))
        written += len(files)
    return written


def _corners(height: int, width: int, size: int, step: int) -> list[tuple[int, int]]:
    return [(top, left) for top in crop_starts(height, size, step) for left in crop_starts(width, size, step)]


def _check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Raise an error if `out` holds other crops, or what are no crops; make it otherwise."""
    path, text = out / SETTINGS_FILE, json.dumps(settings, indent=1)
    if path.exists():
        try:
            changed = differences(read_json(path), json.loads(text))
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read ({error}): name another folder, or delete this one") from error
        if changed:
            raise ValueError(
                f"{out} holds crops made with other settings: {'; '.join(changed)}; name another folder, or delete "
                "this one"
            )
    elif not is_unused(out):
        raise FileExistsError(f"{out} holds other files and no {SETTINGS_FILE}: name a new folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    for half in ("input", "target"):
        (out / half).mkdir(exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for a mistake of the user, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="precrop"
    )
    parser.add_argument("dataset", choices=[name for name in list_datasets() if name not in {"gopro_all", "synthetic"}])
    parser.add_argument("root", type=user_path, help="its folder")
    parser.add_argument("out", type=user_path, help="folder of the crops, new or begun by this command")
    parser.add_argument("--split", default="train", help="which part (default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="default: %(default)s")
    parser.add_argument("--step", type=int, default=256, metavar="PX", help="default: %(default)s")
    parser.add_argument(
        "--dataset-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as blur=blur_jpeg for reds"
    )
    parser.add_argument("--incomplete", action="store_true", help="the same as --dataset-options complete=False")
    options = parser.parse_args(arguments)
    return run_program("precrop", lambda: _crop(options), interrupted="interrupted; the same command takes it up")


def _crop(options: argparse.Namespace) -> None:
    out = options.out / options.split
    given = key_values([*options.dataset_options, *["complete=False"] * options.incomplete], "--dataset-options")
    pairs = open_pairs(options.dataset, options.root, options.split, **given)
    assert isinstance(pairs, PairedImages)
    source = {
        "dataset": options.dataset,
        "root": str(options.root.resolve()),
        "split": options.split,
        "options": given,
    }
    count = write_crops(pairs, out, source, size=options.size, step=options.step)
    print(f"{count} crops of {len(pairs)} images in {out}")


if __name__ == "__main__":
    sys.exit(main())
