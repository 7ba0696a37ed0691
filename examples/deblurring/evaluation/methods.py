"""What is evaluated: a network with its weights, or the blurred images themselves."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples._common import read_json
from examples.deblurring.evaluation.inference import check_protocol, restore
from examples.deblurring.evaluation.settings import Network
from examples.deblurring.models.checkpoints import load_weights
from examples.deblurring.models.local_statistics import pools_over_image, use_local_statistics
from examples.deblurring.models.networks import create_network

__all__ = ["RUN_FILE", "Method", "describe_network", "open_method"]

# What training leaves in a folder; not imported from there, for an evaluation needs none of what training needs.
RUN_FILE = "config.json"
LAST_WEIGHTS = "network.safetensors"
MEAN_WEIGHTS = "network_ema.safetensors"

# Of the authors of TLC, for crops of 256 px.
TLC_WINDOW = 384

# From a blurred image (3, H, W) in [0, 1] to a restored one, on the same device.
Method = Callable[[Tensor], Tensor]


def describe_network(
    weights: Path,
    name: str | None,
    options: Mapping[str, Any],
    *,
    ema: bool = False,
    tlc: bool = False,
    tlc_window: int | None = None,
    **inference: Any,
) -> Network:
    """Return which network it is, from a file of weights and a name, or from the folder of a training run.

    Args:
        weights: a file, or a folder that `examples.deblurring.train` has written.
        name: of the network; None for a folder, which says it.
        options: of `create_network`; none for a folder.
        ema: whether to take a folder's averaged weights, not the last ones.
        tlc: whether pooling is local.
        tlc_window: of local pooling, in px; None for 1.5 times the crops of a training run, and 384 for a file.
        inference: the other fields of `Network`.

    Raises:
        OSError: if a file is missing.
        ValueError: if the name is missing, or given where the folder has its own; if the folder is of no run; if there
            is a window and no local pooling.
    """
    if tlc_window is not None and not tlc:
        raise ValueError("--tlc-window is of --tlc: give that too, or leave it out")
    weights = weights.resolve()
    if not weights.is_dir():
        if name is None:
            raise ValueError(f"--network must say which network the weights {weights} are of")
        if ema:
            raise ValueError(f"--ema is for the folder of a training run; {weights} is a file: name the other file")
        window = (tlc_window or TLC_WINDOW) if tlc else None
        sha256 = _sha256(weights)
        return Network(name, dict(options), str(weights), sha256, tlc=window, **inference)
    if name is not None or options:
        raise ValueError(f"--network and its options come from {weights / RUN_FILE}: leave them out")
    file = weights / (MEAN_WEIGHTS if ema else LAST_WEIGHTS)
    name, options = _network_of_run(weights / RUN_FILE)
    window = (tlc_window or _window_of_run(weights / RUN_FILE)) if tlc else None
    return Network(name, options, str(file), _sha256(file), tlc=window, **inference)


def open_method(network: Network | None, device: torch.device) -> Method:
    """Return what turns a blurred image into a restored one; None gives it back as it is.

    Raises:
        WeightsError: if the file is gone, has changed, or does not fit the network.
        ValueError: if there is no such network, or it cannot be used as is said.
    """
    if network is None:
        return lambda image: image
    try:
        module = create_network(network.name, **network.options)
    except TypeError as error:
        raise ValueError(f"{network.name} cannot be made with the options {dict(network.options)}: {error}") from error
    protocol = {name: getattr(network, name) for name in ("ensemble", "tile", "overlap", "grid")}
    check_protocol(module.eval(), **protocol)
    pools = pools_over_image(module)
    if network.tlc is not None:
        if not pools:
            raise ValueError(f"{network.name} takes no statistics over the image: leave --tlc out")
        use_local_statistics(module, network.tlc)
    if network.tile is not None and pools:
        warnings.warn(
            f"{network.name} pools over what it sees: tiles of {network.tile} px are another protocol than the full "
            "image, and give other values",
            stacklevel=2,
        )
    load_weights(module, network.weights, sha256=network.sha256)
    module.to(device)

    def method(image: Tensor) -> Tensor:
        return restore(module, image[None], **protocol)[0]

    return method


def _network_of_run(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the network that a run has trained."""
    try:
        network = read_json(path)["network"]
        return str(network["name"]), dict(network["options"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path.parent} is no folder of a training run, for there is no {path.name}: give a file of weights"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} does not say which network was trained ({error!r}): give a file of weights"
        ) from error


def _window_of_run(path: Path) -> int:
    """Return the window of local pooling that belongs to the crops of a run, by the rule of TLC's authors."""
    try:
        return 3 * int(read_json(path)["data"]["crop_size"]) // 2
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not say data.crop_size ({error!r}): give --tlc-window") from error


def _sha256(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")  # a pipe may never end
    return hashlib.sha256(path.read_bytes()).hexdigest()
