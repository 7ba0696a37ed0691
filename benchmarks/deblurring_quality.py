"""Does a feature loss deblur better than pixels alone, what others use, and what anyone gets from an unsharp mask?

One small network is trained with L1 and each loss on the same batches. Every arm is judged at two prices in PSNR,
after the unsharp mask that brings it there, chosen on validation photographs. benchmarks/README.md states the method.

    python benchmarks/deblurring_quality.py --datasets DATASETS --weights WEIGHTS --runs RUNS

DATASETS holds bsds500/train, val and test, gopro-scene and reds-320x180; WEIGHTS squeezenet1_0-imagenet.safetensors and
metrics/*-features.safetensors. Every run is a file in RUNS/deblurring_quality, and runs that are there are skipped: an
interrupted benchmark is taken up by the same command, and several processes may share it by --seeds and --arms. Writes
results/deblurring_trials.json, deblurring_quality.json and deblurring_contrasts.json of all that is there. --quick does
little of everything, which means nothing. --plot draws docs/deblurring_quality*.png from result files.
"""

import argparse
import hashlib
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

from quality.arms import PIXEL, Places, arms
from quality.data import Displacement, Pairs, gopro_pairs, held_out_pairs, reds_pairs, training_pairs
from quality.figure import draw
from quality.judging import Judge, Judged
from quality.measuring import METRICS, Measures
from quality.plan import INDEPENDENT, OURS, PRIMARY, RATIOS, SEEN, SIZES, STAGES, UNSEEN, Stage
from quality.results import results
from quality.runs import Run
from quality.summary import chosen_ratio
from quality.training import BATCH_SIZE, Term, Trainer, faster_precision

from examples.deblurring.models.checkpoints import load_weights, save_weights
from examples.deblurring.models.networks import create_network

# The photographs of val that choose masks, and those that choose ratios: none in common.
CHOOSING, TRIED = range(0, 100, 4), range(1, 100, 2)
# The photographs of test that no benchmark has judged anything on before.
TESTED = [index for index in range(1, 200, 2) if index % 3 and index % 5]
OTHER_BLUR = TESTED[::3]
BLUR_SEEDS = {"val": 1, "test": 2}
START_SEED = 10_000
NETWORK = "residual-unet"
QUICK_ARMS = ("SSIM", OURS)
PICTURE = ROOT / "docs" / "deblurring_quality.png"


class Bench:
    """Everything that the runs share: data, the start, and where things are."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.size = SIZES[options.size]
        self.runs = runs_folder(options.runs, options.size)
        self.runs.mkdir(parents=True, exist_ok=True)
        self.datasets, self.photographs = options.datasets, options.datasets / "bsds500"
        places = Places(self.photographs / "train", options.weights, options.runs / "backbones")
        self.device = torch.device(options.device)
        self.trainer = Trainer(self.device, self._dtype())
        self.arms = arms(places, self.trainer, self.start)
        self.terms: dict[str, Term | None] = {}
        self.measures = Measures(METRICS, places.trunks, self.device)

    def network(self) -> nn.Module:
        """Return the network with random weights."""
        network = create_network(NETWORK, width=self.size.width).to(self.device)
        return network.to(memory_format=torch.channels_last)

    def start(self) -> nn.Module:
        """Return the network that all arms start from, trained with L1 now if it is not there."""
        path, network = self.runs / "start.safetensors", self.network()
        if not path.exists():
            print(f"training {path} with L1 alone", file=sys.stderr)
            pairs = self.training(START_SEED, self.size.start.steps)
            save_weights(self.trainer.trained(network, None, 0.0, pairs, self.size.start), path)
        load_weights(network, path)
        return network.eval()

    def start_digest(self) -> str:
        """Return the SHA-256 of the file of the start."""
        return hashlib.sha256((self.runs / "start.safetensors").read_bytes()).hexdigest()

    def term(self, arm: str) -> Term | None:
        """Return an arm's term, made once."""
        if arm not in self.terms:
            self.terms[arm] = self.arms[arm]()
        return self.terms[arm]

    def training(self, seed: int, steps: int, displaced: Displacement | None = None) -> Pairs:
        """Return the pairs of a seed for so many steps, the same for all arms."""
        folder, count = self.photographs / "train", BATCH_SIZE * steps
        return training_pairs(folder, count, size=self.size.crop, seed=seed, displaced=displaced)

    def judge(self, stage: Stage) -> Judge:
        """Return what measures the arms of a stage."""
        every = dict.fromkeys(METRICS, 1) | {"dists": 2}
        if stage.tested:
            judged = {SEEN: self.held_out("test", SEEN, TESTED)}
            judged |= {kind: self.held_out("test", kind, OTHER_BLUR) for kind in UNSEEN}
            judged["GoPro"] = gopro_pairs(self.datasets / "gopro-scene", slice(1, self.size.most, 2))
            judged["REDS"] = reds_pairs(self.datasets / "reds-320x180", slice(0, self.size.most, 3))
        else:
            every |= {INDEPENDENT: 2, "dists": 4}
            judged = {SEEN: self.held_out("val", SEEN, TRIED)}
        cases = {case: Judged(pairs, every) for case, pairs in judged.items()}
        restore = self.trainer.restore
        choosing = self.held_out("val", SEEN, CHOOSING)
        return Judge(choosing, cases, PRIMARY, self.measures, stage.prices, restore, self.device)

    def held_out(self, split: str, kind: str, indices: Sequence[int]) -> Pairs:
        """Return photographs of a split under a kind of blur, the same in every run."""
        return held_out_pairs(self.photographs / split, kind, indices[: self.size.most], seed=BLUR_SEEDS[split])

    def _dtype(self) -> torch.dtype:
        """Return the precision in which all networks of these runs compute, chosen once by what is faster here."""
        path = self.runs / "precision.json"
        if not path.exists():
            dtype = faster_precision(self.network(), self.size.crop, self.device)
            path.write_text(json.dumps(str(dtype).removeprefix("torch.")))
        chosen: torch.dtype = getattr(torch, json.loads(path.read_text()))
        return chosen


