"""Which loss bears training pairs that do not line up, as those of two cameras?

A small network goes on from one start with L1 and each loss, on pairs whose targets lie beside by up to 0, 1, 2 and 4
px, or are turned by up to 0.2 degrees. Some arms also begin with random weights, since a network that is compared with
what fits it best might drift. All are judged on aligned photographs. benchmarks/README.md states the method.

    python benchmarks/misaligned.py --datasets DATASETS --weights WEIGHTS --runs RUNS

DATASETS holds bsds500/train and test, WEIGHTS metrics/*-features.safetensors. The start is that of
deblurring_quality.py, made if it is not there. Every run is a file in RUNS/misaligned, and runs that are there are
skipped: an interrupted benchmark is taken up by the same command, and several processes may share it by --conditions,
--seeds and --arms. Writes results/misaligned*.json of all that is there, and docs/misaligned.png. --quick does little
of everything, which means nothing. --plot draws the picture from the result file.
"""

import argparse
import functools
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from _common import RESULTS, ROOT, command_line, metadata, refuse_quick_results, write_result
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(ROOT))

from deblurring_quality import TESTED, Bench
from misalignment.arms import MATCHED, PLAIN, Arm, arms
from misalignment.figure import draw
from misalignment.tables import Means, found_runs, from_nothing_result, results
from quality.arms import PIXEL, Places
from quality.data import Displacement, Pairs
from quality.measuring import Reference
from quality.plan import SEEN
from quality.runs import Run
from quality.training import Schedule

CONDITIONS = {
    "aligned": Displacement(),
    "1 px": Displacement(1),
    "2 px": Displacement(2),
    "4 px": Displacement(4),
    "0.2 degrees": Displacement(degrees=0.2),
}
FROM_NOTHING = {"aligned, from nothing": Displacement(), "4 px, from nothing": Displacement(4)}
SEEDS, FROM_NOTHING_SEEDS = (0, 1, 2, 3), (0, 1)
ARMS_FROM_NOTHING = (PIXEL, f"{PIXEL}, matched crops", MATCHED)
FROM_NOTHING_STEPS = 3000
# With less of L1, whose targets lie beside, an arm may do better.
HIGH_RATIO, WITH_HIGH_RATIO, HIGH_RATIO_CONDITIONS = 20.0, (PLAIN, MATCHED, "FDL", "contextual"), ("4 px",)
# They take six times as long as the others.
SLOW = {"FDL": ("aligned", "2 px", "4 px"), "FDL, matched crops": ("2 px", "4 px")}
METRICS = {"psnr": 1, "lpips": 1, "dists": 2}
QUICK_ARMS = (PIXEL, PLAIN, MATCHED)
PICTURE = ROOT / "docs" / "misaligned.png"


