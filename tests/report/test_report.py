"""The report is complete, plain and drawn: before and after in one table and one figure."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import TaskAdaptiveFeatureLoss, create_backbone
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.config import BackboneConfig, Tap
from tafm_loss.report import collected as module
from tafm_loss.report import (
    least_report_size,
    least_selectivity,
    measure,
    measure_units,
    plot_report,
    report,
    report_table,
    selectivity_gains,
    spread,
    write_reports,
)
from tafm_loss.report.table import HEALTH_RATIOS
from tafm_loss.scenes import generate_scenes


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(4, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def short_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.recovery
    monkeypatch.setattr(module, "recovery", lambda *args, **options: whole(*args, **options, steps=3))


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean(dim=(1, 2, 3))


class Grid(nn.Module):
    """An embedding: the image, averaged to a small grid."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"embedding": F.adaptive_avg_pool2d(images, 12).flatten(1)}


def embedding() -> Backbone:
    config = BackboneConfig(
        name="grid",
        architecture="grid",
        taps={"embedding": Tap(3 * 144, 1)},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        minimum_size=12,
        spatial=False,
    )
    return Backbone(Grid(), config)


def test_measure_gives_plain_numbers(scenes: Tensor) -> None:
    measures = measure(squared_error, scenes, recovered_images=1)
    assert measures["mirrored"] == {"p10": 1.0, "median": 1.0, "p90": 1.0} and measures["ordered_share"] == 1.0
    assert measures["selectivity"]["white noise"]["shake"]["6"]["median"] == pytest.approx(1, abs=0.01)
    assert measures["ordering_accuracy"] == dict.fromkeys(("shake", "linear", "defocus", "gaussian"), 1.0)
    curve = measures["response"]["defocus"]
    assert curve["3"]["p10"] < curve["3"]["median"] < curve["3"]["p90"] < 1 and len(curve) == 7
    assert measures["images"] == 4
    assert json.loads(json.dumps(measures, allow_nan=False)) == measures


def test_what_has_no_value_is_null() -> None:
    measures = measure(squared_error, torch.full((2, 3, 48, 48), 0.5), recovered_images=1)
    assert measures["mirrored"]["median"] is None
    json.dumps(measures, allow_nan=False)


def test_the_ordered_share_is_of_images_and_what_is_measured_is_rounded(
    scenes: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    def blind_to_the_first(pred: Tensor, target: Tensor) -> Tensor:
        return 100 * squared_error(pred, target) * torch.arange(len(pred)).clamp(max=1)

    measures = measure(blind_to_the_first, scenes[:3], recovered_images=1)
    assert measures["ordered_share"] == measures["ordering_accuracy"]["linear"] == 0.6667
    small = measures["response"]["shake"]["0.5"]["median"]
    assert small == round(small, 5) > 0 and measures["gradient_peak"] == round(measures["gradient_peak"], 3)
    assert measures["recovery_after_db"] == measures["recovery_before_db"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("make", [lambda: create_backbone("tafm-compact"), embedding])
def test_a_report_is_the_same_for_the_same_seed_and_fit_for_json(make: Callable[[], Backbone], scenes: Tensor) -> None:
    backbone = make()
    state = torch.random.get_rng_state()
    measures = report(backbone, scenes, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert measures == json.loads(json.dumps(measures, allow_nan=False)) == report(make(), scenes, seed=3)
    loss = TaskAdaptiveFeatureLoss(backbone)
    assert (measures["distance"], measures["taps"]) == (loss.distance, dict(loss.layers))
    assert measures["backbone"] == f"{backbone.config.name}, sha256 {backbone.sha256[:8]}"
    assert measures["images"] == 4


def test_a_backbone_without_units_gets_those_of_the_images(scenes: Tensor) -> None:
    backbone = embedding()
    measured = report(backbone, scenes, seed=3)
    assert backbone.config.units == {}
    given = embedding()
    given.config = dataclasses.replace(given.config, units=measure_units(backbone, scenes, seed=3))
    assert report(given, scenes, seed=3)["response"] == measured["response"]
    doubled = {name: {tap: 2 * unit for tap, unit in units.items()} for name, units in given.config.units.items()}
    given.config = dataclasses.replace(given.config, units=doubled)
    there = report(given, scenes, seed=3)["response"]["shake"]["12"]["median"]
    assert there == pytest.approx(measured["response"]["shake"]["12"]["median"] / 2, rel=1e-3)


@pytest.mark.parametrize(("minimum", "least"), [(30, 31), (12, 23)])
def test_images_that_are_just_large_enough_are_taken(minimum: int, least: int) -> None:
    backbone = embedding()
    backbone.config = dataclasses.replace(backbone.config, minimum_size=minimum)
    assert least_report_size(backbone) == least
    images = generate_scenes(2, least, generator=torch.Generator().manual_seed(0))
    assert report(backbone, images)["images"] == 2
    with pytest.raises(ValueError, match=f"images must be at least {least} px"):
        report(backbone, images[..., 1:])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "tafm-compact"}, TypeError, "backbone must be a Backbone, got str"),
        ({"images": torch.rand(2, 1, 48, 48)}, ValueError, "images must have 3 channels"),
        ({"images": torch.full((2, 3, 48, 48), 128.0)}, ValueError, r"values in \[0, 1\]"),
        ({"images": torch.empty(0, 3, 48, 48)}, ValueError, "at least one image"),
    ],
)
def test_what_cannot_be_reported_on_is_refused(
    options: dict[str, Any], error: type[Exception], message: str, scenes: Tensor
) -> None:
    with pytest.raises(error, match=message):
        report(**{"backbone": embedding(), "images": scenes, **options})


