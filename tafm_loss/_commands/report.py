"""`tafm-loss report`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tafm_loss._commands.arguments import Commands, open_backbone, warnings_in_lines
from tafm_loss._text import align

if TYPE_CHECKING:
    from tafm_loss.backbones.backbone import Backbone

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="measure what a backbone sees, on your own images",
        description="Measures how far blur is from sharp for a backbone, next to changes that are not blur, and "
        "whether its gradient can be trusted; with --before also what tuning changed. Prints a table and writes "
        "report.json and report.png. About a minute for the bundled backbone, on one processor core.",
    )
    parser.add_argument("backbone", metavar="BACKBONE", help="a name that `tafm-loss info` lists, a folder or a Hub id")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of sharp photographs")
    parser.add_argument("--before", metavar="BACKBONE", help="the backbone that it was tuned from, for comparison")
    parser.add_argument("--weights", metavar="FILE", help="weights for a listed name")
    parser.add_argument("--before-weights", metavar="FILE", help="the same for --before")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("report-out"), help="default: %(default)s")
    parser.add_argument(
        "--most",
        type=int,
        default=32,
        metavar="N",
        help="take at most N photographs, spread evenly (default: %(default)s); R² of the extent needs 100 or more",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from tafm_loss._files import require_matplotlib
    from tafm_loss.finetune.crops import SceneCrops
    from tafm_loss.report.figures import least_report_size, report
    from tafm_loss.report.files import FIGURES_FILE, PICTURE_FILE, write_reports
    from tafm_loss.report.table import report_table

    require_matplotlib()
    if options.most < 1:
        raise ValueError(f"--most must be at least 1, got {options.most}")
    with warnings_in_lines():
        backbones = _backbones(options)
        images = SceneCrops(options.images, max(map(least_report_size, backbones.values()))).centres(options.most)
    options.out.mkdir(parents=True, exist_ok=True)
    before = backbones.get("before")
    reports = {
        title: report(
            backbone, images, untuned=None if backbone is before else before, seed=options.seed, progress=True
        )
        for title, backbone in backbones.items()
    }
    head, rows = report_table(reports)
    print(align(head, rows, right=range(1, len(head))))
    write_reports(reports, options.out)
    print(f"\nall figures: {options.out / FIGURES_FILE}, {options.out / PICTURE_FILE}")


def _backbones(options: argparse.Namespace) -> "dict[str, Backbone]":
    """Return the backbones by title, in the order of the columns."""
    after = open_backbone(options.backbone, options.weights)
    if options.before is not None:
        return {"before": open_backbone(options.before, options.before_weights), "after": after}
    if options.before_weights is not None:
        raise ValueError("--before-weights are for the backbone of --before, which is not given")
    return {after.config.name: after}
