"""What a backbone sees: what is measured on its distance, as plain numbers, a table and a figure."""

from tafm_loss.report.collected import least_report_size, measure, recommended_loss, report, spread
from tafm_loss.report.figure import FIGURE_FILE, REPORT_FILE, plot_report, write_reports
from tafm_loss.report.measures import (
    Distance,
    as_target,
    detection_threshold,
    gradient_at,
    gradient_peak,
    health,
    matching_error,
    measure_units,
    ordering_accuracy,
    recovery,
    response,
    selectivity,
)
from tafm_loss.report.table import least_selectivity, report_table, selectivity_gains

__all__ = [
    "FIGURE_FILE",
    "REPORT_FILE",
    "Distance",
    "as_target",
    "detection_threshold",
    "gradient_at",
    "gradient_peak",
    "health",
    "least_report_size",
    "least_selectivity",
    "matching_error",
    "measure",
    "measure_units",
    "ordering_accuracy",
    "plot_report",
    "recommended_loss",
    "recovery",
    "report",
    "report_table",
    "response",
    "selectivity",
    "selectivity_gains",
    "spread",
    "write_reports",
]
