"""Run benchmarks by name, and make the tables and plots of the documentation from their results.

    python -m benchmarks --list
    python -m benchmarks NAME [NAME ...]    # these, then the tables
    python -m benchmarks cpu                # all that is published from a processor, then the tables; many hours
    python -m benchmarks quick              # tells only that all runs: minutes, results go to a scratch folder
    python -m benchmarks tables plots       # measures nothing

Scripts that keep what they have measured skip it. A script that fails ends the run, with its exit status.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks._sets import PROGRAMS, Program, places

ROOT = Path(__file__).resolve().parent.parent
BY_NAME = {program.name: program for program in PROGRAMS}
SETS = {
    "cpu": "all that is published from a processor",
    "quick": "all that can be tried in minutes; the figures mean nothing",
    "tables": "the tables of the documentation, from the result files",
    "plots": "the plots of the documentation, from the result files",
}
NEEDED = {
    "datasets": "bsds500/{train,val,test}",
    "weights": "squeezenet1_0-imagenet.safetensors, mdf/*.pth and niqe_pris_params.npz",
}


def calls_of(names: Iterable[str]) -> list[str]:
    """Return the calls that the names of sets and programs ask for: a script and its arguments, as in a shell."""
    wanted = list(dict.fromkeys(names))
    measured = list(BY_NAME) if "cpu" in wanted else [name for name in BY_NAME if name in wanted]
    calls = [f"{BY_NAME[name].file} {BY_NAME[name].arguments}" for name in measured]
    if "quick" in wanted:
        calls += [f"{program.file} {program.quick}" for program in PROGRAMS if program.quick is not None]
    if "plots" in wanted:
        calls += [f"{program.file} --plot" for program in PROGRAMS if program.plots]
    if measured or "tables" in wanted:
        calls.append("tables.py")
    return calls


def run(call: str, folders: Mapping[str, Path]) -> int:
    """Run a script of this folder by the interpreter that runs this one, and return its exit status."""
    script, *arguments = (part.format(**folders) for part in shlex.split(call))
    print(shlex.join(["python", f"benchmarks/{script}", *arguments]), file=sys.stderr, flush=True)
    return subprocess.run([sys.executable, f"benchmarks/{script}", *arguments], cwd=ROOT, check=False).returncode


def run_all(calls: Iterable[str], folders: Mapping[str, Path], *, keep_going: bool) -> int:
    """Run the calls and return the exit status of the first that failed, which is the last unless `keep_going`."""
    first = 0
    for call in calls:
        status = run(call, folders)
        if status:
            print(f"{call.split()[0]} failed with exit status {status}", file=sys.stderr)
            first = first or status
            if not keep_going:
                break
    return first


def describe(program: Program) -> str:
    """Return what `--list` says of a program."""
    needs = [f"--{name}" for name in NEEDED if name in places(program.arguments)]
    also = [name for name, has in (("quick", program.quick is not None), ("plots", program.plots)) if has]
    facts = [f"about {program.takes}", *(f"needs {need}" for need in needs), *(f"also in {name}" for name in also)]
    command = f"python benchmarks/{program.file} {program.arguments}".rstrip()
    return f"{program.name}: {program.question}\n    {command}\n    {', '.join(facts)}"


def listing() -> str:
    """Return what `--list` prints."""
    sets = [f"{name}: {about}" for name, about in SETS.items()]
    needs = [f"--{name} is a folder with {content}" for name, content in NEEDED.items()]
    return "\n".join([*sets, "", *map(describe, PROGRAMS), "", *needs])


def main() -> int:
    """Run what is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a set or a benchmark of --list")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--datasets", type=Path, default=Path("datasets"), help=f"holds {NEEDED['datasets']}")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help=f"holds {NEEDED['weights']}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="for backbones and networks that are made")
    parser.add_argument("--keep-going", action="store_true", help="run the rest when a script fails")
    options = parser.parse_args()
    if options.list:
        print(listing())
        return 0
    if unknown := [name for name in options.names if name not in {*SETS, *BY_NAME}]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join([*SETS, *BY_NAME])}")
    if not options.names:
        parser.error("name a set or a benchmark; --list says what there is")
    calls = calls_of(options.names)
    for name, content in NEEDED.items():
        folder = getattr(options, name)
        if any(name in places(call) for call in calls) and not folder.is_dir():
            parser.error(f"--{name} must be a folder with {content}; there is no {folder}")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        folders = {**{name: getattr(options, name) for name in (*NEEDED, "runs")}, "out": Path(scratch)}
        return run_all(calls, folders, keep_going=options.keep_going)


if __name__ == "__main__":
    sys.exit(main())
