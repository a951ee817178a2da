"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.adaptation.recipes.recipe import Recipe

RECIPES: Registry[Recipe] = Registry(
    "recipes",
    {
        "probe": "tether.adaptation.recipes.probe:LinearProbe",
        "tip_adapter": "tether.adaptation.recipes.tip_adapter:TipAdapterRecipe",
        "coop": "tether.adaptation.recipes.coop:CoOp",
        "lora": "tether.adaptation.recipes.lora:LoraRecipe",
        "norms": "tether.adaptation.recipes.norms:NormTuning",
        "full": "tether.adaptation.recipes.full:FullTuning",
        "maps": "tether.adaptation.recipes.maps:MapsRecipe",
        "pairs": "tether.adaptation.recipes.pairs:PairTuning",
        "long_text": "tether.adaptation.recipes.long_text:LongTextRecipe",
        "order": "tether.adaptation.recipes.order:OrderRecipe",
        "dense": "tether.adaptation.recipes.dense:DenseRecipe",
        "mask_text": "tether.adaptation.recipes.masks:MaskText",
        "mask_aware": "tether.adaptation.recipes.masks:MaskAware",
    },
)
"""Every recipe by the name that ``--recipe`` takes."""
