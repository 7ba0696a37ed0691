"""`tafm-loss blur`."""

import argparse
import sys
import warnings
from pathlib import Path

from tafm_loss._commands.arguments import Commands, count, kind_shares

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "blur",
        # Options last: --extents and --kind would take the folders for values.
        usage="%(prog)s DIR OUT --extents PX [PX ...] [OPTIONS]",
        help="make pairs of sharp and blurred images from a folder of sharp ones",
        description="Blurs the images of a folder and its sub-folders in linear light. Writes OUT/input/NAME.png "
        "(blurred), OUT/target/NAME.png (sharp), OUT/pairs.csv (how each was made) and OUT/settings.json. The same "
        "command takes up an interrupted run; nothing is overwritten.",
    )
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of sharp images")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pairs, new or begun by this command")
    parser.add_argument(
        "--extents",
        type=float,
        nargs="+",
        required=True,
        metavar="PX",
        help="how far the blur reaches, as the length of a straight motion; several make that many pairs of each image",
    )
    parser.add_argument(
        "--kind",
        nargs="+",
        default=["shake"],
        metavar="KIND",
        help="shake, linear, defocus, gaussian, or shares: shake=0.7 defocus=0.3 (default: shake)",
    )
    parser.add_argument("--transfer", default="srgb", help="srgb, none or a gamma such as 2.2 (default: %(default)s)")
    parser.add_argument(
        "--extent-jitter",
        type=float,
        default=0.0,
        metavar="J",
        help="multiply the extents of each image by a factor from 1 - J to 1 + J (default: %(default)s)",
    )
    parser.add_argument("--border", help="reflect, replicate or valid: what lies beyond the border; valid crops")
    parser.add_argument("--roll-deg", type=float, metavar="D", help="how far the camera rolls, degrees")
    parser.add_argument("--highlight-gain", type=float, metavar="G", help="make clipped highlights G times as bright")
    parser.add_argument(
        "--shot-noise",
        type=float,
        default=0.0,
        metavar="S",
        help="photon noise of the blurred images: full scale per photo-electron; 8.9e-5 is a real camera's "
        "(default: none)",
    )
    parser.add_argument(
        "--read-noise",
        type=float,
        default=0.0,
        metavar="R",
        help="read noise of the blurred images: standard deviation of linear light; 2.9e-5 is a real camera's "
        "(default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from tafm_loss.blur.pairs import write_pairs
    from tafm_loss.blur.synthesizer import BlurSynthesizer

    given = {name: getattr(options, name) for name in ("border", "roll_deg", "highlight_gain")}
    synthesizer = BlurSynthesizer(
        options.extents,
        kind=kind_shares(options.kind),
        transfer=_transfer(options.transfer),
        extent_jitter=options.extent_jitter,
        **{name: value for name, value in given.items() if value is not None},
    )
    with warnings.catch_warnings():
        # Told below, in one line each.
        warnings.filterwarnings("ignore", "skipped ", UserWarning)
        report = write_pairs(
            options.images,
            options.out,
            synthesizer,
            seed=options.seed,
            shot_noise=options.shot_noise,
            read_noise=options.read_noise,
        )
    for path, reason in report.skipped:
        print(f"tafm-loss: skipped {path}: {reason}", file=sys.stderr)
    print(
        f"{count(report.written + report.kept, 'pair')} in {options.out / 'input'} and {options.out / 'target'}"
        + (f", {report.kept} of them from before" if report.kept else "")
        + (f"; {count(len(report.skipped), 'image')} skipped" if report.skipped else "")
    )


def _transfer(name: str) -> str | float | None:
    if name.lower() == "none":
        return None
    try:
        return float(name)
    except ValueError:
        return name
