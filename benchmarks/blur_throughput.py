"""How fast BlurSynthesizer blurs, beside what is used for that elsewhere: time, memory, growth, varying blur.

    python benchmarks/blur_throughput.py             # measures, writes results/blur_throughput.json, draws the plot
    python benchmarks/blur_throughput.py --plot      # only draws the plot again, from the result file

The peers are those of the extra `benchmarks`, and SciPy; absent ones are skipped and named. Times are end to end: a new
random kernel for every image, drawn on the clock. What is compared runs in one process, on one thread, in interleaved
rounds whose order rotates; ratios are of medians. Memory is that of a process of its own, over what it holds with the
images made and the libraries loaded by a small batch.
"""

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _blur_arms import ARMS, ONE_LEVEL, OURS, THREE_LEVELS, Arm, Blur, Case, build_ours, synthesizer
from _blur_plot import draw
from _common import (
    RESULTS,
    ROOT,
    command_line,
    markdown,
    metadata,
    peak,
    refuse_quick_results,
    reset_peak,
    write_result,
)

from tafm_loss.blur import KINDS, BlurKernels, BlurSynthesizer

Figures = dict[str, Any]

MAIN = Case(size=256, batch=8, kernel=31)
SHOWN = [Case(256, 8, 15), MAIN, Case(256, 8, 63), Case(512, 8, 31)]
GROWTH = [Case(128, 8, 31), Case(1024, 8, 31), Case(256, 1, 31), Case(256, 16, 31), Case(256, 8, 95)]
VARYING = [Case(size, 8, kernel) for size in (256, 512) for kernel in (31, 63, 95)]
VARYING_ROLL_DEG = 1.2
MEMORY = Case(size=512, batch=16, kernel=31)
# Libraries load parts of themselves when first used; so small a batch leaves no memory behind to be used again.
LOADING = Case(size=64, batch=1, kernel=31)
ON_GPU = [Case(256, 64, 31), Case(1024, 16, 31)]
COPIED_BYTES = 2**28

OURS_THREE_LEVELS = Arm(f"{OURS}, three levels in linear light", lambda case: build_ours(case, **THREE_LEVELS))

# (peer, at least so many times its images/s), at MAIN.
LEAST_RATIOS = [
    ("kornia RandomMotionBlur", 5.0),
    ("albumentations MotionBlur", 5.0),
    ("deepinv MotionBlurGenerator", 4.0),
    ("trajectory, one by one", 20.0),
]


@dataclass(frozen=True)
class Effort:
    """How long to measure one case: from `least` to `most` rounds, none of which begins after `seconds`."""

    least: int
    most: int
    seconds: float


FULL = Effort(least=3, most=15, seconds=15.0)
QUICK = Effort(least=1, most=1, seconds=0.0)


