"""Should a distance follow the network that it trains?

One small network is trained on with L1 and the default loss: frozen, adapted once to what the network leaves, or
refreshed on its output as it goes on; and beside discriminators that learn on the way. All arms take the same time, see
the same batches and are judged as in deblurring_quality.py, whose start they share.

    python benchmarks/refresh.py --datasets DATASETS --weights WEIGHTS --runs RUNS

DATASETS, WEIGHTS and RUNS are those of deblurring_quality.py. Every run is a file in RUNS/refresh, and runs that are
there are skipped. Writes results/refresh.json and refresh_trials.json of all that is there. --quick does little of
everything, which means nothing. --plot draws docs/refresh.png from the result file.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, ROOT, command_line, metadata, refuse_quick_results, write_result
from tqdm import tqdm

sys.path.insert(0, str(ROOT))

import deblurring_quality
from quality.data import Pairs
from quality.plan import Stage
from quality.runs import Run
from quality.training import Schedule
from refreshing.adapting import Refreshing
from refreshing.arms import ARMS, TUNINGS, Setting, Started, adapted
from refreshing.figure import draw
from refreshing.plan import CONFIRMED, FROZEN, LONGER, PIXEL, STAGES, TRIED, TUNED
from refreshing.results import results

from examples.deblurring.models.checkpoints import save_weights

PICTURE = ROOT / "docs" / "refresh.png"
ROUNDS = 2
QUICK = {"steps": 2, "refreshing": Refreshing(every=2, steps=1, scenes=2)}
QUICK_ARMS = (FROZEN, "refreshed, anchored 6", "tafm-lite, RaGAN")


class Bench(deblurring_quality.Bench):
    """Everything that the runs share."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.quick = options.size == "quick"
        changed = QUICK if self.quick else {}
        self.tunings = {name: tuning._replace(**changed) for name, tuning in TUNINGS.items()}
        self.own = options.runs / ("refresh_quick" if self.quick else "refresh")
        self.own.mkdir(parents=True, exist_ok=True)
        self._steps: dict[str, int] = {}

    def setting(self, pairs: Pairs, ratio: float, seed: int) -> Setting:
        """Return what an arm begins with."""
        made = self.own / "backbones"
        made.mkdir(exist_ok=True)
        return Setting(self.start(), pairs, ratio, seed, self.trainer, self.photographs, made, self.tunings)

    def seconds(self) -> dict[str, float]:
        """Return how long a step of each arm takes in s, measured once, in rounds over all arms in one process.

        A round is as many steps as lie between two refreshes of the rarest kind. "adapting" is how long that takes.
        """
        path = self.own / "seconds.json"
        if not path.exists():
            every = max(each.refreshing.every for each in self.tunings.values())
            pairs = self.training(0, 2 * every).to(self.device)
            begun = {
                arm: begin(self.setting(pairs, 1.0, 0))
                for arm, begin in ARMS.items()
                if arm in self.used() and arm != LONGER
            }
            taken: dict[str, list[float]] = {arm: [] for arm in (PIXEL, *begun)}
            for _ in tqdm(range(1 + ROUNDS), desc="seconds"):
                for arm, all_taken in taken.items():
                    began = time.perf_counter()
                    self.trainer.trained(self.start(), begun.get(arm), 1.0, pairs, Schedule(every, 3e-4))
                    all_taken.append((time.perf_counter() - began) / every)
            # Nothing is refreshed in the first round.
            steps = {arm: statistics.median(each[1:]) for arm, each in taken.items()}
            _, adapting = adapted(self.setting(pairs, 1.0, 0), TUNED)
            path.write_text(json.dumps(steps | {"adapting": adapting}))
        found: dict[str, float] = json.loads(path.read_text())
        return found

    def steps(self) -> dict[str, int]:
        """Return how many steps each arm takes: the slowest as many as in deblurring_quality.py.

        The others take all its time; one of them also the time that adapting takes. L1 alone, from which the prices
        are counted, takes as many steps as there too.
        """
        if not self._steps:
            seconds, least = self.seconds(), self.size.fine_tune.steps
            adapting = seconds.pop("adapting")
            time = least * max(seconds.values())
            self._steps = {arm: round(time / own) for arm, own in seconds.items()}
            self._steps |= {LONGER: round((time + adapting) / seconds[FROZEN]), PIXEL: least}
        return self._steps

    def used(self) -> tuple[str, ...]:
        """Return the names of all arms that are run."""
        return QUICK_ARMS if self.quick else tuple(TRIED)


def carry_out(bench: Bench, runs: list[Run], stage: Stage) -> None:
    """Train and judge the arms of one stage and seed that are not there yet, L1 first: it sets the levels."""
    todo = [run for run in runs if not run.path.exists()]
    if not todo:
        return
    steps = bench.steps()
    pairs = bench.training(todo[0].seed, max(steps.values())).to(bench.device)
    judge, start = bench.judge(stage), bench.start()
    facts = {"batches": pairs.digest(), "start": bench.start_digest(), "metadata": metadata(command_line())}
    levels = None if runs[0] in todo else runs[0].figures()["levels"]
    bar = tqdm(todo, unit="run")
    for run in bar:
        bar.set_description(f"{run.stage}, seed {run.seed}, {run.arm}, {run.ratio:g}")
        term: Started | None = None
        if run.arm != PIXEL:
            term = ARMS[run.arm](bench.setting(pairs, run.ratio, run.seed))
        began = time.perf_counter()
        schedule = Schedule(steps[run.arm], bench.size.fine_tune.rate)
        network = bench.trainer.trained(start, term, 1.0, pairs, schedule)
        seconds = time.perf_counter() - began
        levels = judge.levels(network) if levels is None else levels
        save_weights(network, run.path.with_suffix(".safetensors"))
        happened: Mapping[str, Any] = {"weight": 0.0} if term is None else term.told()
        about = {"steps": schedule.steps, "seconds": seconds, "happened": happened, "levels": levels}
        run.keep({**about, **judge(network, levels), **facts})


def runs_of(bench: Bench, name: str, seed: int) -> list[Run]:
    """Return the runs of a stage and seed, L1 first."""
    ratios = TRIED if name == "trials" else {arm: (ratio,) for arm, ratio in CONFIRMED.items()}
    wanted = bench.options.arms or (QUICK_ARMS if bench.quick else ratios)
    runs = [Run(bench.own, name, seed, PIXEL, 0.0)]
    return runs + [Run(bench.own, name, seed, arm, ratio) for arm in wanted for ratio in ratios.get(arm, ())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seeds", nargs="+", type=int, help="of these alone (default: all of a stage)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", choices=ARMS, help="of these and L1 alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    quick = "a few steps of a few arms; the figures mean nothing"
    parser.add_argument("--quick", action="store_const", dest="size", const="quick", default="small", help=quick)
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the picture from the result file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the result files")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    refuse_quick_results(parser, quick=options.size == "quick", out=options.out)
    if not options.plot:
        bench = Bench(options)
        for name in options.stages:
            for seed in options.seeds or STAGES[name].seeds[: 2 if bench.quick else None]:
                carry_out(bench, runs_of(bench, name, seed), STAGES[name])
        for name, result in results(bench.own, bench.seconds()).items():
            write_result(options.out / f"{name}.json", result)
    if (options.out / "refresh.json").exists():
        draw(options.out / "refresh.json", options.picture)


if __name__ == "__main__":
    main()
