"""The health report of a model on its pairs: one file for each section, and whoever adds one adds a line here."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import Probe
from tether.evaluate.inspect.about import About
from tether.evaluate.inspect.binding import Binding
from tether.evaluate.inspect.caption_robustness import Wording
from tether.evaluate.inspect.conformity import Common
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.dimensions import Dimensions
from tether.evaluate.inspect.duplicates import Duplicates
from tether.evaluate.inspect.heads import Heads
from tether.evaluate.inspect.likelihood import Likelihood
from tether.evaluate.inspect.modality_gap import Gap
from tether.evaluate.inspect.noisy_pairs import Mismatched
from tether.evaluate.inspect.order_bias import Order
from tether.evaluate.inspect.retrieval import Retrieval
from tether.evaluate.inspect.shortcuts import Shortcuts
from tether.evaluate.inspect.towers import Towers
from tether.evaluate.inspect.typographic import Lettering

PROBES: Mapping[str, type[Probe[Subject]]] = {
    "about": About,
    "towers": Towers,
    "retrieval": Retrieval,
    "mismatched": Mismatched,
    "gap": Gap,
    "dimensions": Dimensions,
    "likelihood": Likelihood,
    "common": Common,
    "order": Order,
    "binding": Binding,
    "lettering": Lettering,
    "wording": Wording,
    "shortcuts": Shortcuts,
    "heads": Heads,
    "duplicates": Duplicates,
}
"""Every section of the report by name, in the order in which they are read."""

__all__ = ["PROBES", "Subject"]
