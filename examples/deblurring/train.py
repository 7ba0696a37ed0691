"""Train a deblurring network as an experiment describes it.

    python -m examples.deblurring.train examples/deblurring/configs/unet_synthetic.yaml
    accelerate launch -m examples.deblurring.train examples/deblurring/configs/hinet_gopro.yaml
    python -m examples.deblurring.train --smoke

Run it from the root of the repository. README.md beside this file lists the experiments.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from examples._common import INTERRUPTED, run_program, user_path
from examples.deblurring.training.config import load_experiment
from examples.deblurring.training.run import train
from examples.deblurring.training.smoke import smoke

__all__ = ["main"]

CONFIGS = Path(__file__).parent / "configs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return 0, 2 for what went wrong, or 130 if interrupted."""
    options = _parser().parse_args(arguments)
    return run_program("train", lambda: _smoke(options) if options.smoke else _train(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.deblurring.train", description="Trains a deblurring network. Ctrl-C saves it."
    )
    parser.add_argument("config", nargs="*", type=user_path, metavar="CONFIG", help="a YAML file of configs/")
    parser.add_argument(
        "--datasets", type=user_path, default=Path("datasets"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--out", type=user_path, metavar="DIR", help="default: runs/NAME_OF_CONFIG")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the experiment: training.steps=1000; after CONFIG",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="two steps and an evaluation of each CONFIG (all) on generated images"
    )
    return parser


def _train(options: argparse.Namespace) -> int:
    if len(options.config) != 1:
        raise ValueError(f"name one experiment, got {len(options.config)}; there are {_listed()}")
    (config,) = options.config
    experiment = load_experiment(config, options.set)
    out = options.out or Path("runs") / config.stem
    finished = train(experiment, options.datasets, out, resume=options.resume)
    if os.environ.get("RANK", "0") == "0":  # the first of several processes speaks for all
        told = f"trained: {out}" if finished else f"interrupted: {out} holds the network so far, and --resume goes on"
        print(told, file=sys.stdout if finished else sys.stderr)
    return 0 if finished else INTERRUPTED


def _smoke(options: argparse.Namespace) -> int:
    if options.out is not None or options.resume:
        raise ValueError("--smoke keeps nothing: leave --out and --resume out")
    for config in options.config or sorted(CONFIGS.glob("*.yaml")):
        print(f"{config.stem}: {smoke(config, options.set)}", flush=True)
    return 0


def _listed() -> str:
    return ", ".join(str(path) for path in sorted(CONFIGS.glob("*.yaml")))


if __name__ == "__main__":
    sys.exit(main())
