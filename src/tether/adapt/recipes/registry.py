"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.adapt.recipes.recipe import Recipe

RECIPES: Registry[Recipe] = Registry(
    "recipes",
    {
        "probe": "tether.adapt.recipes.probe:LinearProbe",
        "tip_adapter": "tether.adapt.recipes.tip_adapter:TipAdapterRecipe",
        "coop": "tether.adapt.recipes.coop:CoOp",
        "lora": "tether.adapt.recipes.lora:LoraRecipe",
        "norms": "tether.adapt.recipes.norms:NormTuning",
        "full": "tether.adapt.recipes.full:FullTuning",
        "maps": "tether.adapt.recipes.maps:MapsRecipe",
        "pairs": "tether.adapt.recipes.pairs:PairTuning",
        "long_text": "tether.adapt.recipes.long_text:LongTextRecipe",
        "order": "tether.adapt.recipes.order:OrderRecipe",
        "dense": "tether.adapt.recipes.dense:DenseRecipe",
        "mask_text": "tether.adapt.recipes.masks:MaskText",
        "mask_aware": "tether.adapt.recipes.masks:MaskAware",
    },
)
"""Every recipe by the name that ``--recipe`` takes."""
