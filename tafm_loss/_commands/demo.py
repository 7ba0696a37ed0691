"""`tafm-loss demo`."""

import argparse
from pathlib import Path

from tafm_loss._commands.arguments import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="train a small deblurring network with and without the loss, and compare",
        description="Trains a small deblurring network twice from one start, with L1 and with L1 + the loss, on blur "
        "made on the fly; prints a table over held-out scenes and writes demo.png and response.png. About two minutes "
        "on two processor cores.",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of photographs (default: generated scenes)")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("demo-out"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=2400, help="steps for each network (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from tafm_loss.demo import run_demo

    print(run_demo(images=options.images, out=options.out, steps=options.steps, seed=options.seed))
