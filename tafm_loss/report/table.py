"""The report's main figures as a table, one column a report."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["HEALTH_RATIOS", "least_selectivity", "report_table", "selectivity_gains"]

HEALTH_RATIOS = {
    "mirrored": "over-sharpening / 3 px shake",
    "grey": "loss of colour / 3 px shake",
    "shift": "shift by 1 px / 3 px shake",
    "other": "another image / 24 px shake",
}
NOTHING = "-"
LEAST_EXTENT = 3.0


def report_table(reports: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of text.

    Args:
        reports: {title: figures of `tafm_loss.report.figures.report`}.
    """
    columns = [_column(figures) for figures in reports.values()]
    rows = [[name, *(column[name] for column in columns)] for name in (columns[0] if columns else ())]
    return ["", *reports], rows


def selectivity_gains(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each distractor that says what tuning has gained; none without reports.

    Args:
        reports: {"before": figures, "after": figures}, as `finetune_backbone` returns them, or {}.
    """
    gains = []
    for distractor in reports["after"]["selectivity"] if reports else ():
        before, after = (least_selectivity(reports[when]["selectivity"][distractor]) for when in ("before", "after"))
        if before is not None and after is not None:
            gains.append(f"least selectivity of blur against {distractor}: {before:.2f} before, {after:.2f} after")
    return gains


def _column(figures: Mapping[str, Any]) -> dict[str, str]:
    probe = figures["extent_probe"] or {"r2": {}, "rank_correlation": {}}
    kinds = ", ".join(figures["ordering_accuracy"])
    return {
        **{
            f"selectivity, {distractor}, least from {LEAST_EXTENT:g} px": _text(least_selectivity(kinds_of_blur))
            for distractor, kinds_of_blur in figures["selectivity"].items()
        },
        **{ratio: _text(figures[name]["median"]) for name, ratio in HEALTH_RATIOS.items()},
        "neighbouring extents in order, worst kind, %": _text(
            _percent(_least(figures["ordering_accuracy"].values())), 1
        ),
        "smallest shake told from sharp, px": _text(figures["detection_threshold_px"]),
        f"R² of the extent: {kinds}": _texts(probe["r2"].values()),
        "rank correlation, kind not trained on": _texts(probe["rank_correlation"].values()),
        "agreement with the untuned backbone": _text((figures["agreement"] or {}).get("median")),
        "recovery from a 6 px shake, dB": (
            f"{_text(figures['recovery_before_db'], 1)} → {_text(figures['recovery_after_db'], 1)}"
        ),
        "Nyquist peak of the gradient": _text(figures["gradient_peak"], 1),
    }


def least_selectivity(kinds: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> float | None:
    """Return the least median of {kind: {extent: spread}} over the kinds and the extents from 3 px, or None."""
    return _least(
        spread["median"]
        for extents in kinds.values()
        for extent, spread in extents.items()
        if float(extent) >= LEAST_EXTENT
    )


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _texts(values: Iterable[float | None]) -> str:
    return ", ".join(map(_text, values)) or NOTHING


def _text(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
