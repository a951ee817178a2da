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
        "gda": "tether.adapt.recipes.gda:GdaRecipe",
        "tip_adapter": "tether.adapt.recipes.tip_adapter:TipAdapterRecipe",
        "federated": "tether.adapt.recipes.federated:FederatedHead",
        "coop": "tether.adapt.recipes.coop:CoOp",
        "lora": "tether.adapt.recipes.lora:LoraRecipe",
        "svd": "tether.adapt.recipes.svd:SvdRecipe",
        "norms": "tether.adapt.recipes.norms:NormTuning",
        "full": "tether.adapt.recipes.full:FullTuning",
        "clipood": "tether.adapt.recipes.clipood:ClipoodRecipe",
        "maps": "tether.adapt.recipes.maps:MapsRecipe",
        "pairs": "tether.adapt.recipes.pairs:PairTuning",
        "close_the_gap": "tether.adapt.recipes.close_the_gap:CloseTheGap",
        "paraphrases": "tether.adapt.recipes.paraphrases:Paraphrases",
        "classifier": "tether.adapt.recipes.classifier:ClassifierRecipe",
        "image_search": "tether.adapt.recipes.image_search:ImageSearch",
        "region_teacher": "tether.adapt.recipes.region_teacher:RegionTeacher",
        "swap_text": "tether.adapt.recipes.swap_text:SwapText",
        "long_text": "tether.adapt.recipes.long_text:LongTextRecipe",
        "typo_proof": "tether.adapt.recipes.typo_proof:TypoProof",
        "detail": "tether.adapt.recipes.detail:DetailRecipe",
        "debias": "tether.adapt.recipes.debias:DebiasRecipe",
        "binding": "tether.adapt.recipes.binding:BindingRecipe",
        "order": "tether.adapt.recipes.order:OrderRecipe",
        "regions": "tether.adapt.recipes.regions:RegionsRecipe",
        "dense": "tether.adapt.recipes.dense:DenseRecipe",
        "local_global": "tether.adapt.recipes.local_global:LocalGlobal",
        "masked_crops": "tether.adapt.recipes.masked_crops:MaskedCropsRecipe",
        "grouping": "tether.adapt.recipes.grouping:GroupingRecipe",
        "sharpen": "tether.adapt.recipes.sharpen:SharpenRecipe",
        "mask_text": "tether.adapt.recipes.masks:MaskText",
        "mask_aware": "tether.adapt.recipes.masks:MaskAware",
        "relation": "tether.adapt.recipes.relation:RelationRecipe",
        "quality": "tether.adapt.recipes.quality:QualityRecipe",
        "anomaly_prompts": "tether.adapt.recipes.anomaly_prompts:AnomalyPromptsRecipe",
        "anomaly_adapters": "tether.adapt.recipes.anomaly_adapters:AnomalyAdaptersRecipe",
        "new_word": "tether.adapt.recipes.new_word:NewWordRecipe",
    },
)
"""Every recipe by the name that ``--recipe`` takes."""
