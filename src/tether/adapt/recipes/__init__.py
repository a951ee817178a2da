"""The recipes of ``tether adapt``: each takes one kind of data and gives a head or a model."""

from __future__ import annotations

from collections.abc import Mapping

from tether.adapt.recipes.batches import Batches, TensorBatches
from tether.adapt.recipes.detail import Detail
from tether.adapt.recipes.given import EmbeddedRows, Given, Kind
from tether.adapt.recipes.lora import LoraRecipe
from tether.adapt.recipes.probe import LinearProbe
from tether.adapt.recipes.recipe import Case, FitRecipe, Recipe, TuneRecipe
from tether.adapt.recipes.tuning import Outcome, Played, Tuning, play
from tether.adapt.recipes.typo_proof import TypoProof

RECIPES: Mapping[str, type[Recipe]] = {
    "probe": LinearProbe,
    "lora": LoraRecipe,
    "typo-proof": TypoProof,
    "detail": Detail,
}
"""Every recipe by the name that ``--recipe`` takes."""

__all__ = [
    "RECIPES",
    "Batches",
    "Case",
    "Detail",
    "EmbeddedRows",
    "FitRecipe",
    "Given",
    "Kind",
    "LinearProbe",
    "LoraRecipe",
    "Outcome",
    "Played",
    "Recipe",
    "TensorBatches",
    "TuneRecipe",
    "Tuning",
    "TypoProof",
    "play",
]
