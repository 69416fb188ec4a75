"""The report of a run: one self-contained HTML file."""

from evals.report.run.build import build_report
from evals.report.run.data import ReportError

__all__ = ["ReportError", "build_report"]
