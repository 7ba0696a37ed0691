"""Which network, how and where it is applied: what the programs that restore images take on their command lines."""

import argparse

import torch

from examples._common import user_path
from examples.deblurring.data.opening import key_values
from examples.deblurring.evaluation.inference import ENSEMBLES
from examples.deblurring.evaluation.methods import describe_network
from examples.deblurring.evaluation.settings import Network

__all__ = ["OF_A_NETWORK", "add_network_options", "network_of", "open_device"]

OF_A_NETWORK = ("network", "network_options", "ema", "tlc", "tlc_window", "ensemble", "tile", "overlap", "grid")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `OF_A_NETWORK`, and the device."""
    parser.add_argument("--network", metavar="NAME", help="of the weights; a training run says its own")
    parser.add_argument("--network-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as width=32")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a training run")
    parser.add_argument("--tlc", action="store_true", help="take pooled statistics from around each pixel")
    parser.add_argument(
        "--tlc-window",
        type=int,
        metavar="PX",
        help="how far around (default: 1.5 times the crops of the training run; 384 for a file of weights)",
    )
    parser.add_argument(
        "--ensemble", type=int, choices=ENSEMBLES, default=Network.ensemble, help="mean over so many flips and turns"
    )
    parser.add_argument("--tile", type=int, metavar="PX", help="cut images into tiles of this size")
    parser.add_argument("--overlap", type=int, metavar="PX", help=f"context of a tile (default: {Network.overlap})")
    parser.add_argument("--grid", type=int, metavar="PX", help="average crops of this size; HINet's own tests take 256")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")


def network_of(options: argparse.Namespace) -> Network:
    """Return the network that `options.weights` and the options describe.

    Raises:
        ValueError: for options that do not go together; and as `describe_network`.
        OSError: if a file is missing.
    """
    if options.overlap is not None and options.tile is None:
        raise ValueError("--overlap is of --tile: give that too, or leave it out")
    return describe_network(
        user_path(options.weights),
        options.network,
        key_values(options.network_options, "--network-options"),
        ema=options.ema,
        tlc=options.tlc,
        tlc_window=options.tlc_window,
        ensemble=options.ensemble,
        tile=options.tile,
        overlap=Network.overlap if options.overlap is None else options.overlap,
        grid=options.grid,
    )


def open_device(name: str) -> torch.device:
    """Return a device that can be computed on.

    Raises:
        ValueError: if there is no such device, or it cannot be used.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # Of what PyTorch was built without, it is an AssertionError.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name} cannot be used ({reason}): take cpu, or another one") from error
    return device
