"""The report of a run: one HTML file without any outside reference, made to be enjoyed and passed on."""

from __future__ import annotations

from tether.evaluate.report.page import write

__all__ = ["write"]
