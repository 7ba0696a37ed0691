"""The command `tafm-loss`."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tafm_loss._text import align
from tafm_loss._version import __version__

if TYPE_CHECKING:
    from tafm_loss.backbones.backbone import BackboneConfig

__all__ = ["main"]

USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for a mistake of the user, 130 if interrupted.

    A mistake is told in one line on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except BrokenPipeError:
        # The reader of our output has left; what Python would flush at exit must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:
        print(f"tafm-loss: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("tafm-loss: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tafm-loss", description="A loss that has learned what blur is.")
    parser.add_argument("--version", action="version", version=f"tafm-loss {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_demo, _add_blur, _add_info):
        add(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    from tafm_loss.demo import run_demo

    print(run_demo(images=options.images, out=options.out, steps=options.steps, seed=options.seed))


def _add_blur(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    parser.set_defaults(run=_blur)


def _blur(options: argparse.Namespace) -> None:
    from tafm_loss.blur.pairs import write_pairs
    from tafm_loss.blur.synthesizer import BlurSynthesizer

    given = {name: getattr(options, name) for name in ("border", "roll_deg", "highlight_gain")}
    synthesizer = BlurSynthesizer(
        options.extents,
        kind=_shares(options.kind),
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
        f"{_count(report.written + report.kept, 'pair')} in {options.out / 'input'} and {options.out / 'target'}"
        + (f", {report.kept} of them from before" if report.kept else "")
        + (f"; {_count(len(report.skipped), 'image')} skipped" if report.skipped else "")
    )


def _shares(kinds: Sequence[str]) -> dict[str, float]:
    """Turn "shake=0.7 defocus=0.3" or "shake defocus" into probabilities, up to a factor."""
    shares = {}
    for kind in kinds:
        name, _, share = kind.partition("=")
        if name in shares:
            raise ValueError(f"--kind names {name} twice")
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise ValueError(f"--kind takes names and NAME=SHARE with a number as share, got {kind}") from None
    return shares


def _transfer(name: str) -> str | float | None:
    if name.lower() == "none":
        return None
    try:
        return float(name)
    except ValueError:
        return name


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "info",
        help="list the backbones, or show one in full",
        description="Lists the backbones with size, taps, licence and where their weights come from; with a name, "
        "folder or Hub id, shows everything that is known about that one.",
    )
    parser.add_argument("name", nargs="?", help="a backbone; without it, all that can be named")
    parser.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> None:
    from tafm_loss.backbones.registry import describe_backbones

    if options.name is not None:
        print(_known_config(options.name).to_json())
        return
    head = ["name", "weights", "file", "read at", "taps", "licence", "where from"]
    rows = [
        [
            backbone.name,
            f"{backbone.parameters:,}",
            _megabytes(4 * backbone.parameters),
            " ".join(backbone.default_layers),
            str(len(backbone.taps)),
            backbone.licence,
            backbone.weights.split(" (")[0],
        ]
        for backbone in describe_backbones()
    ]
    print(align(head, rows, right=(1, 2, 4)))
    print(
        "\nweights, file: up to the deepest default tap, in float32. read at: the default taps; "
        "`tafm-loss info NAME` shows a backbone's config."
    )


def _known_config(name: str) -> "BackboneConfig":
    """Return the config, without downloading weights for names whose config does not need them."""
    from tafm_loss.backbones.registry import find_architecture, list_backbones
    from tafm_loss.weights import load_backbone

    architecture = find_architecture(name) if name in list_backbones() else None
    if architecture is not None and architecture.source != "tafm-loss":
        return architecture.config(architecture.build_empty(architecture.taps), base_weights=None)
    return load_backbone(name).config


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
