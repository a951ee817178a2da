"""The datasheet of a curated set: what went in, what was dropped and why, what is left; one page and its Markdown."""

from __future__ import annotations

from tether.evaluate.datasheet.write import write_datasheet

__all__ = ["write_datasheet"]
