"""The measures that a recipe names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.evaluate.adaptation.measures import Measure

MEASURES: Registry[Measure] = Registry(
    "measures",
    {
        "boxes": "tether.evaluate.adaptation.measures:BoxMeasure",
        "order": "tether.evaluate.adaptation.measures:OrderMeasure",
        "masks": "tether.evaluate.adaptation.measures:MaskMeasure",
        "defects": "tether.evaluate.adaptation.measures:DefectMeasure",
    },
)
"""What ``Recipe.aims`` may name."""
