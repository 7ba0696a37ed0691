"""The command `tafm-loss`."""

import argparse
import sys
from collections.abc import Sequence

from tafm_loss._commands import blur, demo, finetune, info, push, report
from tafm_loss._commands.program import run_program
from tafm_loss._version import __version__

__all__ = ["main"]

COMMANDS = (demo, blur, finetune, report, push, info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for a mistake of the user, 130 if interrupted.

    A mistake is told in one line on standard error.
    """
    options = _parser().parse_args(arguments)
    return run_program("tafm-loss", lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tafm-loss", description="A loss that has learned what blur is.")
    parser.add_argument("--version", action="version", version=f"tafm-loss {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