def runs_folder(runs: Path, size: str) -> Path:
    """Return the folder of the runs of a size."""
    return runs / ("deblurring_quality" if size == "small" else f"deblurring_quality_{size}")


def carry_out(bench: Bench, runs: Sequence[Run], stage: Stage) -> None:
    """Train and judge the arms of one stage and seed that are not there yet, L1 first: it sets the levels."""
    todo = [run for run in runs if not run.path.exists()]
    if not todo:
        return
    pairs = bench.training(todo[0].seed, bench.size.fine_tune.steps).to(bench.device)
    judge, start = bench.judge(stage), bench.start()
    facts = {"batches": pairs.digest(), "start": bench.start_digest(), "metadata": metadata(command_line())}
    pixel = runs[0]
    bar = tqdm(todo, unit="run")
    levels = None if pixel in todo else pixel.figures()["levels"]
    for run in bar:
        bar.set_description(f"{run.stage}, seed {run.seed}, {run.arm}, {run.ratio:g}")
        term = bench.term(run.arm)
        weight = 0.0 if term is None else bench.trainer.calibrated(start, term, pairs, run.ratio)
        began = time.perf_counter()
        network = bench.trainer.trained(start, term, weight, pairs, bench.size.fine_tune)
        seconds = time.perf_counter() - began
        if levels is None:
            levels = judge.levels(network)
        save_weights(network, run.path.with_suffix(".safetensors"))
        run.keep({"weight": weight, "seconds": seconds, "levels": levels, **judge(network, levels), **facts})


def runs_of(bench: Bench, name: str, seed: int) -> list[Run]:
    """Return the runs of a stage and seed, L1 first: on test photographs, with the ratios that the trials chose."""
    stage, options = STAGES[name], bench.options
    runs = [Run(bench.runs, name, seed, PIXEL, 0.0)]
    for arm in options.arms or (QUICK_ARMS if options.size == "quick" else stage.arms):
        ratios = (chosen_ratio(bench.runs, arm),) if stage.tested else RATIOS
        runs += [Run(bench.runs, name, seed, arm, ratio) for ratio in options.ratios or ratios]
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seeds", nargs="+", type=int, help="of these alone (default: all of a stage)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="of these and L1 alone (default: all of a stage)")
    parser.add_argument("--ratios", nargs="+", type=float, help="of these alone (default: those of each arm)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", choices=SIZES, default="small", help="of networks, crops and trainings")
    quick = "a few steps of a few arms, as --size quick; the figures mean nothing"
    parser.add_argument("--quick", action="store_const", dest="size", const="quick", help=quick)
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the picture from the result file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the result files")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    refuse_quick_results(parser, quick=options.size != "small", out=options.out)
    if not options.plot:
        bench = Bench(options)
        if unknown := set(options.arms or ()) - set(bench.arms):
            parser.error(f"no arm is called {', '.join(sorted(unknown))}; there are {', '.join(bench.arms)}")
        for name in options.stages:
            for seed in options.seeds or STAGES[name].seeds[: 2 if options.size == "quick" else None]:
                carry_out(bench, runs_of(bench, name, seed), STAGES[name])
        for name, result in results(bench.runs).items():
            write_result(options.out / f"{name}.json", result)
    if all((options.out / f"deblurring_{name}.json").exists() for name in ("trials", "quality")):
        draw(options.out, options.picture)


if __name__ == "__main__":
    main()
