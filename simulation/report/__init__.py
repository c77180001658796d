"""The run's page: one self-contained ``report.html`` made from a :class:`simulation.record.RunRecord`."""

from simulation.report.page import render, write_report

__all__ = ["render", "write_report"]