class Study:
    """Everything that the runs share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.bench = Bench(options)
        self.size = self.bench.size
        self.folder = folder_of(options)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.arms = arms(Places(self.bench.photographs / "train", options.weights, options.runs / "backbones"))

    def training(self, condition: str, seed: int) -> Pairs:
        """Return the pairs of a condition and seed, the same for all arms."""
        return self.bench.training(seed, self.schedule(condition).steps, (CONDITIONS | FROM_NOTHING)[condition])

    def schedule(self, condition: str) -> Schedule:
        """Return how long and at which rate the networks of a condition are trained."""
        if condition not in FROM_NOTHING:
            return self.size.fine_tune
        return self.size.start._replace(steps=min(self.size.start.steps, FROM_NOTHING_STEPS))

    def start(self, condition: str, seed: int) -> nn.Module:
        """Return the network that all arms of a condition and seed start from."""
        if condition not in FROM_NOTHING:
            return self.bench.start()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.bench.network()

    @functools.cached_property
    def judged(self) -> tuple[Pairs, Reference]:
        """Aligned photographs that no arm has been trained on, and what compares with them."""
        pairs = self.bench.held_out("test", SEEN, TESTED)
        return pairs, self.bench.measures.against(pairs.batch(slice(None), self.bench.device).sharp)

    def trained(self, run: Run, start: nn.Module, pairs: Pairs) -> tuple[nn.Module, dict[str, float]]:
        """Return the network of a run, and facts about its training."""
        arm = self.arms[run.arm]
        trainer = self.bench.trainer._replace(match=arm.match)
        term = arm.term()
        weight = 0.0 if term is None else trainer.calibrated(start, term, pairs, run.ratio)
        began = time.perf_counter()
        network = trainer.trained(start, term, weight, pairs, self.schedule(run.stage))
        return network, {"weight": weight, "seconds": time.perf_counter() - began}


def folder_of(options: argparse.Namespace) -> Path:
    """Return where the runs are."""
    folder: Path = options.runs / ("misaligned" if options.size == "small" else f"misaligned_{options.size}")
    return folder


def runs_of(study: Study, condition: str, seed: int, names: Sequence[str]) -> list[Run]:
    """Return the runs of a condition and seed: each arm at the recommended ratio, and some at a high one too."""
    ratios = [(name, study.arms[name].ratio) for name in names if condition in SLOW.get(name, (condition,))]
    if condition in FROM_NOTHING:
        ratios = [each for each in ratios if each[0] in ARMS_FROM_NOTHING]
    if condition in HIGH_RATIO_CONDITIONS:
        ratios += [(name, HIGH_RATIO) for name in names if name in WITH_HIGH_RATIO]
    return [Run(study.folder, condition, seed, name, ratio) for name, ratio in ratios]


def carry_out(study: Study, runs: Sequence[Run]) -> None:
    """Train and judge the runs that are not there yet, all of one condition and seed."""
    todo = [run for run in runs if not run.path.exists()]
    if not todo:
        return
    condition, seed = todo[0].stage, todo[0].seed
    pairs, start = study.training(condition, seed), study.start(condition, seed)
    judged, reference = study.judged
    facts = {"batches": pairs.digest(), "metadata": metadata(command_line())}
    if condition not in FROM_NOTHING:
        facts["start"] = study.bench.start_digest()
    for run in (bar := tqdm(todo, unit="run")):
        bar.set_description(f"{run.stage}, seed {run.seed}, {run.arm}, {run.ratio:g}")
        network, training = study.trained(run, start, pairs)
        restored = study.bench.trainer.restore(network, judged)
        figures = {name: reference.values(name, restored, every).tolist() for name, every in METRICS.items()}
        run.keep({**training, "figures": figures, **facts})


def measure(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Carry out what is asked for, and write the results of all that is there."""
    study = Study(options)
    for seed, condition in itertools.product(options.seeds, options.conditions):
        if condition in CONDITIONS or seed in FROM_NOTHING_SEEDS:
            carry_out(study, runs_of(study, condition, seed, names))
    made = results(found_runs(study.folder, list(CONDITIONS), SEEDS))
    if from_nothing := found_runs(study.folder, list(FROM_NOTHING), FROM_NOTHING_SEEDS):
        made["misaligned_from_nothing"] = from_nothing_result(from_nothing)
    for name, result in made.items():
        write_result(options.out / f"{name}.json", result)


def main() -> None:
    """Train, judge and draw, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    every = CONDITIONS | FROM_NOTHING
    parser.add_argument("--conditions", nargs="+", choices=every, default=list(every))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    known: dict[str, Arm] = arms(Places(Path(), Path(), Path()))
    parser.add_argument("--arms", nargs="+", choices=known, metavar="ARM", help=f"of {', '.join(known)}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    quick = "a few steps of a few arms; the figures mean nothing"
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", default="small", help=quick)
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the picture from the result file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the result files")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.set_defaults(device="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    refuse_quick_results(parser, quick=options.size == "quick", out=options.out)
    if not options.plot:
        measure(options, options.arms or (QUICK_ARMS if options.size == "quick" else tuple(known)))
    draw(Means(json.loads((options.out / "misaligned.json").read_text())["runs"]), options.picture)


if __name__ == "__main__":
    main()
