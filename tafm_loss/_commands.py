"""What the commands of `tafm-loss` do. Each returns what it says: as text for people, and as data for programs."""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tafm_loss import (
    Backbone,
    BackboneConfig,
    BlurSynthesizer,
    create_backbone,
    finetune_backbone,
    load_backbone,
    push_backbone,
)
from tafm_loss._files import require_matplotlib, user_path
from tafm_loss._text import align
from tafm_loss.backbones.architecture import Architecture, Bundled
from tafm_loss.backbones.registry import describe_backbones
from tafm_loss.blur.frames import FrameExposures
from tafm_loss.blur.pairs import LAYOUTS, write_pairs
from tafm_loss.demo import run_demo
from tafm_loss.finetune import GradedObjective, Objective, TripletObjective, default_synthesizer
from tafm_loss.finetune.crops import SceneCrops
from tafm_loss.report import (
    FIGURE_FILE,
    REPORT_FILE,
    least_report_size,
    report,
    report_table,
    selectivity_gains,
    write_reports,
)
from tafm_loss.scenes import generate_scenes
from tafm_loss.weights.loading import locate, read_source

__all__ = ["run"]

ACCELERATE_DEVICE = "ACCELERATE_TORCH_DEVICE"
GENERATED_SCENES = 400
GENERATED_SIZE = 160
GENERATED_BYTES = 8 * 2**30
PLAN = (
    *("steps", "batch_size", "crop_size", "learning_rate", "resume", "seed", "mixed_precision", "trainable"),
    *("accumulation", "patience"),
)


class Said(NamedTuple):
    """What a command says at its end."""

    text: str
    data: Any


def run(options: argparse.Namespace) -> None:
    """Do what the command line says, and print the outcome."""
    with _warnings_in_lines():
        said = COMMANDS[options.command](options)
    if getattr(options, "json", False):
        print(json.dumps(said.data, indent=1))
    elif not options.quiet:
        print(said.text)


def _demo(options: argparse.Namespace) -> Said:
    result = run_demo(
        images=options.images,
        out=options.out,
        steps=options.steps,
        seed=options.seed,
        device=_device(options.device),
        progress=not options.quiet,
    )
    files = [str(path) for path in result.files]
    return Said(str(result), {"head": result.head, "rows": result.rows, "notes": result.notes, "files": files})


def _blur(options: argparse.Namespace) -> Said:
    given = {name: getattr(options, name) for name in ("border", "roll_deg", "highlight_gain")}
    synthesizer = BlurSynthesizer(
        options.extents,
        kind=_kind_shares(options.kind),
        transfer=_transfer(options.transfer),
        extent_jitter=options.extent_jitter,
        **{name: value for name, value in given.items() if value is not None},
    )
    # What is skipped is told below, in one line each.
    warnings.filterwarnings("ignore", "skipped ", UserWarning)
    found = write_pairs(
        options.images,
        options.out,
        synthesizer,
        seed=options.seed,
        shot_noise=options.shot_noise,
        read_noise=options.read_noise,
        layout=options.layout,
        progress=not options.quiet,
    )
    for path, reason in found.skipped:
        print(f"tafm-loss: skipped {path}: {reason}", file=sys.stderr)
    blurred, sharp = (options.out / folder for folder in LAYOUTS[options.layout])
    text = (
        f"{_count(found.written + found.kept, 'pair')} in {blurred} and {sharp}"
        + (f", {found.kept} of them from before" if found.kept else "")
        + (f"; {_count(len(found.skipped), 'image')} skipped" if found.skipped else "")
    )
    skipped = {str(path): reason for path, reason in found.skipped}
    return Said(text, {"written": found.written, "kept": found.kept, "skipped": skipped})


def _transfer(name: str) -> str | float | None:
    if name.lower() == "none":
        return None
    try:
        return float(name)
    except ValueError:
        return name


def _finetune(options: argparse.Namespace) -> Said:
    synthesizer, objective = _synthesizer(options), _objective(options)
    # An interruption is told below, in the command's words.
    warnings.filterwarnings("ignore", "interrupted at step", UserWarning)
    with _accelerate_on(_device(options.device)):
        result = finetune_backbone(
            _start(options),
            _scenes(options.images, options, options.seed),
            synthesizer=synthesizer,
            objective=objective,
            validation=_validation(options),
            out_dir=options.out,
            progress=not options.quiet,
            **{name: getattr(options, name) for name in PLAN},
        )
    if not result.finished:
        raise KeyboardInterrupt(f"interrupted; {options.out} holds a backbone that can be used, and --resume goes on")
    # The whole path: it works from any folder, and is never taken for a listed name.
    folder = str(options.out.resolve())
    lines = [f"tuned backbone: {folder}", f"in Python: TaskAdaptiveFeatureLoss.from_pretrained({folder!r})"]
    return Said("\n".join([*lines, *selectivity_gains(result.report)]), {"folder": folder, "report": result.report})


