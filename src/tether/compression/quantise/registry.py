"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import ModelEdit

QUANTISERS: Registry[ModelEdit] = Registry(
    "quantisers",
    {
        "octav": "tether.compression.quantise.few_bits:Octav",
    },
)
"""Every quantiser by the name a recipe uses."""
