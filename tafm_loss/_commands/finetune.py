"""`tafm-loss finetune`."""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tafm_loss._commands.arguments import Commands, kind_shares, open_backbone, warnings_in_lines

if TYPE_CHECKING:
    from torch import Tensor

    from tafm_loss.backbones.backbone import Backbone
    from tafm_loss.blur.frames import FrameExposures
    from tafm_loss.blur.synthesizer import BlurSynthesizer
    from tafm_loss.finetune import Objective

__all__ = ["add"]

GENERATED_SCENES = 400
GENERATED_SIZE = 160


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "finetune",
        # Options last: those of several values would take the backbone and the images for values.
        usage="%(prog)s BACKBONE IMAGES --out DIR [OPTIONS]",
        help="teach a backbone what blur is, on your own images",
        description="Tunes a backbone until its features order blur by its extent, and writes it to a folder that "
        "TaskAdaptiveFeatureLoss takes in place of a name, with a report of what was gained. Ctrl-C leaves a backbone "
        "and a checkpoint; the same command with --resume goes on from there.",
    )
    parser.add_argument("backbone", metavar="BACKBONE", help="a name that `tafm-loss info` lists, a folder or a Hub id")
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help=f"folder of sharp images; generated or generated:COUNT for scenes that are made up ({GENERATED_SCENES})",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the tuned backbone")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    _add_start(parser.add_argument_group("where it starts"))
    _add_data(parser.add_argument_group("what it sees"))
    _add_goal(parser.add_argument_group("what it learns"))
    _add_training(parser.add_argument_group("how it trains"))
    parser.set_defaults(run=_run)


