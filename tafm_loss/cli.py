"""The command `tafm-loss`: what it understands, and how it ends. What it does is in `_commands`, which needs torch."""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tafm_loss._files import user_path
from tafm_loss._text import did_you_mean
from tafm_loss._version import __version__

__all__ = ["build_parser", "main", "run_program"]

USER_ERROR = 2
INTERRUPTED = 130
# As PyTorch says it on Linux, on Windows, and of devices.
WANT_OF_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
TOO_LARGE = "the memory does not suffice: take smaller images, crops, extents or batches, or fewer of them"
KINDS = "shake, linear, defocus, gaussian, or shares: shake=0.7 defocus=0.3"
Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"

BACKBONE = "a name that `tafm-loss info` lists, a folder or a Hub id"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for a mistake of the user, 130 if interrupted.

    A mistake is told in one line on standard error.
    """

    def work() -> None:
        options = build_parser().parse_args(arguments)
        from tafm_loss import _commands

        _commands.run(options)

    return run_program("tafm-loss", work)


def run_program(name: str, work: Callable[[], int | None]) -> int:
    """Do the work of a program and return its exit code.

    Args:
        name: of the program, for what is told on standard error.
        work: returns an exit code, or None for 0.

    Returns:
        What `work` returns; 2 for a mistake of the user or a want of memory, 130 if interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a console cannot show is written as in Python, such as \\u2192, and is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = work() or 0
        print(end="", flush=True)  # so that a full disk or a reader who has left is met here
        return code
    except BrokenPipeError:
        # The reader of our output has left; what Python would flush at exit must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or WANT_OF_MEMORY.search(str(error))):
            raise
        print(f"{name}: error: {TOO_LARGE}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        print(f"{name}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED


def _path(text: str) -> Path:
    """Return a path of a command line; `~` is the home of the user, also where the shell leaves it, as in --out=~/x."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Parser(argparse.ArgumentParser):
    """Tell a mistyped option with the usage of its own command, and the option that is near."""

    def parse_known_args(self, *args: Any, **keywords: Any) -> Any:
        options, unknown = super().parse_known_args(*args, **keywords)
        if unknown:
            near = did_you_mean(unknown[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near and f'; {near}'}")
        return options, unknown


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Say the default of an option that has one worth saying, once."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, argparse.SUPPRESS) or "(default" in (action.help or "")
        return action.help if silent else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(prog="tafm-loss", description="A loss that knows what deblurring leaves.")
    parser.add_argument("--version", action="version", version=f"tafm-loss {__version__}")
    _add_completion(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for add in (_add_demo, _add_blur, _add_finetune, _add_report, _add_push, _add_info):
        add(commands)
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    try:
        import shtab
    except ModuleNotFoundError:
        text = 'print a script for shell completion (needs `pip install "tafm-loss[completion]"`)'
        parser.add_argument("--print-completion", action=_NoCompletion, metavar="SHELL", help=text)
    else:
        shtab.add_argument_to(parser, "--print-completion", help="print a script for shell completion")


class _NoCompletion(argparse.Action):
    """Say what is missing for shell completion."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """End with a usage error."""
        parser.error('shell completion needs shtab: pip install "tafm-loss[completion]"')


def _command(
    commands: Commands,
    name: str,
    summary: str,
    description: str,
    *,
    usage: str | None = None,
    json: str | None = None,
    device: bool = False,
) -> argparse.ArgumentParser:
    """Return the parser of one command, with the options that several share."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, usage=usage, formatter_class=_Formatter
    )
    shared = parser.add_argument_group("as for other commands")
    shared.add_argument("--quiet", action="store_true", help="no progress bar and no summary; warnings and errors only")
    if json is not None:
        told = f"print {json} as JSON, and nothing else on standard output"
        shared.add_argument("--json", action="store_true", help=told)
    if device:
        shared.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: what is there)")
    return parser


