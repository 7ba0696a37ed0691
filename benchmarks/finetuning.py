"""What each objective makes of a backbone: an ImageNet SqueezeNet 1.0, and `tafm-compact` from random weights.

Tunes every arm with every seed on training photographs or generated scenes, and measures it on photographs that no
training saw. The backbones go to OUT, where an interrupted run is taken up; the figures to results/finetuning.json and
results/finetuning_compact.json, after every arm. Arms that are there are skipped.

    python benchmarks/finetuning.py squeezenet OUT --train DIR --test DIR --weights FILE.safetensors [--seeds 3]
    python benchmarks/finetuning.py compact OUT --train DIR --test DIR
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, ROOT, metadata, write_figure, write_result
from _photographs import central_crops
from _probes import agreement, extent_probe
from tqdm import tqdm

from tafm_loss import Backbone, create_backbone
from tafm_loss.finetune import GradedObjective, Objective, TripletObjective, finetune_backbone
from tafm_loss.report import least_selectivity, plot_report, recommended_loss, report, spread
from tafm_loss.scenes import generate_scenes

SIZE = 128
REPORT_EVERY = 14
PROBE_EVERY = 2
GENERATED = 800
SQUEEZENET = {"steps": 200, "batch_size": 4, "crop_size": 72, "learning_rate": 1e-3}
COMPACT = {"steps": 1000, "batch_size": 6, "crop_size": 96, "learning_rate": 2e-3}
LONGER = "graded + 0.3 geometry, 600 steps"
SHOWN = LONGER
PICTURE = ROOT / "docs" / "report.png"
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "triplet": TripletObjective,
    "order alone": lambda: GradedObjective(distractors=False),
    "graded": GradedObjective,
    "graded + geometry": lambda: GradedObjective(geometry=1.0),
    "graded + geometry + extent": lambda: GradedObjective(geometry=1.0, extent=0.3),
    LONGER: lambda: GradedObjective(geometry=0.3),
}
SELECTIVITY = "selectivity, white noise"
ONCE = ("graded + geometry + extent", LONGER)


def random_compact(seed: int) -> Backbone:
    """Return the bundled network with random weights."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return create_backbone("tafm-compact", weights=None)


def figures(backbone: Backbone, test: Path, untuned: Backbone | None) -> dict[str, Any]:
    """Return the report on a backbone, its agreement with the untuned one, and the probe of more photographs."""
    images = central_crops(test, SIZE, every=REPORT_EVERY)
    found = report(backbone, images)
    found["agreement"] = None
    if untuned is not None:
        losses = (recommended_loss(each, images) for each in (backbone, untuned))
        found["agreement"] = spread(agreement(*losses, images))
    probe_images = central_crops(test, SIZE, every=PROBE_EVERY)
    probe = extent_probe(backbone, probe_images)
    found["extent_probe"] = {"images": len(probe_images), **probe._asdict()}
    return found


def arms(options: argparse.Namespace) -> Iterator[tuple[str, int, Callable[[], tuple[Backbone, Backbone | None, Any]]]]:
    """Yield, seed by seed, the name of each arm and what tunes it: the result, the untuned backbone, the history."""
    if options.group == "compact":
        for name in ("generated scenes", "photographs"):
            yield name, 0, lambda name=name: tuned_compact(name, options)
        return
    start = create_backbone("squeezenet1_0", weights=options.weights)
    yield "untuned", 0, lambda: (start, None, [])
    for seed in range(options.seeds):
        for name, objective in OBJECTIVES.items():
            if name in ONCE and seed:
                continue

            def tune(name: str = name, make: Callable[[], Objective] = objective, seed: int = seed) -> Any:
                settings = SQUEEZENET | ({"steps": 600} if name == LONGER else {})
                folder = options.out / f"{name.replace(' ', '-')}-{seed}"
                tuned = finetune_backbone(
                    start, options.train, objective=make(), out_dir=folder, resume=True, seed=seed, **settings
                )
                return tuned.backbone, start, tuned.history

            yield name, seed, tune


def tuned_compact(source: str, options: argparse.Namespace) -> tuple[Backbone, Backbone | None, Any]:
    """Tune the small network from nothing."""
    scenes = generate_scenes(GENERATED, 192, generator=torch.Generator().manual_seed(0))
    tuned = finetune_backbone(
        random_compact(0),
        scenes if source == "generated scenes" else options.train,
        validation=options.validation,
        out_dir=options.out / source.replace(" ", "-"),
        resume=True,
        **COMPACT,
    )
    return tuned.backbone, None, tuned.history


COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "white noise": ("{:.1f}", lambda f: least_selectivity(f["selectivity"]["white noise"])),
    "scrambled": ("{:.1f}", lambda f: least_selectivity(f["selectivity"]["scrambled error"])),
    "recovery, dB": ("{:.1f}", lambda f: f["recovery_after_db"]),
    "Nyquist peak": ("{:.1f}", lambda f: f["gradient_peak"]),
    "mirrored": ("{:.2f}", lambda f: f["mirrored"]["median"]),
    "grey": ("{:.1f}", lambda f: f["grey"]["median"]),
    "other": ("{:.2f}", lambda f: f["other"]["median"]),
    "shift": ("{:.2f}", lambda f: f["shift"]["median"]),
    "least slope": ("{:.2f}", lambda f: min(f["response_slopes"])),
    "told from sharp, px": ("{:.2f}", lambda f: f["detection_threshold_px"]),
    "probe R2, least": ("{:.2f}", lambda f: min(f["extent_probe"]["r2"].values())),
    "across kinds, least": ("{:.2f}", lambda f: min(f["extent_probe"]["rank_correlation"].values())),
    "agreement": ("{:.2f}", lambda f: None if f["agreement"] is None else f["agreement"]["median"]),
}