def time_interleaved(calls: Mapping[str, Blur], effort: Effort) -> dict[str, list[float]]:
    """Return the seconds of every call, one for each round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    names = list(calls)
    start = time.perf_counter()
    for index in range(effort.most):
        if index >= effort.least and time.perf_counter() - start > effort.seconds:
            break
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            begin = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def median_ratio(seconds: Mapping[str, list[float]], name: str, other: str) -> float:
    return statistics.median(seconds[name]) / statistics.median(seconds[other])


def figures(case: Case, seconds: list[float]) -> Figures:
    """Return what was measured of a case: the seconds of each round, and images/s at the median and at the best."""
    return {
        **dataclasses.asdict(case),
        "seconds": [round(value, 6) for value in seconds],
        "images_per_s": case.batch / statistics.median(seconds),
        "best_images_per_s": case.batch / min(seconds),
    }


def measure_throughput(cases: Iterable[Case], effort: Effort) -> list[Figures]:
    """Measure every installed arm on every case."""
    rows = []
    for case in cases:
        arms = [arm for arm in ARMS if arm.is_installed]
        seconds = time_interleaved({arm.name: arm.build(case) for arm in arms}, effort)
        rows += [{"peer": arm.peer, "arm": arm.name, **figures(case, seconds[arm.name])} for arm in arms]
        announce(f"{case.size} px, batch {case.batch}, K = {case.kernel}")
    return rows


def measure_ours(effort: Effort) -> Figures:
    """Measure what levels, the size of the kernel and the drawing of kernels cost us."""
    narrow, wide = (dataclasses.replace(MAIN, kernel=kernel) for kernel in (15, 63))
    calls: dict[str, Blur] = {
        "one level": build_ours(MAIN, **ONE_LEVEL),
        "three levels": build_ours(MAIN, **THREE_LEVELS),
        "narrow": build_ours(narrow, **ONE_LEVEL),
        "wide": build_ours(wide, **ONE_LEVEL),
    }
    seconds = time_interleaved(calls, effort)
    announce("levels, kernel sizes")
    return {
        "scenes_per_s": MAIN.batch / statistics.median(seconds["three levels"]),
        "three_levels_over_one": median_ratio(seconds, "three levels", "one level"),
        "k63_over_k15": median_ratio(seconds, "wide", "narrow"),
        "share_of_sample": {kind: share_of_sample(kind, effort) for kind in KINDS},
        "seconds": seconds,
    }


def share_of_sample(kind: str, effort: Effort) -> float:
    """Return which part of blurring goes into drawing kernels, timed where it happens."""
    blur, images = synthesizer(MAIN.kernel, kind=kind, **ONE_LEVEL), MAIN.images()
    generator = torch.Generator().manual_seed(1)
    sample, spent = blur.sample, [0.0]

    def timed(*arguments: Any, **options: Any) -> BlurKernels:
        begin = time.perf_counter()
        drawn = sample(*arguments, **options)
        spent[0] += time.perf_counter() - begin
        return drawn

    blur(images, generator=generator)
    blur.sample = timed  # type: ignore[method-assign]
    begin = time.perf_counter()
    for _ in range(5 * effort.most):
        blur(images, generator=generator)
    return spent[0] / (time.perf_counter() - begin)


def measure_varying(cases: Iterable[Case], effort: Effort) -> list[Figures]:
    """Measure blur by a rolling camera, and by how much it costs more than the same without roll."""
    rows = []
    for case in cases:
        calls = {
            "uniform": build_ours(case, **ONE_LEVEL),
            "varying": build_ours(case, roll_deg=VARYING_ROLL_DEG, **ONE_LEVEL),
        }
        seconds = time_interleaved(calls, effort)
        ratio = median_ratio(seconds, "varying", "uniform")
        rows.append({"over_uniform": ratio, **figures(case, seconds["varying"])})
        announce(f"roll, {case.size} px, K = {case.kernel}")
    return rows


def measure_memory(arms: Iterable[Arm], case: Case, threads: int) -> list[Figures]:
    """Measure the peak of every arm, each in a process of its own."""
    rows = []
    for arm in arms:
        request = json.dumps([arm.name, case.size, case.batch, case.kernel])
        command = [sys.executable, __file__, "--peak-of", request, "--threads", str(threads)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"the memory of {arm.name} could not be measured:\n{run.stderr}")
        # Packages may print something of their own when they are imported.
        rows.append({"arm": arm.name, **dataclasses.asdict(case), **json.loads(run.stdout.splitlines()[-1])})
        announce(f"memory, {arm.name}")
    return rows


def measure_peak(name: str, case: Case) -> Figures:
    """Return by how much this process's resident memory grows while it blurs twice, in MiB and in outputs."""
    build = next(arm.build for arm in (*ARMS, OURS_THREE_LEVELS) if arm.name == name)
    build(LOADING)()
    blur = build(case)
    gc.collect()
    baseline = reset_peak()
    output = size_in_mebibytes(blur())
    blur()
    growth = peak() - baseline
    return {"mebibytes": growth, "over_output": growth / output}


