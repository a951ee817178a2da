"""Which recipes fit what is there, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tether.adaptation.recipes import RECIPES, Case, Recipe
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
        InputError: none does; it names those that take the data by name, and what the cheapest others need.
    """
    found, refused = fitting(case, model)
    if not found:
        raise _none_error(case, refused=refused)
    return found[:NAMED]


def fitting(case: Case, model: DualEncoder) -> tuple[list[Choice], dict[str, UnsupportedModelError]]:
    """All recipes that suit the data and take the model, cheapest first, and why others do not take it."""
    found: list[Choice] = []
    refused: dict[str, UnsupportedModelError] = {}
    for name, kind in _by_cost():
        if kind.takes not in case.kinds or kind.least is None or case.amount(kind.takes) < kind.least:
            continue
        if not (why := kind.suits(case)):
            continue
        made = kind()
        try:
            made.check(model)
        except UnsupportedModelError as error:
            refused[name] = error
            continue
        found.append(Choice(name, why, made))
    return found, refused


def _by_cost() -> list[tuple[str, type[Recipe]]]:
    return sorted(RECIPES.working().items(), key=lambda item: item[1].cost)


def _none_error(case: Case, *, refused: Mapping[str, Exception]) -> InputError:
    """No recipe is proposed: those that take the data when they are named, and what the cheapest others need."""
    few = f"; no classes, as there is {case.unlabelled}" if case.unlabelled else ""
    if "labels" in case.kinds:
        few = f"; the smallest class, {case.smallest!r}, has {case.least} images to learn from"
    said = [f"no recipe suits {case.rows} rows, read as {', '.join(sorted(case.kinds)) or 'nothing'}{few}"]
    said += [f"{name}: {error}" for name, error in refused.items()]
    if unasked := [name for name, kind in _by_cost() if kind.takes in case.kinds and kind.least is None]:
        said.append(f"taken when --recipe names them: {', '.join(unasked)}")
    near = {"labels", "pairs"} if case.kinds == {"images"} else case.kinds
    for kind, what in KINDS.items():
        each = " a class" if kind == "labels" else ""
        needs = [
            f"{name} from {one.least:,}{each}"
            for name, one in _by_cost()
            if one.takes == kind and one.least is not None and name not in refused
        ]
        if kind in near and needs:
            said.append(f"proposed for {what}: {', '.join(needs[:NAMED])}")
    return InputError("; ".join(said))


def kind_error(name: str, recipe: Recipe, case: Case, *, source: str) -> InputError:
    """A recipe that takes other data, with those that take these."""
    fit = [other for other, kind in RECIPES.working().items() if kind.takes in case.kinds]
    is_now = " and ".join(KINDS[kind] for kind in sorted(case.kinds)) or "nothing that a recipe takes"
    there = f"; recipes for these: {', '.join(fit)}" if fit else ""
    if recipe.takes == "labels" and case.unlabelled:
        there = f"; there is {case.unlabelled}; --label COLUMN names a column of classes{there}"
    return InputError(f"--recipe {name}: takes {KINDS[recipe.takes]}; {source} has {is_now}{there}")
