"""README and the documentation site: what is shown runs, what is listed exists, what is claimed was measured."""

import json
import pkgutil
import re
import statistics
from pathlib import Path

import pytest

import tafm_loss
from tafm_loss import load_backbone, push_backbone
from tafm_loss.backbones.registry import describe_backbones
from tafm_loss.losses import RECOMMENDED_RATIO
from tests.hub_server.server import HubServer

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PAGES = [README, *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
WITH_CODE = [page for page in PAGES if PYTHON.search(page.read_text())]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_pages_with_code_are_found() -> None:
    assert {"README.md", "docs/guides/training.md", "docs/guides/sharper.md"} <= {_name(page) for page in WITH_CODE}


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_the_python_blocks_of_a_page_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer
) -> None:
    monkeypatch.chdir(tmp_path)
    if "owner/name" in page.read_text():
        push_backbone(load_backbone("tafm-lite"), "owner/name", token=hub.token, tag="v1")
    namespace: dict[str, object] = {}
    for block in PYTHON.findall(page.read_text()):
        exec(compile(block, _name(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_and_pictures_point_at_files_and_headings(page: Path) -> None:
    prose = re.sub(r"```(?!\{include\}).*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose):
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), target
        if anchor:
            assert anchor in _anchors(file), f"{target}#{anchor}"


def test_files_that_pages_name_are_there() -> None:
    named = {
        (_name(page), file)
        for page in (*PAGES, ROOT / "RELEASING.md", ROOT / "CHANGELOG.md")
        for file in re.findall(r"`((?:tafm_loss|examples|benchmarks|tests)/[\w/.]+)`", page.read_text())
    }
    assert len(named) > 20
    assert not {(page, file) for page, file in named if "NAME" not in file and not (ROOT / file).exists()}


def _anchors(page: Path) -> set[str]:
    text = page.read_text()
    for included in re.findall(r"```\{include\} (\S+)", text):
        text += (page.parent / included).read_text()
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_and_readme_is_short() -> None:
    entries = {
        (page.parent / entry).resolve()
        for page in (DOCS / "index.md", DOCS / "api" / "index.md")
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL)
        for entry in block.split("\n")
        if entry and not entry.startswith(":")
    }
    assert {page.with_suffix("") for page in PAGES} - {README.with_suffix(""), DOCS / "index"} == entries
    assert len(README.read_bytes()) <= 10_000


def test_the_reference_has_every_public_name_and_module() -> None:
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    names = re.findall(r"auto(?:class|function|exception):: (\S+)", text)
    assert sorted([*names, "__version__"]) == sorted(tafm_loss.__all__)
    programs = {"cli", "demo"}
    modules = {module.name for module in pkgutil.iter_modules(tafm_loss.__path__) if module.name[0] != "_"} - programs
    assert sorted(re.findall(r"automodule:: tafm_loss\.(\S+)", text)) == sorted(modules)


def test_the_table_of_backbones_is_that_of_info() -> None:
    rows = _rows((DOCS / "backbones.md").read_text())
    assert [row[:3] for row in rows] == [
        [backbone.name, _millions(backbone.parameters), backbone.licence] for backbone in describe_backbones()
    ]


@pytest.mark.parametrize("page", [README, DOCS / "guides" / "sister-losses.md"], ids=_name)
def test_the_costs_of_the_losses_are_those_that_were_measured(page: Path) -> None:
    measured = json.loads((RESULTS / "loss_cost.json").read_text())["measurements"]
    default = json.loads((RESULTS / "default_cost.json").read_text())["seconds"]
    vgg19 = "VGG19 conv5_4, as BasicSR"
    seconds = {arm: statistics.median(figures["seconds"]) for arm, figures in measured.items()}
    shares = {
        "TaskAdaptiveFeatureLoss": default["default"] / default[vgg19],
        "DiscriminativeFeatureLoss": seconds["MDF, 8 discriminators"] / seconds[vgg19],
        "ContrastiveFeatureLoss": seconds["contrastive, 1 negative"] / seconds[vgg19],
    }
    costs = {row[0]: row[3] for row in _rows(page.read_text())}
    for loss, share in shares.items():
        assert costs[loss] == f"{share:.2f}", loss


def test_the_claims_of_the_readme_are_those_that_were_measured() -> None:
    text = " ".join(README.read_text().split())
    seconds = json.loads((RESULTS / "default_cost.json").read_text())["seconds"]
    ours, alex = (round(1e3 * seconds[arm]) for arm in ("default", "lpips-alex"))
    assert f"takes {ours} ms a step where `lpips` (alex) takes {alex} ms" in text


@pytest.mark.parametrize("page", [README, DOCS / "guides" / "weight.md"], ids=_name)
def test_the_ratio_that_is_named_is_the_one_that_is_recommended(page: Path) -> None:
    assert f"a ratio of {RECOMMENDED_RATIO:g}." in page.read_text().replace("**", "")


def _rows(text: str) -> list[list[str]]:
    """Return the rows, cell by cell, whose first cell is code."""
    return [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")
    ]


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e5 else f"{parameters / 1e6:.2f} M"