def size_in_mebibytes(result: Any) -> float:
    """Return the size of what an arm returns: a tensor, or a list of arrays."""
    parts = result if isinstance(result, list) else [result]
    return float(sum(part.nbytes for part in parts)) / 2**20


def measure_cuda(cases: Iterable[Case], effort: Effort) -> Figures:
    """Measure ours on the GPU, kernels drawn on CPU, against the device's own copying."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = time_interleaved({"copy": synchronised(lambda: target.copy_(source))}, effort)["copy"]
    # A copy reads and writes every byte.
    bandwidth = 2 * COPIED_BYTES / statistics.median(seconds)
    rows = []
    for case in cases:
        for levels, options in ((1, ONE_LEVEL), (3, THREE_LEVELS)):
            for row in measure_on_gpu(case, synthesizer(case.kernel, **options), effort):
                rows.append({"levels": levels, **row, "share_of_copying": 1e9 * row["gb_per_s"] / bandwidth})
    return {"device": torch.cuda.get_device_name(), "copying_gb_per_s": bandwidth / 1e9, "rows": rows}


def measure_on_gpu(case: Case, blur: BlurSynthesizer, effort: Effort) -> list[Figures]:
    """Measure one synthesizer with new kernels each time, and with given ones."""
    images, generator = case.images().cuda(), torch.Generator().manual_seed(1)
    given = blur.sample(case.batch, generator=generator)
    calls = {
        "drawn": synchronised(lambda: blur(images, generator=generator)),
        "given": synchronised(lambda: blur(images, kernels=given)),
    }
    moved = images.nbytes + blur(images, kernels=given).nbytes
    return [
        {"kernels": kernels, **figures(case, seconds), "gb_per_s": moved / statistics.median(seconds) / 1e9}
        for kernels, seconds in time_interleaved(calls, effort).items()
    ]


def synchronised(call: Blur) -> Blur:
    """Return a call that ends when the GPU has done its work."""

    def wait() -> None:
        call()
        torch.cuda.synchronize()

    return wait


def measure(arguments: argparse.Namespace) -> Figures:
    """Measure all that was asked for; the quick way, what is small and once."""
    quick = arguments.quick
    effort = QUICK if quick else FULL
    largest = MAIN.size if quick else max(case.size for case in GROWTH)
    arms = [arm for arm in ARMS if arm.is_installed]
    remembering = [arm for arm in [*arms, OURS_THREE_LEVELS] if not quick or arm.peer.startswith(OURS)]
    result = {
        "absent": sorted({arm.package for arm in ARMS if not arm.is_installed}),
        "throughput": measure_throughput([case for case in SHOWN + GROWTH if case.size <= largest], effort),
        "ours": measure_ours(effort),
        "varying": measure_varying([case for case in VARYING if case.size <= largest], effort),
        "memory": measure_memory(remembering, MEMORY, arguments.threads),
    }
    return result | ({"cuda": measure_cuda(ON_GPU, effort)} if arguments.device == "cuda" else {})


def fastest(rows: Iterable[Figures], case: Case) -> dict[str, Figures]:
    """Return the row of each peer's fastest arm on a case; none if the case was not measured."""
    best: dict[str, Figures] = {}
    for row in rows:
        if Case(row["size"], row["batch"], row["kernel"]) == case:
            best[row["peer"]] = max(row, best.get(row["peer"], row), key=lambda one: one["images_per_s"])
    return best


def compare(result: Figures) -> list[Figures]:
    """Return every goal that could be measured, with its value and whether it is met."""
    best = fastest(result["throughput"], MAIN)
    ours = result["ours"]
    memory = {row["arm"]: row["over_output"] for row in result["memory"]}
    at_least = [
        (f"images/s, ours over {peer}", best[OURS]["images_per_s"] / best[peer]["images_per_s"], limit)
        for peer, limit in LEAST_RATIOS
        if peer in best
    ]
    at_most = [
        ("time, three levels in linear light over one level", ours["three_levels_over_one"], 4.6),
        ("time, K = 63 over K = 15", ours["k63_over_k15"], 1.3),
        ("time, drawing kernels over the whole", ours["share_of_sample"]["shake"], 0.05),
        ("peak memory over output, one level", memory[OURS], 1.6),
        ("peak memory over output, three levels", memory[OURS_THREE_LEVELS.name], 1.6),
        ("time, varying over uniform, the worst case", max(row["over_uniform"] for row in result["varying"]), 6.0),
    ]
    return [
        *({"goal": goal, "value": value, "at_least": limit, "met": value >= limit} for goal, value, limit in at_least),
        *({"goal": goal, "value": value, "at_most": limit, "met": value <= limit} for goal, value, limit in at_most),
    ]