def table(runs: dict[str, Any], caption: str) -> dict[str, Any]:
    """Return a row an arm: the mean over its seeds and, of several, the range."""
    names = list(dict.fromkeys(run["arm"] for run in runs.values()))
    rows = []
    for name in names:
        own = [run for run in runs.values() if run["arm"] == name]
        found = [run["figures"] for run in own]
        cells = [_cell(form, list(map(value, found))) for form, value in COLUMNS.values()]
        rows.append([f"{name} ({len(own)})", *cells, _cell("{:.0f}", [_steps_to_95_percent(run) for run in own])])
    columns = ["arm (seeds)", *COLUMNS, "steps to 95 %"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return {"columns": columns, "rows": rows, "caption": caption}


def _steps_to_95_percent(run: dict[str, Any]) -> float | None:
    """Return the step of the first validation pass with 95 % of the last one's selectivity against white noise."""
    passes = [(row["step"] + 1, row[SELECTIVITY]) for row in run["history"] if SELECTIVITY in row]
    return next((step for step, selectivity in passes if selectivity >= 0.95 * passes[-1][1]), None)


def _cell(form: str, values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = form.format(statistics.fmean(known))
    return mean if len(known) == 1 else f"{mean} ({form.format(min(known))}-{form.format(max(known))})"


CAPTION = (
    "Measured on BSDS500 test photographs, central {size} px: {report} of them, {probe} for the probes. Selectivity: "
    "the least median over shake, linear and defocus blur of 3 to 24 px. Mirrored to shift: medians of the health "
    "ratios. Told from sharp: the smallest shake farther from sharp than noise is, in 95 % of images. Probe R2: of "
    "log1p(extent) from the features, within a kind; across kinds: rank correlation on a kind that the probe was not "
    "trained on; the least over the kinds. Agreement: rank correlation with the untuned backbone over distortions that "
    "are not blur. "
)
COMMAND = "python benchmarks/finetuning.py {} OUT --train BSDS500/train --test BSDS500/test"
COMMANDS = {
    "squeezenet": COMMAND.format("squeezenet") + " --weights squeezenet1_0-imagenet.safetensors",
    "compact": COMMAND.format("compact") + " --validation BSDS500/val",
}
TRAINED = {
    "squeezenet": "{steps} steps of {batch_size} crops of {crop_size} px, BSDS500 train, rate {learning_rate}. ",
    "compact": "{steps} steps of {batch_size} crops of {crop_size} px from random weights. Steps to 95 %: until a pass "
    "over validation photographs, one every 100 steps, has 95 % of the last one's selectivity against white noise. ",
}


def write(path: Path, runs: dict[str, Any], facts: dict[str, Any], group: str) -> None:
    """Write the result file, its table made anew; the facts are those of the run that measured last."""
    if not runs:
        return
    last = list(runs.values())[-1]
    figures = last["figures"]
    settings = SQUEEZENET if group == "squeezenet" else COMPACT
    about = CAPTION.format(size=SIZE, report=figures["images"], probe=figures["extent_probe"]["images"])
    about += TRAINED[group].format(**settings)
    write_result(path, {"table": table(runs, about), "metadata": last.get("metadata", facts), "runs": runs})


def draw(runs: dict[str, Any]) -> None:
    """Draw the README's picture of a report: SqueezeNet before and after."""
    before, after = (runs.get(f"{name}, seed 0") for name in ("untuned", SHOWN))
    if before and after:
        write_figure(plot_report({"before": before["figures"], "after": after["figures"]}), PICTURE)


def main() -> None:
    """Tune and measure what is not there yet."""
    # Before the arguments that only tuning needs.
    plotting = argparse.ArgumentParser(add_help=False)
    plotting.add_argument("--plot", action="store_true", help="tune nothing; draw the report from the result file")
    if plotting.parse_known_args()[0].plot:
        draw(json.loads((RESULTS / "finetuning.json").read_text())["runs"])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[plotting])
    parser.add_argument("group", choices=["squeezenet", "compact"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="a folder of photographs (BSDS500 train)")
    parser.add_argument("--test", type=Path, required=True, help="other photographs (BSDS500 test)")
    parser.add_argument("--validation", type=Path, help="yet others, for the passes on the way (BSDS500 val)")
    parser.add_argument("--weights", type=Path, help="ImageNet weights for torchvision's squeezenet1_0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arm", help="this one alone")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = RESULTS / ("finetuning.json" if options.group == "squeezenet" else "finetuning_compact.json")
    known = json.loads(path.read_text())["runs"] if path.exists() else {}
    facts = metadata(COMMANDS[options.group])
    for name, seed, tune in tqdm(list(arms(options)), desc=options.group):
        key = f"{name}, seed {seed}"
        if key in known or options.arm not in (None, name):
            continue
        began = time.perf_counter()
        backbone, untuned, history = tune()
        seconds = time.perf_counter() - began
        found = figures(backbone, options.test, untuned)
        known[key] = {"arm": name, "seed": seed, "seconds": seconds, "history": history, "figures": found}
        known[key]["metadata"] = facts
        write(path, known, facts, options.group)
    write(path, known, facts, options.group)
    draw(known)


if __name__ == "__main__":
    main()
