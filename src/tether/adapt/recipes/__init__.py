"""The recipes of ``tether adapt``: each takes one kind of data and gives a head or a model."""

from __future__ import annotations

from collections.abc import Mapping

from tether.adapt.recipes.anomaly_adapters import AnomalyAdaptersRecipe
from tether.adapt.recipes.anomaly_prompts import AnomalyPromptsRecipe
from tether.adapt.recipes.binding import BindingRecipe
from tether.adapt.recipes.classifier import ClassifierRecipe
from tether.adapt.recipes.clipood import ClipoodRecipe
from tether.adapt.recipes.close_the_gap import CloseTheGap
from tether.adapt.recipes.coop import CoOp
from tether.adapt.recipes.debias import DebiasRecipe
from tether.adapt.recipes.dense import DenseRecipe
from tether.adapt.recipes.detail import DetailRecipe
from tether.adapt.recipes.federated import FederatedHead
from tether.adapt.recipes.full import FullTuning
from tether.adapt.recipes.gda import GdaRecipe
from tether.adapt.recipes.given import EmbeddedRows, Given, Kind
from tether.adapt.recipes.grouping import GroupingRecipe
from tether.adapt.recipes.image_search import ImageSearch
from tether.adapt.recipes.local_global import LocalGlobal
from tether.adapt.recipes.long_text import LongTextRecipe
from tether.adapt.recipes.lora import LoraRecipe
from tether.adapt.recipes.maps import MapsRecipe
from tether.adapt.recipes.masked_crops import MaskedCropsRecipe, MaskedCropStep
from tether.adapt.recipes.masks import MaskAware, MaskText
from tether.adapt.recipes.new_word import NewWordRecipe
from tether.adapt.recipes.norms import NormTuning
from tether.adapt.recipes.order import OrderRecipe, OrderRows
from tether.adapt.recipes.pairs import PairTuning
from tether.adapt.recipes.paraphrases import Paraphrases
from tether.adapt.recipes.probe import LinearProbe
from tether.adapt.recipes.quality import QualityRecipe
from tether.adapt.recipes.recipe import Case, FitRecipe, Recipe, TuneRecipe
from tether.adapt.recipes.region_teacher import RegionTeacher
from tether.adapt.recipes.regions import RegionsRecipe
from tether.adapt.recipes.relation import RelationRecipe
from tether.adapt.recipes.sharpen import SharpenRecipe
from tether.adapt.recipes.svd import SvdRecipe
from tether.adapt.recipes.swap_text import SwapText
from tether.adapt.recipes.tip_adapter import TipAdapterRecipe
from tether.adapt.recipes.tuning import Outcome, Played, Tuning, play
from tether.adapt.recipes.typo_proof import TypoProof
from tether.train.tensor_batches import Batches, ReplayedBatches, TensorBatches

RECIPES: Mapping[str, type[Recipe]] = {
    "probe": LinearProbe,
    "gda": GdaRecipe,
    "tip_adapter": TipAdapterRecipe,
    "federated": FederatedHead,
    "coop": CoOp,
    "lora": LoraRecipe,
    "svd": SvdRecipe,
    "norms": NormTuning,
    "full": FullTuning,
    "clipood": ClipoodRecipe,
    "maps": MapsRecipe,
    "pairs": PairTuning,
    "close_the_gap": CloseTheGap,
    "paraphrases": Paraphrases,
    "classifier": ClassifierRecipe,
    "image_search": ImageSearch,
    "region_teacher": RegionTeacher,
    "swap_text": SwapText,
    "long_text": LongTextRecipe,
    "typo_proof": TypoProof,
    "detail": DetailRecipe,
    "debias": DebiasRecipe,
    "binding": BindingRecipe,
    "order": OrderRecipe,
    "regions": RegionsRecipe,
    "dense": DenseRecipe,
    "local_global": LocalGlobal,
    "masked_crops": MaskedCropsRecipe,
    "grouping": GroupingRecipe,
    "sharpen": SharpenRecipe,
    "mask_text": MaskText,
    "mask_aware": MaskAware,
    "relation": RelationRecipe,
    "quality": QualityRecipe,
    "anomaly_prompts": AnomalyPromptsRecipe,
    "anomaly_adapters": AnomalyAdaptersRecipe,
    "new_word": NewWordRecipe,
}
"""Every recipe by the name that ``--recipe`` takes."""

__all__ = [
    "RECIPES",
    "AnomalyAdaptersRecipe",
    "AnomalyPromptsRecipe",
    "Batches",
    "BindingRecipe",
    "Case",
    "ClassifierRecipe",
    "ClipoodRecipe",
    "CloseTheGap",
    "CoOp",
    "DebiasRecipe",
    "DenseRecipe",
    "DetailRecipe",
    "EmbeddedRows",
    "FederatedHead",
    "FitRecipe",
    "FullTuning",
    "GdaRecipe",
    "Given",
    "GroupingRecipe",
    "ImageSearch",
    "Kind",
    "LinearProbe",
    "LocalGlobal",
    "LongTextRecipe",
    "LoraRecipe",
    "MapsRecipe",
    "MaskAware",
    "MaskText",
    "MaskedCropStep",
    "MaskedCropsRecipe",
    "NewWordRecipe",
    "NormTuning",
    "OrderRecipe",
    "OrderRows",
    "Outcome",
    "PairTuning",
    "Paraphrases",
    "Played",
    "QualityRecipe",
    "Recipe",
    "RegionTeacher",
    "RegionsRecipe",
    "RelationRecipe",
    "ReplayedBatches",
    "SharpenRecipe",
    "SvdRecipe",
    "SwapText",
    "TensorBatches",
    "TipAdapterRecipe",
    "TuneRecipe",
    "Tuning",
    "TypoProof",
    "play",
]
