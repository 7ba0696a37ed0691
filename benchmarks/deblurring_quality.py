"""Does a feature loss deblur better than pixels alone, untuned features, and what anyone gets from an unsharp mask?

One small network is trained with L1 and each loss on the same batches. Every arm is judged as it is, and after the
unsharp mask that brings it to the same PSNR, chosen on validation photographs. benchmarks/README.md states the method.

    python benchmarks/deblurring_quality.py --datasets DATASETS --weights WEIGHTS --runs RUNS

DATASETS holds bsds500/train, val and test; WEIGHTS squeezenet1_0-imagenet.safetensors, mdf/Ds_SISR.pth and
niqe_pris_params.npz; RUNS the network of `deblurring_example.py` in unet_synthetic, trained first if it is not there.
Every run is a file in RUNS/deblurring_quality, and runs that are there are skipped: an interrupted benchmark is taken
up by the same command, and several processes may share it by --stages, --seeds and --arms. Writes
results/deblurring_quality.json of all that is there. --quick does little of everything, from
random weights in RUNS/quick, which means nothing. --plot draws docs/deblurring_quality.png again from the result file.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, ROOT, command_line, metadata, refuse_quick_results, write_result
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(ROOT))

import deblurring_example
from quality.arms import PIXEL, VARIANTS, Places, arms
from quality.data import Pairs, held_out_pairs, training_pairs
from quality.figure import draw
from quality.judging import Judge, Level
from quality.plan import MATTER, PRIMARY, STAGES, Stage
from quality.runs import Run
from quality.summary import best_ratio, results
from quality.training import BATCH_SIZE, Schedule, Term, calibrated, trained

from examples.deblurring.evaluation.niqe import NIQE, read_pristine_model
from examples.deblurring.models.checkpoints import load_weights
from examples.deblurring.models.networks import create_network

NETWORK = {"name": "residual-unet", "width": 48}
# Of the 100 photographs of val, those that choose masks and those that choose ratios have none in common. Of the 200 of
# test, every third was looked at while the method was made, and every tenth by blur_awareness.py.
CHOOSING, JUDGING = range(0, 100, 2), range(1, 100, 2)
TESTED = [index for index in range(200) if index % 2 and index % 3]
UNSEEN = TESTED[::2]
FEW = 4
VAL_SEED, TEST_SEED = 1, 2
TRIAL_BATCHES, TEST_BATCHES = 1000, 2000
PICTURE = ROOT / "docs" / "deblurring_quality.png"


class Bench:
    """Everything that the runs share: data, the start, and where things are."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.photographs = options.datasets / "bsds500"
        self.runs = options.runs / ("quick" if options.quick else "deblurring_quality")
        self.runs.mkdir(parents=True, exist_ok=True)
        self.places = Places(
            self.photographs / "train",
            options.weights / "squeezenet1_0-imagenet.safetensors",
            options.weights / "mdf" / "Ds_SISR.pth",
            options.runs / "backbones",
        )
        self.arms = arms(self.places, self.device)
        self.terms: dict[str, Term | None] = {}
        self.niqe = NIQE(read_pristine_model(options.weights / "niqe_pris_params.npz"))

    def term(self, arm: str) -> Term | None:
        """Return an arm's term, made once."""
        if arm not in self.terms:
            self.terms[arm] = self.arms[arm]()
        return self.terms[arm]

    def network(self, stage: Stage, seed: int) -> nn.Module:
        """Return what the arms of a stage and seed start from."""
        network = create_network(**NETWORK, seed=seed)
        if stage.from_start and not self.options.quick:
            load_weights(network, start_weights(self.options))
        return network.to(self.device).to(memory_format=torch.channels_last)

    def training(self, stage: Stage, seed: int) -> Pairs:
        """Return the pairs of a stage and seed, the same for all arms."""
        count = BATCH_SIZE * stage.schedule.steps
        first = TEST_BATCHES if stage.tested else TRIAL_BATCHES
        return training_pairs(self.places.train, count, seed=first + seed, shift=stage.shift).to(self.device)

    def judge(self, stage: Stage, seed: int) -> Judge:
        """Return what measures the arms of a stage; slow metrics at the first seed alone."""
        most = FEW if self.options.quick else None
        validation, test = self.photographs / "val", self.photographs / "test"

        def pairs(kind: str, indices: Sequence[int]) -> Pairs:
            folder, blurs = (test, TEST_SEED) if stage.tested else (validation, VAL_SEED)
            return held_out_pairs(folder, kind, indices[:most], seed=blurs).to(self.device)

        first, *others = stage.kinds
        judging = {first: pairs(first, TESTED if stage.tested else JUDGING)}
        judging |= {kind: pairs(kind, UNSEEN) for kind in others}
        choosing = held_out_pairs(validation, first, CHOOSING[:most], seed=VAL_SEED).to(self.device)
        slowly = stage.slow_metrics and seed == 0
        metrics = (*stage.metrics, *stage.slow_metrics) if slowly else stage.metrics
        return Judge(choosing, judging, PRIMARY, metrics, self.device, stage.price, self.niqe if slowly else None)