def test_progress_names_the_parts(scenes: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    report(embedding(), scenes[:2])
    assert not capsys.readouterr().err
    report(embedding(), scenes[:2], progress=True)
    assert "selectivity" in (shown := capsys.readouterr().err) and "recovery" in shown


@pytest.fixture(scope="module")
def measures(scenes: Tensor) -> dict[str, Any]:
    return report(embedding(), scenes)


def test_the_table_has_a_column_for_each_report(measures: dict[str, Any]) -> None:
    before = {
        **measures,
        "detection_threshold_px": None,
        "gradient_peak": 1.26,
        "recovery_before_db": 20.04,
        "recovery_after_db": 31.06,
        "ordering_accuracy": {"shake": 1.0, "linear": None, "defocus": 0.9444},
        "other": {"p10": 1.0, "median": 2.345, "p90": 3.0},
    }
    head, rows = report_table({"before": before, "after": measures})
    assert head == ["", "before", "after"] and all(len(row) == 3 for row in rows)
    cells = {name: value for name, value, _ in rows}
    assert cells["Nyquist peak of the gradient"] == "1.3"
    assert cells["smallest shake told from sharp, px"] == "-"
    assert cells["recovery from a 6 px shake, dB"] == "20.0 → 31.1"
    assert cells["neighbouring extents in order, worst kind, %"] == "94.4"
    assert cells["another image / 24 px shake"] == "2.35"
    assert report_table({}) == ([""], [])


def kinds(*medians: float | None) -> dict[str, Any]:
    return {"shake": {extent: {"median": median} for extent, median in zip(("1", "3", "6"), medians, strict=True)}}


def test_the_least_selectivity_is_that_from_three_px_on(measures: dict[str, Any]) -> None:
    of_kinds = kinds(0.1, 3.0, 5.0) | {"linear": kinds(0.2, None, 2.5)["shake"]}
    assert least_selectivity(of_kinds) == 2.5
    assert least_selectivity(kinds(0.1, 3.0, 5.0)) == 3.0
    assert least_selectivity(kinds(1.0, None, None)) is None
    _, rows = report_table({"x": {**measures, "selectivity": {"white noise": of_kinds}}})
    assert rows[0] == ["selectivity, white noise, least from 3 px", "2.50"]


def test_gains_are_told_where_there_are_two_numbers() -> None:
    before = {"selectivity": {"white noise": kinds(1.0, 0.904, 2.0), "scrambled error": kinds(1.0, None, None)}}
    after = {"selectivity": {"white noise": kinds(1.0, 5.5, 5.0), "scrambled error": kinds(1.0, 2.0, 2.0)}}
    lines = ["least selectivity of blur against white noise: 0.90 before, 5.00 after"]
    assert selectivity_gains({"before": before, "after": after}) == lines and selectivity_gains({}) == []


def test_a_spread_leaves_out_what_is_no_number() -> None:
    values = torch.tensor([*range(11), math.nan]).double() / 3
    assert spread(values) == {"p10": 0.333, "median": 1.667, "p90": 3.0}
    assert spread(values, digits=1) == {"p10": 0.3, "median": 1.7, "p90": 3.0}
    assert spread(torch.full((2,), math.nan)) == {"p10": None, "median": None, "p90": None}


def drawn(reports: dict[str, Any]) -> Any:
    """Return a figure that has been drawn, the text in it, and what must be kept so that it lives."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = plot_report(reports)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return figure


def lines(axis: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axis.get_lines()}


@pytest.mark.parametrize("titles", [("after",), ("before", "after")])
def test_the_figure_is_1200_px_wide_and_nothing_is_cut_off(titles: tuple[str, ...], measures: dict[str, Any]) -> None:
    figure = drawn(dict.fromkeys(titles, measures))
    width, height = figure.canvas.get_width_height()
    assert width == 1200
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 * figure.dpi <= width and box.y1 * figure.dpi <= height


def test_the_figure_shows_what_was_measured(measures: dict[str, Any]) -> None:
    other = {**measures, "response": {kind: curve for kind, curve in reversed(measures["response"].items())}}
    figure = drawn({"before": other, "after": measures})
    *responses, noise, scrambled, health = figure.axes
    assert len(responses) == 4
    for kind, axis in zip(reversed(measures["response"]), responses, strict=True):
        medians = [spread["median"] for spread in measures["response"][kind].values()]
        assert kind in axis.get_title() and lines(axis)["after"] == lines(axis)["before"] == medians
        assert axis.get_xscale() == axis.get_yscale() == "log"
    for axis, distractor in ((noise, "white noise"), (scrambled, "scrambled error")):
        of_kinds = measures["selectivity"][distractor].values()
        medians = [[spread["median"] for spread in spreads.values()] for spreads in of_kinds]
        assert distractor in axis.get_title() and lines(axis)["after"] == list(map(min, zip(*medians, strict=True)))
        # Squared error has a selectivity of 1 by definition, and the reader is told.
        assert [1, 1] in lines(axis).values() and "squared error" in axis.get_title()
    medians = [measures[name]["median"] for name in ("mirrored", "grey", "shift", "other")]
    dots = [list(line.get_xdata()) for line in health.get_lines()]
    assert dots[:2] == [medians, medians]
    assert [1, 1] in dots
    texts = [text.get_text() for text in responses[0].get_legend().get_texts()]
    assert texts == ["before", "after"]


def ticks(axis: Any) -> list[float]:
    """Return where the ticks that can be seen of an x or y axis are; their labels must say that."""
    low, high = axis.get_view_interval()
    seen = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    places = [float(tick.get_loc()) for tick in seen]
    assert [float(tick.label1.get_text()) for tick in seen] == pytest.approx(places)
    return places


def test_the_figure_says_what_its_axes_and_panels_are(measures: dict[str, Any]) -> None:
    figure = drawn({"after": measures})
    *responses, noise, scrambled, health = figure.axes
    titles = [panel.texts[0].get_text().split(":")[0] for panel in figure.subfigs]
    assert titles == ["Response to blur", "Selectivity", "Health"]
    for axis in responses:
        assert ticks(axis.xaxis) == pytest.approx([0.5, 1, 2, 5, 10, 20]) and axis.get_xlabel() == "blur extent, px"
    for axis in (noise, scrambled):
        assert ticks(axis.xaxis) == pytest.approx([1, 2, 5, 10, 20]) and 1 in ticks(noise.yaxis)
    assert noise.get_ylim() == scrambled.get_ylim() and len({axis.get_ylim() for axis in responses}) == 1
    assert "10 px shake" in responses[0].get_ylabel() and "error of the distractor" in noise.get_ylabel()
    assert [label.get_text() for label in health.get_yticklabels()] == list(HEALTH_RATIOS.values())
    assert health.get_ylim() == (3.5, -0.5) and 1 in ticks(health.xaxis) and health.get_xscale() == "log"


def test_numbers_that_are_missing_leave_gaps(measures: dict[str, Any]) -> None:
    nothing = {"p10": None, "median": None, "p90": None}
    shake = {**measures["response"]["shake"], "3": nothing}
    figure = drawn({"flat": {**measures, "response": {**measures["response"], "shake": shake}, "grey": nothing}})
    assert [math.isnan(value) for value in lines(figure.axes[0])["flat"]] == [extent == "3" for extent in shake]
    drawn({"flat": report(embedding(), torch.full((2, 3, 48, 48), 0.5))})


def test_a_figure_of_no_or_of_three_reports_is_refused(measures: dict[str, Any]) -> None:
    for titles in ((), ("a", "b", "c")):
        with pytest.raises(ValueError, match="reports must be one or two"):
            drawn(dict.fromkeys(titles, measures))


def test_reports_are_written_as_json_and_as_a_figure(measures: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_reports({"after": measures}, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == {"after": measures}
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="JSON"):
        write_reports({"after": {"gradient_peak": math.nan}}, tmp_path)


def test_without_matplotlib_the_numbers_are_written_alone(
    measures: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_reports({"after": measures}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
