"""Why a recipe does not take a model: the one table of reasons."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.errors import UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.models.features.find import text_anatomy

REASONS: Mapping[str, str] = {
    "geometry": "it compares embeddings by cosine, and this model's geometry is {found}",
    "no blocks": "it changes linear layers in repeated blocks, and the model has none there: {found}",
    "no norms": "it moves the gains of norm layers, and the {found} side has none",
    "nothing moves": "none of the parameters of the {found} side can move",
    "not composed": "it fits the maps of a composed encoder, such as starter, and this is a {found}",
    "shared towers": "one side must rest, and the towers share parameters, among them {found}",
    "padding": "more positions must not change short texts, and this text tower reads the padding behind them: {found}",
    "text projection": "it folds a matrix into the text projection, and this model's cannot be changed alone: {found}",
    "hadamard": "it turns maps by a Hadamard matrix: {found}",
    "text tower": "it puts vectors among a text's tokens, and this text tower cannot be looked into: {found}",
}
"""Reasons by a short name; ``{found}`` is what was found in the model."""


def refused(reason: str, *, found: object = "") -> UnsupportedModelError:
    """An error with one of the reasons; the workflow puts the recipe's name before it."""
    return UnsupportedModelError(REASONS[reason].format(found=found))


def check_cosine_model(model: DualEncoder) -> None:
    """Refuse a model of another geometry."""
    if (name := geometry_of(model).name) != "clip":
        raise refused("geometry", found=name)


def check_text_tower(model: DualEncoder) -> None:
    """Refuse a model whose texts take no vectors among their tokens."""
    try:
        text_anatomy(model)
    except UnsupportedModelError as error:
        raise refused("text tower", found=error) from error
