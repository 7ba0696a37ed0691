"""What a backbone sees: measures of its distance, as figures, a table and a picture."""

from tafm_loss.report.figures import measure, measure_units, report

__all__ = ["measure", "measure_units", "report"]
