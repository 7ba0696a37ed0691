r"""Show people what methods have made of the same images: crops side by side, and a choice between two without names.

    python -m examples.deblurring.forced_choice crops --sharp sharp/ --methods "L1=l1/" "ours=ours/" --out crops.html
    python -m examples.deblurring.forced_choice make --sharp sharp/ --methods "L1=l1/" "ours=ours/" \
        --out choices.html --key key.json
    python -m examples.deblurring.forced_choice count key.json answers-*.json

All folders hold images of the same names. `make` writes a page for people, which can be sent by mail: it asks which of
two pictures is better, and saves the answers as a file. Who answers must not see the key. `count` reads the files that
come back.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples._common import read_json, run_program, user_path, write_atomically
from examples.deblurring.evaluation.choices import SHARP, count_choices, make_study, read_images
from examples.deblurring.evaluation.page import CROP_SIZE, make_example, render_page
from examples.deblurring.evaluation.tables import as_text

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code: 0, or 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="forced_choice", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    crops = commands.add_parser("crops", help="a page of crops, with the names of the methods")
    crops.set_defaults(work=_crops)
    crops.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    make = commands.add_parser("make", help="a page for people, without the names of the methods")
    make.set_defaults(work=_make)
    make.add_argument("--key", type=user_path, required=True, metavar="FILE", help="where the key goes")
    make.add_argument("--seed", type=int, default=0, help="of the order and the sides (default: %(default)s)")
    make.add_argument("--without-sharp", action="store_true", help="do not show the sharp image between the two")
    for command in (crops, make):
        command.add_argument("--sharp", type=user_path, required=True, metavar="DIR")
        command.add_argument("--methods", nargs="+", required=True, metavar="LABEL=DIR", help="the control comes first")
        command.add_argument("--out", type=user_path, required=True, metavar="FILE", help="the page")
    count = commands.add_parser("count", help="the share of the second method, from the key and the answers")
    count.set_defaults(work=_count)
    count.add_argument("key", type=user_path)
    count.add_argument("answers", nargs="+", type=user_path)
    options = parser.parse_args(arguments)
    return run_program("forced_choice", lambda: options.work(options))


def _crops(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {options.limit}")
    images = read_images(_folders(options))
    examples = [
        make_example(name, [(label, each) for label, each in versions.items() if label != SHARP], versions[SHARP])
        for name, versions in list(images.items())[: options.limit]
    ]
    first = next(iter(_folders(options)))
    rule = f"Crops of {CROP_SIZE} px, twice enlarged without interpolation, are where {first} is furthest from sharp."
    write_atomically(options.out, render_page("Side by side", [], rule, examples).encode())
    print(f"wrote {options.out}, {len(examples)} images")


def _make(options: argparse.Namespace) -> None:
    study = make_study(read_images(_folders(options)), seed=options.seed, with_sharp=not options.without_sharp)
    key = (json.dumps(study.key, indent=1) + "\n").encode()
    if options.key.exists() and options.key.read_bytes() != key:
        raise FileExistsError(f"{options.key} is the key of another study, whose answers need it: name another file")
    write_atomically(options.key, key)
    write_atomically(options.out, study.page.encode())
    print(
        f"wrote {options.out}, {len(study.key['trials'])} questions, and {options.key}: keep that from those who answer"
    )


def _count(options: argparse.Namespace) -> None:
    print(as_text(count_choices(_read(options.key), [_read(path) for path in options.answers])))


def _folders(options: argparse.Namespace) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for text in options.methods:
        label, equals, folder = text.partition("=")
        if not label or not equals or label == SHARP or label in folders:
            raise ValueError(f"--methods takes LABEL=DIR, each label once and none of them {SHARP}, got {text}")
        folders[label] = Path(folder)
    return {**folders, SHARP: options.sharp}


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): give the key, then the files that the page has saved"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
