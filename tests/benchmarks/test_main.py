"""Every benchmark can be asked for by name, as its script wants to be called, and a failure is not passed over."""

import argparse
import ast
import itertools
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks._sets import PROGRAMS, Program

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FOLDERS = {name: Path(f"/{name}") for name in ("datasets", "weights", "runs", "out")}


def argument_calls(script: str) -> list[ast.Call]:
    tree = ast.parse((FOLDER / script).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]


def names_of(call: ast.Call) -> list[str]:
    return [argument.value for argument in call.args if isinstance(argument, ast.Constant)]


def options_of(script: str) -> set[str]:
    return {name for call in argument_calls(script) for name in names_of(call)}


def parser_of(script: str) -> argparse.ArgumentParser:
    """A parser that takes what the script takes, made without importing the script."""
    parser = argparse.ArgumentParser(script)
    for call in argument_calls(script):
        given = {word.arg: word.value for word in call.keywords}
        kept: dict[str, Any] = {
            name: value.value
            for name, value in given.items()
            if name in ("action", "nargs", "required") and isinstance(value, ast.Constant)
        }
        if isinstance(given.get("choices"), ast.List | ast.Tuple):
            kept["choices"] = ast.literal_eval(given["choices"])
        parser.add_argument(*names_of(call), **kept)
    return parser


def written_by_default(script: str) -> set[str]:
    """The options of a script that name what it writes in the repository."""
    return {
        names_of(call)[0]
        for call in argument_calls(script)
        for word in call.keywords
        if word.arg == "default" and ast.unparse(word.value).startswith(("RESULTS", "ROOT"))
    }


def filled(call: str) -> list[str]:
    return [part.format(**FOLDERS) for part in shlex.split(call)]


def by_name(one: Program) -> str:
    return one.name


def test_every_script_that_is_a_program_is_listed() -> None:
    scripts = {path.name for path in FOLDER.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    assert {one.file for one in PROGRAMS} == scripts - {"tables.py", "__main__.py"}


def test_every_result_file_has_one_program() -> None:
    made = [name for one in PROGRAMS for name in one.result_files]
    assert len(set(made)) == len(made)
    assert {path.stem for path in (FOLDER / "results").glob("*.json")} <= set(made)


@pytest.mark.parametrize("one", PROGRAMS, ids=by_name)
def test_a_script_takes_the_arguments_that_it_is_called_with(one: Program) -> None:
    parser = parser_of(one.file)
    parser.parse_args(filled(one.arguments))
    if one.quick is not None:
        parser.parse_args(filled(one.quick))
    options = options_of(one.file)
    assert one.script is not None or one.plots == ("--plot" in options)
    assert (one.quick is not None) or "--quick" not in options


@pytest.mark.parametrize("one", [one for one in PROGRAMS if one.quick is not None], ids=by_name)
def test_a_quick_call_writes_to_the_scratch_folder_alone(one: Program) -> None:
    called = shlex.split(one.quick or "")
    moved = {option for option, value in itertools.pairwise(called) if value.startswith("{out}")}
    assert moved and written_by_default(one.file) <= moved


def test_programs_run_after_those_whose_networks_they_use() -> None:
    calls = [call.split()[0] for call in program.calls_of(["cpu"])]
    assert calls.index("discriminators.py") < calls.index("sister_losses.py")
    assert calls.index("deblurring_example.py") < calls.index("blur_awareness.py")
    assert calls.index("deblurring_example.py") < calls.index("deblurring_quality.py")
    assert calls.index("finetuning.py") < calls.index("tuned_losses.py")
    assert calls[-1] == "tables.py" and len(calls) == len(PROGRAMS) + 1


def test_nothing_is_measured_for_tables_and_plots() -> None:
    calls = program.calls_of(["tables", "plots"])
    assert calls[-1] == "tables.py"
    assert {call.split()[0] for call in calls[:-1]} == {one.file for one in PROGRAMS if one.plots}
    assert all(call.endswith(" --plot") for call in calls[:-1])


def test_a_name_given_twice_runs_once_and_the_tables_follow() -> None:
    assert program.calls_of(["weights_loading", "weights_loading"]) == ["weights_loading.py ", "tables.py"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a script that fails and one that writes what it is given."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "bad.py").write_text("raise SystemExit(3)")
    (tmp_path / "benchmarks" / "good.py").write_text("import sys; open('given', 'w').write(sys.argv[1])")
    monkeypatch.setattr(program, "ROOT", tmp_path)
    return tmp_path


def test_the_first_failure_ends_the_run_with_its_status(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert program.run_all(["bad.py", "good.py x"], {}, keep_going=False) == 3
    assert not (repository / "given").exists()
    assert "bad.py failed with exit status 3" in capfd.readouterr().err


def test_the_rest_runs_after_a_failure_when_asked_to(repository: Path) -> None:
    assert program.run_all(["bad.py", "good.py x"], {}, keep_going=True) == 3
    assert (repository / "given").exists()


def test_folders_may_have_spaces_in_their_names(repository: Path) -> None:
    assert program.run_all(["good.py {out}/x"], {"out": Path("my results")}, keep_going=False) == 0
    assert (repository / "given").read_text() == "my results/x"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["balance", "--datasets", "nowhere"], "--datasets must be a folder"),
        (["training_cost", "--weights", "nowhere"], "there is no"),
        (["no_such"], "there is no no_such"),
        ([], "--list says"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "run_all", lambda *_, **__: pytest.fail("it ran"))
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_the_list_names_every_program_and_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--list"])
    assert program.main() == 0
    listed = capsys.readouterr().out
    assert all(f"\n{one.name}: {one.question}\n" in listed for one in PROGRAMS)
    assert all(f"{name}: " in listed for name in program.SETS)
