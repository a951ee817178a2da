"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.adaptation.finetune.map_fit import MapFit
    from tether.core.protocols import ModelEdit

ADAPTERS: Registry[ModelEdit] = Registry(
    "adapters",
    {
        "kept_positions": "tether.adaptation.finetune.kept_positions:KeptPositions",
        "lora": "tether.adaptation.finetune.lora:Lora",
        "masked_patches": "tether.adaptation.finetune.masked_patches:MaskedPatches",
    },
)
"""Every edit that trains a model further by the name a recipe uses."""

FITS: Registry[MapFit] = Registry("fits", {"maps": "tether.adaptation.finetune.map_fit:MapFit"})
"""What learns in closed form, without steps, by the name that a run's ``fit`` has."""
