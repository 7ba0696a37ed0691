r"""Measure a network on a data set: a CSV of all images, means with intervals, tables, and a page of crops.

    python -m examples.deblurring.evaluate HINet-GoPro.pth --network hinet \
        --dataset gopro --root datasets/GOPRO_Large --split test --out results/hinet
    python -m examples.deblurring.evaluate runs/mine --dataset gopro --root datasets/GOPRO_Large --out results/mine
    python -m examples.deblurring.evaluate input --dataset gopro --root datasets/GOPRO_Large --out results/input

An interrupted evaluation is taken up by the same command. `python -m examples.deblurring.compare` sets several results
side by side.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from examples._common import run_program, user_path, warnings_in_lines
from examples.deblurring.data.opening import key_values
from examples.deblurring.evaluation.methods import RUN_FILE
from examples.deblurring.evaluation.metrics import GROUPS, METRICS
from examples.deblurring.evaluation.options import OF_A_NETWORK, add_network_options, network_of, open_device
from examples.deblurring.evaluation.run import evaluate
from examples.deblurring.evaluation.settings import INPUT, Network, Settings, with_defaults
from examples.deblurring.evaluation.tables import as_text

__all__ = ["main"]

USUAL_METRICS = "psnr,ssim,ssim_3d,gmsd,lpips,dists,stlpips"
ALIGNED = "realblur_ecc"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the evaluation and return the exit code: 0, 2 for a mistake of the user, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    return run_program("evaluate", lambda: _evaluate(options), interrupted="interrupted; the same command goes on")


def _evaluate(options: argparse.Namespace) -> None:
    with warnings_in_lines():
        settings = _settings(options)
        if options.trunks is not None:
            _check_trunks(options.trunks, settings.metrics)
        table = evaluate(settings, options.out, device=open_device(options.device), trunks=options.trunks)
    print(f"{as_text(table)}\n\nwrote {options.out}/table.md, table.tex, page.html, images.csv, summary.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help=f"a file of weights, the folder of a training run, or `{INPUT}` for the blurred images themselves",
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="such as gopro, realblur_j, hide, flat")
    parser.add_argument("--root", type=user_path, required=True, metavar="DIR", help="the folder of the data set")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--dataset-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as complete=false")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="for the results; names the method")
    parser.add_argument(
        "--metrics",
        default=USUAL_METRICS,
        metavar="NAME,NAME",
        help=f"of {', '.join([*METRICS, *GROUPS])} (default: %(default)s)",
    )
    parser.add_argument("--align", action="store_true", help="also after RealBlur's alignment by ECC")
    parser.add_argument(
        "--trunks",
        type=user_path,
        metavar="DIR",
        help="the networks of LPIPS and DISTS, made by `python -m examples.deblurring.fetch trunks DIR` "
        "(default: torchvision downloads them, 233 and 528 MB)",
    )
    parser.add_argument("--niqe-parameters", type=user_path, metavar="FILE", help="niqe_pris_params.npz, for NIQE")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--save-images", action="store_true", help="write all restored images")
    add_network_options(parser)
    return parser


def _check_trunks(folder: Path, metrics: Sequence[str]) -> None:
    if not {"lpips", "dists"} & set(metrics):
        raise ValueError("--trunks is for the metrics lpips and dists: add one to --metrics, or leave it out")
    if not folder.is_dir():
        raise NotADirectoryError(f"--trunks must be a folder, got {folder}")


def _settings(options: argparse.Namespace) -> Settings:
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {options.limit}")
    metrics = [name.strip() for name in options.metrics.split(",")]
    if options.align and ALIGNED not in metrics:
        metrics.append(ALIGNED)
    if options.niqe_parameters is not None and "niqe" not in metrics:
        raise ValueError("--niqe-parameters is for the metric niqe: add that to --metrics, or leave it out")
    return Settings(
        network=_network(options),
        dataset=options.dataset,
        root=str(options.root.resolve()),
        split=options.split,
        dataset_options=with_defaults(options.dataset, key_values(options.dataset_options, "--dataset-options")),
        metrics=metrics,
        niqe_parameters=options.niqe_parameters and str(options.niqe_parameters.resolve()),
        limit=options.limit,
        save_images=options.save_images,
    )


def _network(options: argparse.Namespace) -> Network | None:
    if options.weights == INPUT:
        if Path(INPUT, RUN_FILE).exists():
            raise ValueError(f"`{INPUT}` means the blurred images, and is a run here as well: write ./{INPUT} for that")
        default = _parser().get_default
        if said := [name for name in OF_A_NETWORK if getattr(options, name) != default(name)]:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in said)
            raise ValueError(f"`{INPUT}` has no network, which {flags} would change: leave that out")
        return None
    return network_of(options)


if __name__ == "__main__":
    sys.exit(main())