def _add_start(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--weights", metavar="FILE", help="weights for a listed name; none starts from random ones")
    group.add_argument("--layers", nargs="+", metavar="TAP", help="the taps to read of a listed name")
    group.add_argument(
        "--trainable", nargs="+", metavar="PREFIX", help="tune only parameters whose names begin so (default: all)"
    )


def _add_data(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--extents", type=float, nargs="+", metavar="PX", help="how far the levels of blur reach, two or more"
    )
    group.add_argument(
        "--kind", nargs="+", metavar="KIND", help="shake, linear, defocus, gaussian, or shares: shake=0.7 defocus=0.3"
    )
    group.add_argument(
        "--frames",
        action="store_true",
        help="IMAGES holds a folder of video frames a scene, as GOPRO_Large_all does; their averages are the blur",
    )
    group.add_argument(
        "--counts", type=int, nargs="+", metavar="N", help="with --frames: how many are averaged (default: 1 3 5)"
    )
    group.add_argument("--crop-size", type=int, default=96, metavar="PX", help="default: %(default)s")
    group.add_argument(
        "--validation",
        default="0.1",
        metavar="SHARE_OR_DIR",
        help="share of the scenes that is held out for the report, other images, or none (default: %(default)s)",
    )


def _add_goal(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--objective", choices=["graded", "triplet"], default="graded", help="default: %(default)s")
    group.add_argument("--no-distractors", action="store_true", help="graded: do without changes that are not blur")
    group.add_argument(
        "--geometry", type=float, metavar="W", help="graded: weight of keeping the untuned geometry (default: 0)"
    )
    group.add_argument(
        "--extent-regression", type=float, metavar="W", help="graded: weight of telling the extent (default: 0)"
    )


def _add_training(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--steps", type=int, default=2000, help="default: %(default)s")
    group.add_argument("--batch-size", type=int, default=6, help="scenes in a step (default: %(default)s)")
    group.add_argument("--accumulation", type=int, default=1, metavar="K", help="cut each batch into K parts")
    group.add_argument("--learning-rate", type=float, metavar="LR", help="the peak of the schedule")
    group.add_argument("--patience", type=int, metavar="N", help="stop after N validations without improvement")
    group.add_argument("--mixed-precision", choices=["no", "fp16", "bf16"], default="no", help="default: %(default)s")
    group.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _run(options: argparse.Namespace) -> None:
    from tafm_loss.finetune import finetune_backbone

    synthesizer, objective = _synthesizer(options), _objective(options)
    with warnings_in_lines():
        warnings.filterwarnings("ignore", "interrupted at step", UserWarning)  # told below, in the command's words
        result = finetune_backbone(
            _start(options),
            _scenes(options.images, options, options.seed),
            synthesizer=synthesizer,
            objective=objective,
            steps=options.steps,
            batch_size=options.batch_size,
            crop_size=options.crop_size,
            learning_rate=options.learning_rate,
            validation=_validation(options),
            out_dir=options.out,
            resume=options.resume,
            seed=options.seed,
            mixed_precision=options.mixed_precision,
            trainable=options.trainable,
            accumulation=options.accumulation,
            patience=options.patience,
        )
    if not result.finished:
        raise KeyboardInterrupt(f"interrupted; {options.out} holds a backbone that can be used, and --resume goes on")
    print("\n".join(_summary(options.out, result.report)))


def _start(options: argparse.Namespace) -> "Backbone":
    """Return the backbone to tune; random weights are those of the seed, so that a run can be resumed."""
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(options.seed)
        # What is random is about to be trained.
        warnings.filterwarnings("ignore", ".*(has random weights|is random)", UserWarning)
        return open_backbone(options.backbone, options.weights, options.layers)


def _scenes(place: str, options: argparse.Namespace, seed: int) -> "Path | Tensor | FrameExposures":
    """Return what a folder holds, or generated scenes."""
    word, _, number = place.partition(":")
    if word == "generated":
        return _generated_scenes(number, options, seed)
    if not options.frames:
        return Path(place)
    from tafm_loss.blur.frames import FrameExposures

    return FrameExposures(place) if options.counts is None else FrameExposures(place, options.counts)


def _generated_scenes(number: str, options: argparse.Namespace, seed: int) -> "Tensor":
    import torch

    from tafm_loss.scenes import generate_scenes

    if options.frames:
        raise ValueError("generated scenes are no video frames; leave --frames out, or name a folder")
    if number and not number.isdecimal():
        raise ValueError(f"generated:COUNT takes a number of scenes, got generated:{number}")
    size = max(GENERATED_SIZE, options.crop_size)
    return generate_scenes(int(number or GENERATED_SCENES), size, generator=torch.Generator().manual_seed(seed))


def _validation(options: argparse.Namespace) -> "float | Path | Tensor | FrameExposures | None":
    if options.validation == "none":
        return None
    try:
        return float(options.validation)
    except ValueError:
        # Generated scenes must not be those that it trains on.
        return _scenes(options.validation, options, options.seed + 1)


def _synthesizer(options: argparse.Namespace) -> "BlurSynthesizer | None":
    if options.counts is not None and not options.frames:
        raise ValueError("--counts says how many video frames are averaged; it needs --frames")
    if options.extents is None and options.kind is None:
        return None
    if options.frames:
        raise ValueError("--extents and --kind make blur; with --frames it comes from the frames, and they must go")
    from tafm_loss.blur.synthesizer import BlurSynthesizer
    from tafm_loss.finetune import default_synthesizer

    usual = default_synthesizer()
    extents = usual.extents[1:] if options.extents is None else options.extents
    kinds = usual.kinds if options.kind is None else kind_shares(options.kind)
    return BlurSynthesizer((0.0, *extents), kind=kinds, extent_jitter=usual.extent_jitter)


def _objective(options: argparse.Namespace) -> "Objective":
    from tafm_loss.finetune import GradedObjective, TripletObjective

    weights = {"geometry": options.geometry, "extent": options.extent_regression}
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if options.objective == "graded":
        return GradedObjective(distractors=not options.no_distractors, **given)
    if given or options.no_distractors:
        raise ValueError("--no-distractors, --geometry and --extent-regression belong to --objective graded")
    return TripletObjective()


def _summary(out: Path, report: Mapping[str, Any]) -> list[str]:
    """Return where the backbone is, how to use it, and what was gained."""
    from tafm_loss.report.table import selectivity_gains

    # The whole path: it works from any folder, and is never taken for a listed name.
    folder = out.resolve()
    return [
        f"tuned backbone: {folder}",
        f"in Python: TaskAdaptiveFeatureLoss.from_pretrained({str(folder)!r})",
        *selectivity_gains(report),
    ]