def _add_demo(commands: Commands) -> None:
    parser = _command(
        commands,
        "demo",
        "train a small deblurring network with and without the loss, and compare",
        "Trains a small deblurring network twice from one start, with L1 and with L1 + the loss, on blur made on the "
        "fly; prints a table over held-out scenes and writes demo.png and response.png. A few minutes on two "
        "processor cores.",
        json="the table",
        device=True,
    )
    parser.add_argument("--images", type=_path, metavar="DIR", help="folder of photographs (default: generated scenes)")
    parser.add_argument("--out", type=_path, metavar="DIR", default=Path("demo-out"), help="folder for the pictures")
    parser.add_argument("--steps", type=int, default=2400, help="steps for each network")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, blur, network and batches")


def _add_blur(commands: Commands) -> None:
    parser = _command(
        commands,
        "blur",
        "make pairs of sharp and blurred images from a folder of sharp ones",
        "Blurs the images of a folder and its sub-folders in linear light. Writes OUT/input/NAME.png (blurred), "
        "OUT/target/NAME.png (sharp), OUT/pairs.csv (how each was made) and OUT/settings.json. The same command takes "
        "up an interrupted run; nothing is overwritten.",
        # Options last: --extents and --kind would take the folders for values.
        usage="%(prog)s DIR OUT --extents PX [PX ...] [OPTIONS]",
        json="what was written and skipped",
    )
    parser.add_argument("images", type=_path, metavar="DIR", help="folder of sharp images")
    parser.add_argument("out", type=_path, metavar="OUT", help="folder for the pairs, new or begun by this command")
    add = parser.add_argument
    add(
        "--extents",
        type=float,
        nargs="+",
        required=True,
        metavar="PX",
        help="how far the blur reaches, as the length of a straight motion; several make that many pairs of each image",
    )
    add("--kind", nargs="+", default=["shake"], metavar="KIND", help=f"{KINDS} (default: shake)")
    add("--transfer", default="srgb", help="srgb, none or a gamma such as 2.2")
    jitter = "multiply the extents of each image by a factor from 1 - J to 1 + J"
    add("--extent-jitter", type=float, default=0.0, metavar="J", help=jitter)
    add("--border", help="reflect, replicate or valid: what lies beyond the border; valid crops")
    add("--roll-deg", type=float, metavar="D", help="how far the camera rolls, degrees")
    add("--highlight-gain", type=float, metavar="G", help="make clipped highlights G times as bright")
    shot = "photon noise of the blurred images: full scale per photo-electron; 8.9e-5 is a real camera's"
    add("--shot-noise", type=float, default=0.0, metavar="S", help=shot)
    read = "read noise of the blurred images: standard deviation of linear light; 2.9e-5 is a real camera's"
    add("--read-noise", type=float, default=0.0, metavar="R", help=read)
    layout = "names of the two folders: OUT/input and OUT/target, or OUT/blur and OUT/sharp (default: input-target)"
    add("--layout", choices=["input-target", "blur-sharp"], default="input-target", help=layout)
    add("--seed", type=int, default=0, help="of kernels and noise")


