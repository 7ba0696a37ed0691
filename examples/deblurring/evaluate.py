r"""Measure a network on a data set: a CSV of all images, means with intervals, tables, and a page of crops.

    python -m examples.deblurring.evaluate HINet-GoPro.pth --network hinet \
        --dataset gopro --root datasets/GOPRO_Large --split test --out results/hinet
    python -m examples.deblurring.evaluate runs/mine --dataset gopro --root datasets/GOPRO_Large --out results/mine
    python -m examples.deblurring.evaluate input --dataset gopro --root datasets/GOPRO_Large --out results/input

An interrupted evaluation is taken up by the same command. `python -m examples.deblurring.compare` sets several results
side by side.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from examples.deblurring.evaluation.inference import ENSEMBLES
from examples.deblurring.evaluation.methods import describe_network
from examples.deblurring.evaluation.metrics import GROUPS, METRICS
from examples.deblurring.evaluation.run import evaluate
from examples.deblurring.evaluation.settings import INPUT, Network, Settings
from examples.deblurring.evaluation.tables import as_text
from tafm_loss._commands.arguments import warnings_in_lines

__all__ = ["main"]

USER_ERROR = 2
INTERRUPTED = 130
USUAL_METRICS = "psnr,ssim,ssim_3d,gmsd"
ALIGNED = "realblur_ecc"
INFERENCE = ("tlc", "ensemble", "tile", "overlap", "grid")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the evaluation and return the exit code: 0, 2 for a mistake of the user, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    try:
        with warnings_in_lines():
            table = evaluate(_settings(options), options.out, device=torch.device(options.device))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"evaluate: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("evaluate: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    print(f"{as_text(table)}\n\nwrote {options.out}/table.md, table.tex, page.html, images.csv, summary.json")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help=f"a file of weights, the folder of a training run, or `{INPUT}` for the blurred images themselves",
    )
    parser.add_argument("--network", metavar="NAME", help="of the weights; a training run says its own")
    parser.add_argument("--network-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as width=32")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a training run")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="such as gopro, realblur_j, hide, flat")
    parser.add_argument("--root", required=True, metavar="DIR", help="the folder of the data set")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--dataset-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as complete=false")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go; names the method")
    parser.add_argument(
        "--metrics",
        default=USUAL_METRICS,
        metavar="NAME,NAME",
        help=f"of {', '.join([*METRICS, *GROUPS])} (default: %(default)s)",
    )
    parser.add_argument("--align", action="store_true", help="also after RealBlur's alignment by ECC")
    parser.add_argument("--niqe-parameters", metavar="FILE", help="niqe_pris_params.npz, for NIQE")
    parser.add_argument("--tlc", action="store_true", help="take pooled statistics from around each pixel")
    parser.add_argument(
        "--ensemble", type=int, choices=ENSEMBLES, default=Network.ensemble, help="mean over so many flips and turns"
    )
    parser.add_argument("--tile", type=int, metavar="PX", help="cut images into tiles of this size")
    parser.add_argument(
        "--overlap", type=int, default=Network.overlap, metavar="PX", help="context of a tile (default: %(default)s)"
    )
    parser.add_argument("--grid", type=int, metavar="PX", help="average crops of this size; HINet's own tests take 256")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--save-images", action="store_true", help="write all restored images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {options.limit}")
    metrics = [name.strip() for name in options.metrics.split(",")]
    if options.align and ALIGNED not in metrics:
        metrics.append(ALIGNED)
    return Settings(
        network=_network(options),
        dataset=options.dataset,
        root=options.root,
        split=options.split,
        dataset_options=_key_values(options.dataset_options, "--dataset-options"),
        metrics=metrics,
        niqe_parameters=options.niqe_parameters,
        limit=options.limit,
        save_images=options.save_images,
    )


def _network(options: argparse.Namespace) -> Network | None:
    network_options = _key_values(options.network_options, "--network-options")
    inference = {name: getattr(options, name) for name in INFERENCE}
    if options.weights != INPUT:
        return describe_network(Path(options.weights), options.network, network_options, ema=options.ema, **inference)
    changed = [f"--{name}" for name, value in inference.items() if value != getattr(Network, name, None)]
    given = [name for name in ("network", "network_options", "ema") if getattr(options, name)]
    if said := [*(f"--{name.replace('_', '-')}" for name in given), *changed]:
        raise ValueError(f"`{INPUT}` has no network, which {', '.join(said)} would change: leave that out")
    return None


def _key_values(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Turn "width=32" and "blur=blur_gamma" into values: numbers, booleans and lists as in JSON, else text."""
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"{option} takes KEY=VALUE, got {text}")
        if key in values:
            raise ValueError(f"{option} names {key} twice")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values


if __name__ == "__main__":
    sys.exit(main())
