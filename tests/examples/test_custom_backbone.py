"""The example of an own architecture: what it tunes can be loaded and used as it says, by the same network alone."""

import contextlib
import hashlib
import io
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from examples import custom_backbone as example
from tafm_loss import (
    Backbone,
    FinetuneResult,
    TaskAdaptiveFeatureLoss,
    finetune_backbone,
    load_backbone,
)


class Run(NamedTuple):
    start: Backbone
    tuned: Backbone
    folder: Path
    output: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("custom") / "my backbone"
    seen: list[Backbone] = []

    def tune(start: Backbone, *given: Any, **options: Any) -> FinetuneResult:
        result = finetune_backbone(start, *given, **options, progress=False)
        seen.extend([start, result.backbone])
        return result

    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(io.StringIO()) as output:
        patched.setattr(example, "SCENES", 10)
        patched.setattr(example, "finetune_backbone", tune)
        patched.setattr(sys, "argv", ["custom_backbone.py", "--steps", "3", "--seed", "5", "--out", str(folder)])
        example.main()
    start, tuned = seen
    return Run(start, tuned, folder, output.getvalue())


def images(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_what_it_loads_is_what_it_tuned(run: Run) -> None:
    loaded = load_backbone(run.folder, module=example.MyNet())
    assert loaded.config == run.tuned.config and loaded.config.name == "my-net-tuned"
    state, tuned = loaded.state(), run.tuned.state()
    assert state.keys() == tuned.keys() and all(torch.equal(state[name], tuned[name]) for name in tuned)
    features, expected = loaded(images(37, 50)), run.tuned(images(37, 50))
    assert all(torch.equal(features[tap], expected[tap]) for tap in example.CONFIG.taps)


def test_it_starts_from_the_weights_of_the_seed_and_changes_all_of_them(run: Run) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        seeded = example.MyNet().state_dict()
    start, tuned = run.start.state(), run.tuned.state()
    assert all(torch.equal(start[name], seeded[name]) and not torch.equal(tuned[name], seeded[name]) for name in seeded)


def test_it_prints_the_gain_the_digest_and_where_the_backbone_is(run: Run) -> None:
    for distractor in ("white noise", "scrambled error"):
        line = rf"least selectivity of blur against {distractor}: \d+\.\d\d before, \d+\.\d\d after\n"
        assert re.search(line, run.output)
    digest = hashlib.sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()
    assert f"tuned backbone: {run.folder.resolve()}\nsha256: {digest}\n" in run.output
    assert run.output.endswith(f"to publish it: tafm-loss push {str(run.folder.resolve())!r} owner/name\n")


def test_the_two_lines_that_it_prints_load_and_use_the_backbone(run: Run) -> None:
    found = re.search(r"in Python: (.+)\n +(.+)\n", run.output)
    assert found is not None
    names = {name: getattr(example, name) for name in ("load_backbone", "MyNet", "TaskAdaptiveFeatureLoss")}
    exec("\n".join(found.groups()), names)
    pred, target = images(48, 48), images(48, 48).flip(3)
    assert names["loss_fn"](pred, target) == TaskAdaptiveFeatureLoss(run.tuned)(pred, target) > 0


def test_an_interrupted_run_on_photographs_says_nothing_of_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(start: Backbone, scenes: object, **options: Any) -> FinetuneResult:
        assert scenes == tmp_path and options["resume"]
        return FinetuneResult(start, [], {}, finished=False)

    monkeypatch.setattr(example, "finetune_backbone", interrupted)
    monkeypatch.setattr(sys, "argv", ["custom_backbone.py", "--images", str(tmp_path)])
    example.main()
    assert capsys.readouterr().out == ""