def _add_finetune(commands: Commands) -> None:
    parser = _command(
        commands,
        "finetune",
        "teach a backbone what blur is, on your own images",
        "Tunes a backbone until its features order blur by its extent, and writes it to a folder that "
        "TaskAdaptiveFeatureLoss takes in place of a name, with a report of what was gained. Ctrl-C leaves a backbone "
        "and a checkpoint; the same command with --resume goes on from there.",
        # Options last: those of several values would take the backbone and the images for values.
        usage="%(prog)s BACKBONE IMAGES --out DIR [OPTIONS]",
        json="where the backbone is, and the report",
        device=True,
    )
    parser.add_argument("backbone", metavar="BACKBONE", help=BACKBONE)
    images = "folder of sharp images; generated or generated:COUNT for scenes that are made up (default: 400)"
    parser.add_argument("images", metavar="IMAGES", help=images)
    parser.add_argument("--out", type=_path, required=True, metavar="DIR", help="folder for the tuned backbone")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    add = parser.add_argument_group("where it starts").add_argument
    add("--weights", metavar="FILE", help="weights for a listed name; the word none: random weights")
    add("--layers", nargs="+", metavar="TAP", help="the taps to read")
    add("--trainable", nargs="+", metavar="PREFIX", help="tune only parameters whose names begin so (default: all)")
    add = parser.add_argument_group("what it sees").add_argument
    extents = "how far the levels of blur reach, two or more (default: 1 3 10 25)"
    add("--extents", type=float, nargs="+", metavar="PX", help=extents)
    add("--kind", nargs="+", metavar="KIND", help=KINDS)
    frames = "IMAGES holds a folder of video frames a scene, as GOPRO_Large_all does; their averages are the blur"
    add("--frames", action="store_true", help=frames)
    counts = "with --frames: how many are averaged (default: 1 3 5)"
    add("--counts", type=int, nargs="+", metavar="N", help=counts)
    add("--crop-size", type=int, default=96, metavar="PX", help="side of the crops")
    validation = "share of the scenes that is held out for the report, other images, or none"
    add("--validation", default="0.1", metavar="SHARE_OR_DIR", help=validation)
    add = parser.add_argument_group("what it learns").add_argument
    add("--objective", choices=["graded", "triplet"], default="graded", help="what is minimised")
    add("--no-distractors", action="store_true", help="graded: do without changes that are not blur")
    geometry = "graded: weight of keeping the untuned geometry (default: 0)"
    add("--geometry", type=float, metavar="W", help=geometry)
    regression = "graded: weight of telling the extent (default: 0)"
    add("--extent-regression", type=float, metavar="W", help=regression)
    add = parser.add_argument_group("how it trains").add_argument
    add("--steps", type=int, default=2000, help="of the optimiser")
    add("--batch-size", type=int, default=6, help="scenes in a step")
    add("--accumulation", type=int, default=1, metavar="K", help="cut each batch into K parts")
    add("--learning-rate", type=float, metavar="LR", help="the highest rate (default: 1e-3; 2e-3 from random weights)")
    add("--patience", type=int, metavar="N", help="stop after N validations without improvement")
    add("--mixed-precision", choices=["no", "fp16", "bf16"], default="no", help="as accelerate knows it")
    add("--seed", type=int, default=0, help="of crops, blur and distractors")


def _add_report(commands: Commands) -> None:
    parser = _command(
        commands,
        "report",
        "measure what a backbone sees, on your own images",
        "Measures how far blur is from sharp for a backbone, next to changes that are not blur, and whether its "
        "gradient can be trusted; with --before also the backbone that it was tuned from. Prints a table and writes "
        "report.json and report.png. About a minute for a bundled backbone, on one processor core.",
        json="the measurements",
        device=True,
    )
    parser.add_argument("backbone", metavar="BACKBONE", help=BACKBONE)
    add = parser.add_argument
    add("--images", type=_path, required=True, metavar="DIR", help="folder of sharp photographs")
    add("--before", metavar="BACKBONE", help="the backbone that it was tuned from, for comparison")
    add("--weights", metavar="FILE", help="weights for a listed name")
    add("--before-weights", metavar="FILE", help="the same for --before")
    add("--out", type=_path, metavar="DIR", default=Path("report-out"), help="folder for table and picture")
    add("--most", type=int, default=32, metavar="N", help="take at most N photographs, spread evenly")
    add("--seed", type=int, default=0, help="of all that is random")


def _add_push(commands: Commands) -> None:
    parser = _command(
        commands,
        "push",
        "publish a backbone on the Hugging Face Hub",
        "Verifies a folder that `tafm-loss finetune` or save_backbone wrote, makes a model card if it has no "
        "README.md, and publishes both in one commit. Prints the source that loads exactly this commit. The token is "
        "that of `hf auth login` or of HF_TOKEN.",
        json="the source",
    )
    parser.add_argument("folder", type=_path, metavar="DIR", help="folder of a backbone")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; made if there is none")
    parser.add_argument("--private", action="store_true", help="if the repository is made, show it to its owner alone")
    parser.add_argument("--tag", metavar="TAG", help="a name for the commit, such as v1")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch to commit to (default: the default branch)")


def _add_info(commands: Commands) -> None:
    parser = _command(
        commands,
        "info",
        "list the backbones, or show one in full",
        "Lists the backbones with size, taps, licence and where their weights come from; with a name, folder or Hub "
        "id, shows everything that is known about that one: where it was found and its SHA-256, its config with the "
        "channels and the stride of each tap, and what was measured when it was made.",
        json="the same",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", nargs="?", help="a name, a folder or a Hub id; without it, all that can be named")


if __name__ == "__main__":
    sys.exit(main())
