"""Set results of evaluate.py on the same images side by side: means, differences from the first one, and crops.

python -m examples.deblurring.compare results/input results/hinet results/hinet-tafm --out results/comparison
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from examples._common import run_program, user_path, warnings_in_lines
from examples.deblurring.evaluation.comparison import compare
from examples.deblurring.evaluation.options import open_device
from examples.deblurring.evaluation.tables import as_text

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and return the exit code: 0, or 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=user_path, metavar="RESULT", help="a folder of evaluate.py")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="where the comparison goes")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where images that were not saved are restored again, for the crops (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    return run_program("compare", lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    with warnings_in_lines():
        tables = compare(options.results, options.out, device=open_device(options.device))
    print("\n\n".join(map(as_text, tables)))
    print(f"\nwrote {options.out}/table.md, table.tex, page.html, comparison.json")


if __name__ == "__main__":
    sys.exit(main())
