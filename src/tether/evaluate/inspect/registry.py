"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import Probe
    from tether.evaluate.inspect.context import Subject

PROBES: Registry[Probe[Subject]] = Registry(
    "probes",
    {
        "about": "tether.evaluate.inspect.about:About",
        "towers": "tether.evaluate.inspect.towers:Towers",
        "retrieval": "tether.evaluate.inspect.retrieval:Retrieval",
        "mismatched": "tether.evaluate.inspect.noisy_pairs:Mismatched",
        "gap": "tether.evaluate.inspect.modality_gap:Gap",
        "dimensions": "tether.evaluate.inspect.dimensions:Dimensions",
        "likelihood": "tether.evaluate.inspect.likelihood:Likelihood",
        "common": "tether.evaluate.inspect.conformity:Common",
        "order": "tether.evaluate.inspect.order_bias:Order",
        "binding": "tether.evaluate.inspect.binding:Binding",
        "lettering": "tether.evaluate.inspect.typographic:Lettering",
        "wording": "tether.evaluate.inspect.caption_robustness:Wording",
        "shortcuts": "tether.evaluate.inspect.shortcuts:Shortcuts",
        "heads": "tether.evaluate.inspect.heads:Heads",
        "duplicates": "tether.evaluate.inspect.duplicates:Duplicates",
    },
)
"""Every section of the report by name, in the order in which they are read."""
