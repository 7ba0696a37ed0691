"""`tafm-loss info`."""

import argparse
import json
from typing import TYPE_CHECKING

from tafm_loss._commands.arguments import Commands
from tafm_loss._text import align

if TYPE_CHECKING:
    from tafm_loss.backbones.backbone import BackboneConfig

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "info",
        help="list the backbones, or show one in full",
        description="Lists the backbones with size, taps, licence and where their weights come from; with a name, "
        "folder or Hub id, shows everything that is known about that one: where it was found and its SHA-256, its "
        "config, and the figures measured when it was made.",
    )
    parser.add_argument(
        "name", metavar="SOURCE", nargs="?", help="a name, a folder or a Hub id; without it, all that can be named"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from tafm_loss.backbones.registry import describe_backbones

    if options.name is not None:
        print(_describe(options.name))
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


def _describe(name: str) -> str:
    """Return all that is known about a backbone as JSON; weights that need not be downloaded for it are not."""
    from tafm_loss.backbones.registry import find_architecture, list_backbones
    from tafm_loss.weights.loading import load_backbone, read_file
    from tafm_loss.weights.sources import read_source

    place = read_source(name)
    if place not in list_backbones():
        # Not loaded: an architecture of somebody's own can be described without its code.
        file, origin = read_file(place)
        return _as_json(file.config, sha256=file.sha256, source=origin or str(place))
    architecture = find_architecture(name)
    if architecture.source != "tafm-loss":
        return _as_json(architecture.config(architecture.build_empty(architecture.taps), base_weights=None))
    backbone = load_backbone(name)
    return _as_json(backbone.config, sha256=backbone.sha256)


def _as_json(config: "BackboneConfig | None", **facts: str) -> str:
    return json.dumps({**facts, **({} if config is None else json.loads(config.to_json()))}, indent=1)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
