"""Restore photographs of which there is no sharp version.

    python -m examples.deblurring.restore runs/unet_synthetic photographs/ --out restored/

writes restored/NAME.png for each image of the folder, and of its sub-folders under the same paths.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from examples._common import count, run_program, warnings_in_lines, write_atomically
from examples.deblurring.data.files import as_pixels, encode_png, images_below
from examples.deblurring.evaluation.methods import open_method
from examples.deblurring.evaluation.options import add_network_options, network_of, open_device
from tafm_loss.images import read_image

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Restore images and return the exit code: 0, 2 for a mistake of the user, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="restore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="a file of weights, or the folder of a training run")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="an image, or a folder of images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where restored images go, as PNG")
    add_network_options(parser)
    options = parser.parse_args(arguments)
    return run_program("restore", lambda: _restore(options))


def _restore(options: argparse.Namespace) -> None:
    found = {options.images.stem: options.images} if options.images.is_file() else images_below(options.images)
    targets = {path: options.out / f"{name}.png" for name, path in found.items()}
    if taken := [target for target in targets.values() if target.exists()]:
        raise FileExistsError(f"{taken[0]} is there already: name another --out, or remove it")
    device = open_device(options.device)
    with warnings_in_lines():
        method = open_method(network_of(options), device)
    for path, target in tqdm(targets.items(), unit="image"):
        restored = method(read_image(path).to(device))
        if not bool(torch.isfinite(restored).all()):
            raise FloatingPointError(f"the network's output for {path} has values that are not finite")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, encode_png(as_pixels(restored)))
    print(f"wrote {count(len(targets), 'image')} to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
