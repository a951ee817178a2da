"""Which recipes fit what is there, and why."""

from __future__ import annotations

from dataclasses import dataclass

from tether.adapt.recipes import RECIPES, Case, Recipe
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.workflows.adaptation.data import KINDS

NAMED = 3
"""Recipes that are proposed, at most."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe that fits.

    Attributes:
        recipe: its name.
        why: in one line.
        made: with its default settings.
    """

    recipe: str
    why: str
    made: Recipe

    def __str__(self) -> str:
        """Name and reason."""
        return f"{self.recipe}: {self.why}"


def choices(case: Case, model: DualEncoder) -> list[Choice]:
    """The recipes that suit the data and take the model, cheapest first, at most ``NAMED``.

    Raises:
        InputError: none does.
    """
    found = []
    for name, kind in sorted(RECIPES.items(), key=lambda item: item[1].cost):
        why = kind.suits(case) if kind.takes in case.kinds else ""
        if not why:
            continue
        made = kind()
        try:
            made.check(model)
        except UnsupportedModelError:
            continue
        found.append(Choice(name, why, made))
    if not found:
        few = f"; no classes, as there is {case.unlabelled}" if case.unlabelled else ""
        if "labels" in case.kinds:
            few = f"; the smallest class, {case.smallest!r}, has {case.least} images to learn from"
        raise InputError(
            f"no recipe suits {case.rows} rows, read as {', '.join(sorted(case.kinds)) or 'nothing'}{few}; --recipe "
            f"takes one of {', '.join(RECIPES)}"
        )
    return found[:NAMED]


def kind_error(name: str, recipe: Recipe, case: Case, *, source: str) -> InputError:
    """A recipe that takes other data, with those that take these."""
    fit = [other for other, kind in RECIPES.items() if kind.takes in case.kinds]
    is_now = " and ".join(KINDS[kind] for kind in sorted(case.kinds)) or "nothing that a recipe takes"
    there = f"; recipes for these: {', '.join(fit)}" if fit else ""
    if recipe.takes == "labels" and case.unlabelled:
        there = f"; there is {case.unlabelled}; --label COLUMN names a column of classes{there}"
    return InputError(f"--recipe {name}: takes {KINDS[recipe.takes]}; {source} has {is_now}{there}")