def settings(stage: Stage) -> dict[str, Any]:
    """Return what a run of a stage depends on, besides the arm, the seed and the start."""
    return {"schedule": list(stage.schedule), "price": stage.price, "shift": stage.shift, "kinds": list(stage.kinds)}


def runs_of(bench: Bench, name: str, stage: Stage, seed: int) -> list[Run]:
    """Return the runs of a stage and seed, L1 first."""
    names = stage.arms or tuple(arm for arm in bench.arms if arm not in (PIXEL, *VARIANTS))
    if bench.options.arms:
        names = tuple(arm for arm in names if arm in bench.options.arms)
    runs = [Run(bench.runs, name, seed, PIXEL, 0.0)]
    for arm in names:
        ratios = stage.ratios or (best_ratio(bench.runs, arm),)
        runs += [Run(bench.runs, name, seed, arm, ratio) for ratio in ratios]
    return runs


def carry_out(bench: Bench, name: str, stage: Stage, seed: int, bar: "tqdm[None]") -> None:
    """Train and judge the arms of a stage and seed that are not there yet."""
    runs = runs_of(bench, name, stage, seed)
    if all(run.path.exists() for run in runs):
        bar.update(len(runs))
        return
    pairs, start, judge = bench.training(stage, seed), bench.network(stage, seed), bench.judge(stage, seed)
    facts = {"batches": pairs.digest(), "settings": settings(stage), "metadata": metadata(command_line())}
    level = None
    for run in runs:
        bar.set_description(f"{name}, seed {seed}, {run.arm}")
        figures = run.figures(facts)
        if figures is None:
            term = bench.term(run.arm)
            weight = 0.0 if term is None else calibrated(start, term, pairs, run.ratio, bench.device)
            began = time.perf_counter()
            network = trained(start, term, weight, pairs, stage.schedule, bench.device)
            seconds = time.perf_counter() - began
            judged, set_level = judge(network, level)
            figures = {"weight": weight, "seconds": seconds, "level": set_level._asdict(), **judged, **facts}
            run.keep(figures)
        level = level or Level(**figures["level"])
        bar.update()


def start_weights(options: argparse.Namespace) -> Path:
    """Return the weights of the network that has been trained with L1 alone, trained now (an hour) if not there."""
    weights: Path = options.runs / deblurring_example.START / "network.safetensors"
    if not weights.exists():
        deblurring_example.train(deblurring_example.START, options.datasets, options.runs, "bf16")
    return weights


def shortened(stage: Stage) -> Stage:
    """Return a stage of which a few steps of a few arms are done, to see that all works."""
    few = tuple(list(stage.arms or MATTER)[:3])
    return stage._replace(arms=few, schedule=Schedule(3, stage.schedule.rate), seeds=min(2, stage.seeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seeds", nargs="+", type=int, help="of these alone (default: all of a stage)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="of these and L1 alone (default: all of a stage)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a few steps of a few arms; the figures mean nothing")
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the picture from the result file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the result files")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    refuse_quick_results(parser, quick=options.quick, out=options.out)
    if not options.plot:
        bench = Bench(options)
        if unknown := set(options.arms or ()) - set(bench.arms):
            parser.error(f"no arm is called {', '.join(sorted(unknown))}; there are {', '.join(bench.arms)}")
        stages = {name: shortened(STAGES[name]) if options.quick else STAGES[name] for name in options.stages}
        with tqdm(unit="run") as bar:
            for name, stage in stages.items():
                for seed in options.seeds or range(stage.seeds):
                    if seed < stage.seeds:
                        carry_out(bench, name, stage, seed, bar)
        for name, result in results(bench.runs).items():
            write_result(options.out / f"{name}.json", result)
    if (options.out / "deblurring_contrasts.json").exists():
        draw(options.out, options.picture)


if __name__ == "__main__":
    main()