@contextlib.contextmanager
def _accelerate_on(device: torch.device | None) -> Iterator[None]:
    """Let accelerate, which asks the environment alone, take a device; the environment is left as it was."""
    before = os.environ.get(ACCELERATE_DEVICE)
    if device is not None:
        os.environ[ACCELERATE_DEVICE] = str(device)
    try:
        yield
    finally:
        os.environ.pop(ACCELERATE_DEVICE, None)
        if before is not None:
            os.environ[ACCELERATE_DEVICE] = before


def _start(options: argparse.Namespace) -> Backbone:
    """Return the backbone to tune; random weights are those of the seed, so that a run can be resumed."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(options.seed)
        # What is random is about to be trained.
        warnings.filterwarnings("ignore", ".*(has random weights|is random)", UserWarning)
        return _backbone(options.backbone, options.weights, options.layers)


def _scenes(place: str, options: argparse.Namespace, seed: int) -> Path | Tensor | FrameExposures:
    """Return what a folder holds, or generated scenes."""
    word, _, number = place.partition(":")
    if word == "generated":
        _check_word(place)
        return _generated_scenes(number, options, seed)
    if not options.frames:
        return user_path(place)
    return FrameExposures(place) if options.counts is None else FrameExposures(place, options.counts)


def _check_word(word: str) -> None:
    """Raise a ValueError for a word that names something else here as well: nobody can know which is meant."""
    if Path(word).exists():
        raise ValueError(
            f"{word} is a word of this command, and {Path(word).resolve()} is there as well; write ./{word} for the "
            "path, or give the command in another folder for the word"
        )


def _generated_scenes(number: str, options: argparse.Namespace, seed: int) -> Tensor:
    if options.frames:
        raise ValueError("generated scenes are no video frames; leave --frames out, or name a folder")
    if number and not number.isdecimal():
        raise ValueError(f"generated:COUNT takes a number of scenes, got generated:{number}")
    count, size = int(number or GENERATED_SCENES), max(GENERATED_SIZE, options.crop_size)
    needed = count * 3 * size**2 * 4  # float32
    if needed > GENERATED_BYTES:
        raise ValueError(
            f"{count} generated scenes of {size} x {size} px need {needed / 2**30:.3g} GiB of memory, more than the "
            f"{GENERATED_BYTES // 2**30} GiB that are taken; make fewer, or take a smaller --crop-size"
        )
    return generate_scenes(count, size, generator=torch.Generator().manual_seed(seed))


def _validation(options: argparse.Namespace) -> float | Path | Tensor | FrameExposures | None:
    if options.validation == "none":
        _check_word(options.validation)
        return None
    try:
        return float(options.validation)
    except ValueError:
        # Generated scenes must not be those that it trains on.
        return _scenes(options.validation, options, options.seed + 1)


def _synthesizer(options: argparse.Namespace) -> BlurSynthesizer | None:
    if options.counts is not None and not options.frames:
        raise ValueError("--counts says how many video frames are averaged; it needs --frames")
    if options.extents is None and options.kind is None:
        return None
    if options.frames:
        raise ValueError("--extents and --kind make blur; with --frames it comes from the frames, and they must go")
    usual = default_synthesizer()
    extents = usual.extents[1:] if options.extents is None else options.extents
    kinds = usual.kinds if options.kind is None else _kind_shares(options.kind)
    return BlurSynthesizer((0.0, *extents), kind=kinds, extent_jitter=usual.extent_jitter)


def _objective(options: argparse.Namespace) -> Objective:
    weights = {"geometry": options.geometry, "extent": options.extent_regression}
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if options.objective == "graded":
        return GradedObjective(distractors=not options.no_distractors, **given)
    if given or options.no_distractors:
        raise ValueError("--no-distractors, --geometry and --extent-regression belong to --objective graded")
    return TripletObjective()


def _report(options: argparse.Namespace) -> Said:
    require_matplotlib()
    if options.most < 1:
        raise ValueError(f"--most must be at least 1, got {options.most}")
    device = _device(options.device)
    backbones = {title: backbone.to(device) for title, backbone in _reported(options).items()}
    images = SceneCrops(options.images, max(map(least_report_size, backbones.values()))).centres(options.most)
    options.out.mkdir(parents=True, exist_ok=True)
    reports = {
        title: report(backbone, images.to(device), seed=options.seed, progress=not options.quiet)
        for title, backbone in backbones.items()
    }
    write_reports(reports, options.out)
    head, rows = report_table(reports)
    table = align(head, rows, right=range(1, len(head)))
    return Said(f"{table}\n\nall of it: {options.out / REPORT_FILE}, {options.out / FIGURE_FILE}", reports)


def _reported(options: argparse.Namespace) -> dict[str, Backbone]:
    """Return the backbones by title, in the order of the columns."""
    after = _backbone(options.backbone, options.weights)
    if options.before is not None:
        return {"before": _backbone(options.before, options.before_weights), "after": after}
    if options.before_weights is not None:
        raise ValueError("--before-weights are for the backbone of --before, which is not given")
    return {after.config.name: after}


def _push(options: argparse.Namespace) -> Said:
    source = push_backbone(
        options.folder, options.repo_id, private=options.private or None, revision=options.revision, tag=options.tag
    )
    named = f"{options.repo_id}@{options.tag}" if options.tag else source
    text = f"pushed: {source}\nto see what is there: tafm-loss info {named}; its README.md says how to load it"
    return Said(text, {"source": source})


def _info(options: argparse.Namespace) -> Said:
    if options.source is not None:
        facts = _facts(options.source)
        return Said(_compact(json.dumps(facts, indent=1)), facts)
    backbones = describe_backbones()
    head = ["name", "weights", "file", "read at", "taps", "licence", "where from"]
    rows = [
        [
            backbone.name,
            f"{backbone.parameters:,}",
            f"{4 * backbone.parameters / 1e6:.1f} MB",
            " ".join(backbone.default_layers),
            str(len(backbone.taps)),
            backbone.licence,
            backbone.weights.split(" (")[0],
        ]
        for backbone in backbones
    ]
    legend = (
        "weights, file: up to the deepest default tap, in float32. read at: the default taps; "
        "`tafm-loss info NAME` shows a backbone's config."
    )
    return Said(
        f"{align(head, rows, right=(1, 2, 4))}\n\n{legend}", [dataclasses.asdict(backbone) for backbone in backbones]
    )


def _compact(text: str) -> str:
    """Return JSON with its innermost lists and objects on one line each."""
    return re.sub(r"[\[{][^\[\]{}\"]*(?:\"[^\"]*\"[^\[\]{}\"]*)*[\]}]", lambda found: " ".join(found[0].split()), text)


def _facts(name: str) -> dict[str, Any]:
    """Return all that is known about a backbone; weights that need not be downloaded for it are not."""
    place = locate(name)
    if not isinstance(place, Architecture):
        # Not loaded: an architecture of somebody's own can be described without its code.
        file, origin = read_source(place)
        return _as_facts(file.config, sha256=file.sha256, source=origin or str(place))
    if not isinstance(place.default_weights, Bundled):
        return _as_facts(place.config(place.build_empty(place.taps), base_weights=None))
    backbone = load_backbone(name)
    return _as_facts(backbone.config, sha256=backbone.sha256)


def _as_facts(config: BackboneConfig | None, **facts: str) -> dict[str, Any]:
    return {**facts, **({} if config is None else json.loads(config.to_json()))}


def _backbone(source: str, weights: str | None = None, layers: Sequence[str] | None = None) -> Backbone:
    """Return the backbone that a command line names; other weights can be given for a listed name alone."""
    if weights is None:
        return load_backbone(source, layers=layers)
    return create_backbone(source, weights=None if weights == "none" else weights, layers=layers)


def _device(name: str | None) -> torch.device | None:
    """Return a device that is there; None leaves the choice to torch."""
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"--device {name} cannot be had here: {reason}") from None
    return device


def _kind_shares(kinds: Sequence[str]) -> dict[str, float]:
    """Turn "shake=0.7 defocus=0.3" or "shake defocus" into probabilities, up to a factor."""
    shares: dict[str, float] = {}
    for kind in kinds:
        name, _, share = kind.partition("=")
        if name in shares:
            raise ValueError(f"--kind names {name} twice")
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise ValueError(f"--kind takes names and NAME=SHARE with a number as share, got {kind}") from None
    return shares


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Tell warnings in one line each on standard error."""
    from tqdm import tqdm

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        # Above a progress bar, not in it.
        tqdm.write(f"tafm-loss: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = tell
        yield


COMMANDS: Mapping[str, Callable[[argparse.Namespace], Said]] = {
    "demo": _demo,
    "blur": _blur,
    "finetune": _finetune,
    "report": _report,
    "push": _push,
    "info": _info,
}
