"""README and examples: what is shown runs, what is listed exists."""

import json
import re
import runpy
import statistics
import warnings
from pathlib import Path

import pytest

from tafm_loss import load_backbone, push_backbone
from tafm_loss.backbones.registry import describe_backbones
from tests.hub_server.server import HubServer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_blocks_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer
) -> None:
    monkeypatch.chdir(tmp_path)
    push_backbone(load_backbone("tafm-compact"), "owner/name", token=hub.token, tag="v1")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_table_of_backbones_is_that_of_info() -> None:
    section = README.split("## Backbones")[1].split("\n## ")[0]
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:4]] for line in section.splitlines() if line.startswith("| `")
    ]
    assert rows == [
        [backbone.name, _millions(backbone.parameters), backbone.licence] for backbone in describe_backbones()
    ]


def test_the_costs_of_the_losses_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "loss_cost.json").read_text())["measurements"]
    seconds = {arm: statistics.median(figures["seconds"]) for arm, figures in measured.items()}
    arms = {
        "TaskAdaptiveFeatureLoss": "default",
        "DiscriminativeFeatureLoss": "MDF, 8 discriminators",
        "ContrastiveFeatureLoss": "contrastive, 1 negative",
    }
    section = README.split("## The sister losses")[1].split("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")] for line in section.splitlines() if line.startswith("| `")]
    costs = {row[1]: row[4] for row in rows}
    for loss, arm in arms.items():
        assert costs[loss] == f"{seconds[arm] / seconds['VGG19 conv5_4, as BasicSR']:.2f}", loss


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e5 else f"{parameters / 1e6:.2f} M"


def test_links_and_pictures_point_at_files() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", prose)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_quickstart_lowers_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    steps = re.findall(r"L1 ([\d.]+), TAFM ([\d.]+)", capsys.readouterr().out)
    first, last = ([float(value) for value in step] for step in (steps[0], steps[-1]))
    assert last[0] < first[0] and last[1] < first[1]
