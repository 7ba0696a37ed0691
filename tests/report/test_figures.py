"""The report is complete, plain and drawn: before and after in one table and one picture."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import create_backbone
from tafm_loss.backbones.backbone import Backbone, BackboneConfig, Tap
from tafm_loss.report import figures as module
from tafm_loss.report.figure import plot_report
from tafm_loss.report.figures import least_report_size, measure, report
from tafm_loss.report.table import report_table
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
    figures = measure(squared_error, scenes, recovered_images=1)
    assert figures["mirrored"] == {"p10": 1.0, "median": 1.0, "p90": 1.0} and figures["ordered_share"] == 1.0
    assert figures["selectivity"]["white noise"]["shake"]["6"]["median"] == pytest.approx(1, abs=0.01)
    assert figures["ordering_accuracy"] == dict.fromkeys(("shake", "linear", "defocus", "gaussian"), 1.0)
    curve = figures["response"]["defocus"]
    assert curve["3"]["p10"] < curve["3"]["median"] < curve["3"]["p90"] < 1 and len(curve) == 7
    assert figures["images"] == 4
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_what_has_no_value_is_null() -> None:
    figures = measure(squared_error, torch.full((2, 3, 48, 48), 0.5), recovered_images=1)
    assert figures["mirrored"]["median"] is None
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("make", [lambda: create_backbone("tafm-compact"), embedding])
def test_a_report_is_the_same_for_the_same_seed_and_fit_for_json(make: Callable[[], Backbone], scenes: Tensor) -> None:
    backbone = make()
    state = torch.random.get_rng_state()
    figures = report(backbone, scenes, untuned=backbone, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (
        figures == json.loads(json.dumps(figures, allow_nan=False)) == report(backbone, scenes, untuned=make(), seed=3)
    )
    assert figures["agreement"] == {"p10": 1.0, "median": 1.0, "p90": 1.0}
    assert set(figures["extent_probe"]) == {"r2", "rank_correlation"}
    assert figures["distance"] == ("normalized_l2" if backbone.config.spatial else "l2")
    assert figures["backbone"] == f"{backbone.config.name}, sha256 {backbone.sha256[:8]}"


def test_without_an_untuned_backbone_or_scenes_for_a_probe_these_are_null(scenes: Tensor) -> None:
    figures = report(embedding(), scenes[:3])
    assert figures["agreement"] is None and figures["extent_probe"] is None


def test_images_that_are_just_large_enough_are_taken() -> None:
    backbone = embedding()
    backbone.config = dataclasses.replace(backbone.config, minimum_size=30)
    least = least_report_size(backbone)
    images = generate_scenes(2, least, generator=torch.Generator().manual_seed(0))
    assert report(backbone, images)["images"] == 2
    with pytest.raises(ValueError, match=f"images must be at least {least} px"):
        report(backbone, images[..., 1:])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "tafm-compact"}, TypeError, "backbone must be a Backbone, got str"),
        ({"untuned": squared_error}, TypeError, "untuned must be a Backbone, got function"),
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
    assert "selectivity" in (shown := capsys.readouterr().err) and "agreement" in shown


@pytest.fixture(scope="module")
def figures(scenes: Tensor) -> dict[str, Any]:
    return report(embedding(), scenes, untuned=embedding())


def test_the_table_has_a_column_for_each_report(figures: dict[str, Any]) -> None:
    before = {**figures, "agreement": None, "extent_probe": None, "detection_threshold_px": None, "gradient_peak": 1.26}
    head, rows = report_table({"before": before, "after": figures})
    assert head == ["", "before", "after"] and all(len(row) == 3 for row in rows)
    cells = {name: values for name, *values in rows}
    assert cells["agreement with the untuned backbone"] == ["-", "1.00"]
    assert cells["rank correlation, kind not trained on"][0] == "-"
    assert cells["Nyquist peak of the gradient"][0] == "1.3"
    assert cells["smallest shake told from sharp, px"][0] == "-"


def test_the_table_gives_the_least_selectivity_that_is_asked_for(figures: dict[str, Any]) -> None:
    def spreads(*medians: float | None) -> dict[str, Any]:
        return {extent: {"median": median} for extent, median in zip(("1", "3", "6"), medians, strict=True)}

    kinds = {"shake": spreads(0.1, 3.0, 5.0), "linear": spreads(0.2, None, 2.5)}
    _, rows = report_table({"x": {**figures, "selectivity": {"white noise": kinds}}})
    assert rows[0] == ["selectivity, white noise, least from 3 px", "2.50"]


@pytest.mark.parametrize("titles", [("after",), ("before", "after")])
def test_the_picture_is_1200_px_wide_and_nothing_is_cut_off(titles: tuple[str, ...], figures: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = plot_report(dict.fromkeys(titles, figures))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    assert width == 1200
    box = figure.get_tightbbox(canvas.get_renderer())
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 * figure.dpi <= width and box.y1 * figure.dpi <= height


def test_the_picture_is_drawn_without_the_numbers_that_are_missing() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    flat = report(embedding(), torch.full((2, 3, 48, 48), 0.5))
    FigureCanvasAgg(plot_report({"flat": flat})).draw()


def test_a_picture_of_no_or_of_three_reports_is_refused(figures: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    for titles in ((), ("a", "b", "c")):
        with pytest.raises(ValueError, match="reports must be one or two"):
            plot_report(dict.fromkeys(titles, figures))
