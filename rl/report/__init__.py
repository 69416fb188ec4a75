"""The report of a run: one self-contained HTML file."""

from rl.report.build import build_report
from rl.report.data import ReportError

__all__ = ["ReportError", "build_report"]