def as_table(result: Figures) -> Figures:
    """Return images/s of every peer's fastest arm, and the memory of the one that is fastest at MAIN."""
    best = {case: fastest(result["throughput"], case) for case in SHOWN}
    memory = {row["arm"]: f"{row['over_output']:.1f}" for row in result["memory"]}
    rows = []
    for peer, main in best[MAIN].items():
        rates = [f"{best[case][peer]['images_per_s']:.0f}" if best[case] else "" for case in SHOWN]
        ratio = best[MAIN][OURS]["images_per_s"] / main["images_per_s"]
        rows.append([main["arm"], *rates, f"{ratio:.1f}", memory.get(main["arm"], "")])
    absent = f" Not installed, so not measured: {', '.join(result['absent'])}." if result["absent"] else ""
    return {
        "columns": [
            "blur",
            *(f"{case.size} px, K = {case.kernel}" for case in SHOWN),
            f"ours over it ({MAIN.size} px, K = {MAIN.kernel})",
            "peak memory over output",
        ],
        "rows": rows,
        "caption": f"Images/s, batch {MAIN.batch}, RGB, one level, values blurred as they are, a new random kernel of "
        "K x K px for every image. Where a package has several ways to do it, the fastest counts; named is the one "
        f"at {MAIN.size} px and K = {MAIN.kernel}. Memory at {MEMORY.size} px, batch {MEMORY.batch}, the output "
        f"included.{absent}",
    }


def packages() -> dict[str, str]:
    """Return the versions of what was measured."""
    names = {arm.package for arm in ARMS if arm.is_installed} - {"tafm_loss"}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def announce(what: str) -> None:
    print(f"measured: {what}", file=sys.stderr, flush=True)


def show(result: Figures) -> None:
    """Print the table and the goals."""
    print(markdown(result["table"]["columns"], result["table"]["rows"]))
    for name in result["absent"]:
        print(f"{name} is not installed and was skipped: pip install -e .[benchmarks,dev]")
    for row in result["goals"]:
        sign, limit = (">=", row["at_least"]) if "at_least" in row else ("<=", row["at_most"])
        print(f"{row['goal']}: {row['value']:.3f} {sign} {limit:g} {'met' if row['met'] else 'MISSED'}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of what is small: tells only that all runs")
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the result file again")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda measures ours there as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "blur_throughput.json", help="the result file")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "blur_throughput.png", help="the plot")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    refuse_quick_results(parser, quick=arguments.quick, out=arguments.out)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that PyTorch can use; torch.cuda.is_available() is False")
    if arguments.plot and not arguments.out.exists():
        parser.error(f"--plot draws the result file, and there is no {arguments.out}: measure first")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of is not None:
        name, *case = json.loads(arguments.peak_of)
        print(json.dumps(measure_peak(name, Case(*case))))
        return 0
    if arguments.plot:
        draw(json.loads(arguments.out.read_text()), arguments.picture)
        return 0
    measured = measure(arguments)
    facts = {**metadata(command_line()), "packages": packages()}
    result = {"table": as_table(measured), "metadata": facts, "goals": compare(measured), **measured}
    write_result(arguments.out, result)
    show(result)
    draw(result, arguments.picture)
    # A goal that is missed is a result, and no reason to stop a set of benchmarks.
    return 0


if __name__ == "__main__":
    sys.exit(main())
