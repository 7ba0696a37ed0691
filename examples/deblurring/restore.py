"""Restore photographs of which there is no sharp version.

    python -m examples.deblurring.restore runs/unet_synthetic photographs/ --out restored/

writes restored/NAME.png for each image of the folder, and of its sub-folders under the same paths. Images that cannot
be read are skipped and named. The same command goes on after an interruption: it restores what is not there yet.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from examples._common import count, differences, run_program, user_path, warnings_in_lines, write_atomically
from examples.deblurring.data.files import as_pixels, encode_png, images_below
from examples.deblurring.evaluation.methods import open_method
from examples.deblurring.evaluation.options import add_network_options, network_of, open_device
from tafm_loss import __version__
from tafm_loss.images import read_image

__all__ = ["main"]

SETTINGS_FILE = "restore.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Restore images and return the exit code: 0, 2 for a mistake of the user, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="restore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="a file of weights, or the folder of a training run")
    parser.add_argument("images", type=user_path, metavar="IMAGES", help="an image, or a folder of images")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="where restored images go, as PNG")
    add_network_options(parser)
    options = parser.parse_args(arguments)
    return run_program("restore", lambda: _restore(options), interrupted="interrupted; the same command goes on")


def _restore(options: argparse.Namespace) -> None:
    found = {options.images.stem: options.images} if options.images.is_file() else images_below(options.images)
    targets = {path: options.out / f"{name}.png" for name, path in found.items()}
    network = network_of(options)
    # Not the path of the weights, whose digest says more.
    settings = {"images": str(options.images.resolve()), "version": __version__, **dataclasses.asdict(network)}
    del settings["weights"]
    kept = _check_folder(options.out, settings, targets.values())
    device = open_device(options.device)
    skipped = 0
    with warnings_in_lines():
        method = open_method(network, device)
        for path, target in tqdm(targets.items(), unit="image"):
            if target in kept:
                continue
            try:
                restored = method(read_image(path).to(device))
            except (ValueError, OSError) as error:
                warnings.warn(f"skipped {path}: {error}", stacklevel=2)
                skipped += 1
                continue
            if not bool(torch.isfinite(restored).all()):
                raise FloatingPointError(f"the network's output for {path} has values that are not finite")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(options.out / SETTINGS_FILE, json.dumps(settings, indent=1).encode())
            write_atomically(target, encode_png(as_pixels(restored)))
    if skipped == len(targets):
        raise ValueError(f"none of the {count(skipped, 'image')} in {options.images} can be restored, see above")
    told = f"{count(len(targets) - skipped, 'image')} in {options.out}"
    before = f", {len(kept)} of them from before" if kept else ""
    print(told + before + (f"; {count(skipped, 'image')} skipped" if skipped else ""))


def _check_folder(out: Path, settings: Mapping[str, Any], targets: Iterable[Path]) -> set[Path]:
    """Return the images that the same command has written before; raises an error for those of anything else."""
    there = {target for target in targets if target.exists()}
    path = out / SETTINGS_FILE
    if not path.exists():
        if there:
            raise FileExistsError(f"{min(there)} is there already: name another --out, or remove it")
        return there
    try:
        changed = differences(json.loads(path.read_bytes()), settings)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} does not say how images were restored ({error}): name another --out") from error
    if changed:
        raise ValueError(f"{out} holds images restored otherwise: {'; '.join(changed)}; name another --out")
    return there


if __name__ == "__main__":
    sys.exit(main())
