"""The report's main numbers as a table, one column a report."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["HEALTH_RATIOS", "least_selectivity", "report_table", "selectivity_gains"]

HEALTH_RATIOS = {
    "mirrored": "over-sharpening / 3 px shake",
    "grey": "loss of colour / 3 px shake",
    "shift": "shift by 1 px / 3 px shake",
    "other": "another image / 24 px shake",
}
LEAST_EXTENT = 3.0


def report_table(reports: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of text.

    Args:
        reports: {title: what `tafm_loss.report.report` returns}.
    """
    columns = [_column(measures) for measures in reports.values()]
    rows = [[name, *(column[name] for column in columns)] for name in (columns[0] if columns else ())]
    return ["", *reports], rows


def selectivity_gains(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each distractor that says what tuning has gained; none without reports.

    Args:
        reports: {"before": measures, "after": measures}, as `finetune_backbone` returns them, or {}.
    """
    gains = []
    for distractor in reports["after"]["selectivity"] if reports else ():
        before, after = (least_selectivity(reports[when]["selectivity"][distractor]) for when in ("before", "after"))
        if before is not None and after is not None:
            gains.append(f"least selectivity of blur against {distractor}: {before:.2f} before, {after:.2f} after")
    return gains


def least_selectivity(kinds: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> float | None:
    """Return the least median of {kind: {extent: spread}} over the kinds and the extents from 3 px, or None."""
    return _least(
        spread["median"]
        for extents in kinds.values()
        for extent, spread in extents.items()
        if float(extent) >= LEAST_EXTENT
    )


def _column(measures: Mapping[str, Any]) -> dict[str, str]:
    ordered = _least(measures["ordering_accuracy"].values())
    before, after = (_text(measures[f"recovery_{when}_db"], 1) for when in ("before", "after"))
    return {
        **{
            f"selectivity, {distractor}, least from {LEAST_EXTENT:g} px": _text(least_selectivity(kinds))
            for distractor, kinds in measures["selectivity"].items()
        },
        **{ratio: _text(measures[name]["median"]) for name, ratio in HEALTH_RATIOS.items()},
        "neighbouring extents in order, worst kind, %": _text(None if ordered is None else 100 * ordered, 1),
        "smallest shake told from sharp, px": _text(measures["detection_threshold_px"]),
        "recovery from a 6 px shake, dB": f"{before} → {after}",
        "Nyquist peak of the gradient": _text(measures["gradient_peak"], 1),
    }


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _text(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
