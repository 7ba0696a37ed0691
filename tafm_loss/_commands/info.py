"""`tafm-loss info`."""

import argparse
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
        "folder or Hub id, shows everything that is known about that one.",
    )
    parser.add_argument("name", nargs="?", help="a backbone; without it, all that can be named")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
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
