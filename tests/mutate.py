"""Change the package in one place at a time, and see whether the nearest tests notice.

Not part of the test suite. The mutants that are tried of a file are a sample that its name and the seed choose. Each is
tried in a copy of the tree, up to the first test that fails; one that takes too long counts as noticed.

    python tests/mutate.py tafm_loss/report tafm_loss/scenes.py [--each 8] [--seed 0] [--limit 300]
    python tests/mutate.py tafm_loss/report/units.py --only 12:8      # one place again, by line and column
"""

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# Besides tests/<room>/ and tests/test_<room>.py.
ALSO_TESTED_BY = {"demo": ["tests/test_cli.py"], "scenes": ["tests/test_bundled.py"]}
IMPORTED = ("pytest", "hypothesis", "numpy", "torch", "torchvision", "accelerate", "PIL.Image", "matplotlib.figure")
PAIRS = [(ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)]
PAIRS += [(ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div)]
OTHER: dict[Any, Any] = {**dict(PAIRS), **{two: one for one, two in PAIRS}, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult}


class Mutant(NamedTuple):
    """What stands from one place to another, as (line, column in bytes), and what is put there."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: str

    def applied(self, source: str) -> str:
        """Return the source with the change."""
        lines = source.encode().splitlines(keepends=True)
        offsets = [sum(map(len, lines[: line - 1])) + column for line, column in (self.start, self.end)]
        whole = b"".join(lines)
        return (whole[: offsets[0]] + self.text.encode() + whole[offsets[1] :]).decode()


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of its lines."""
    changes = [change for node in _code(ast.parse(source)) for change in _changes(node)]
    return sorted({Mutant((at.lineno, at.col_offset), (at.end_lineno, at.end_col_offset), to) for at, to in changes})


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but types, decorators, and what is for type checkers alone."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            # The parts of f-strings have no places of their own before Python 3.12.
            types = name in ("annotation", "returns", "decorator_list")
            if isinstance(child, ast.AST) and not (types or isinstance(child, ast.JoinedStr)):
                yield from _code(child)


def _changes(node: ast.AST) -> Iterator[tuple[Any, str]]:
    """Yield what is replaced, and by what."""
    match node:
        case ast.Compare() | ast.BinOp() | ast.BoolOp():
            first, *rest = node.ops if isinstance(node, ast.Compare) else [node.op]
            if other := OTHER.get(type(first)):
                changed = copy.copy(node)
                changed.op, changed.ops = other(), [other(), *rest]  # type: ignore[union-attr]
                yield node, f"({ast.unparse(changed)})"
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node, f"({ast.unparse(node.operand)})"
        case ast.Constant(value=bool() | int() | float() as value):
            yield node, repr(not value if isinstance(value, bool) else value + (value or 1))
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield test, f"(not ({ast.unparse(test)}))"
        case ast.Return(value=ast.AST()):
            yield node, "return None"
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Assign(targets=[ast.Subscript()]):
            yield node, "pass"


def nearest_tests(file: Path) -> list[str]:
    """Return the tests of a package file: those of its own name first, then all of its room."""
    room, *_ = parts = file.relative_to("tafm_loss").with_suffix("").parts
    own = Path("tests", *parts[:-1], f"test_{parts[-1]}.py")
    found = [own, Path("tests", room), Path("tests", f"test_{room}.py"), *map(Path, ALSO_TESTED_BY.get(room, ()))]
    return [str(path) for path in dict.fromkeys(found) if (ROOT / path).exists()]


def outcome(tree: Path, tests: list[str], limit: float) -> str:
    """Run tests in a child process, and return "survived" if all pass, "killed" if one fails, or "too long"."""
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(tree)
        os.environ["PYTHONPATH"] = sys.path[0] = str(tree)
        log = os.open("pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.dup2(log, 1), 2)
        os._exit(int(importlib.import_module("pytest").main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    for _ in range(round(10 * limit)):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "killed" if os.waitstatus_to_exitcode(status) else "survived"
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too long"


def main() -> None:
    """Try the mutants, print each as it is done, and the share that was killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="package files and folders, from the repository's root")
    parser.add_argument("--each", type=int, default=8, help="mutants of each file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, default=300, help="seconds for a mutant (default: %(default)s)")
    parser.add_argument("--only", help="LINE:COLUMN, all mutants of one place")
    options = parser.parse_args()
    for name in IMPORTED:
        importlib.import_module(name)
    tried: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info"))
        Path(folder, "shared").symlink_to(ROOT.parent / "shared")
        for file in (each for path in options.paths for each in (sorted(path.rglob("*.py")) or [path])):
            source, tests = (ROOT / file).read_text(), nearest_tests(file)
            if (found := outcome(tree, tests, 4 * options.limit)) != "survived":
                sys.exit(f"{tests} must pass before {file} is changed: {found}\n{(tree / 'pytest.log').read_text()}")
            every = [each for each in mutants(source) if options.only in (None, f"{each.start[0]}:{each.start[1]}")]
            drawn = random.Random(f"{options.seed} {file}").sample(every, min(options.each, len(every)))
            for mutant in sorted(drawn):
                (tree / file).write_text(mutant.applied(source))
                tried.append(outcome(tree, tests, options.limit))
                line, column = mutant.start
                was = source.splitlines()[line - 1].strip()
                print(f"{tried[-1]:9} {file}:{line}:{column}  {was}  ->  {mutant.text}", flush=True)
            (tree / file).write_text(source)
    killed = len(tried) - tried.count("survived")
    print(f"{killed} of {len(tried)} killed, {100 * killed / max(1, len(tried)):.0f} %")


if __name__ == "__main__":
    main()
