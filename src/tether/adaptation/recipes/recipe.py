"""What every recipe of ``tether adapt`` is."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from tether.adaptation.recipes.given import Given, Kind
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.protocols import DualEncoder

Gives = Literal["head", "model", "both"]


@dataclass(frozen=True, slots=True)
class Case:
    """What was seen of data and model before a recipe is chosen.

    Attributes:
        kinds: of data that the source can be read as.
        rows: in all.
        classes: how many; 0 without labels.
        least: images of the smallest class, or the shots that were asked for if these are fewer.
        smallest: name of the smallest class.
        unlabelled: why the images are not taken to have a class each; empty where they are.
    """

    kinds: frozenset[Kind]
    rows: int
    classes: int = 0
    least: int = 0
    smallest: str = ""
    unlabelled: str = ""

    def amount(self, kind: Kind) -> int:
        """How much there is of a kind of data: images of the smallest class, or rows where classes do not count."""
        return self.least if kind == "labels" else self.rows


class Recipe(abc.ABC):
    """One way to bend a model to a case; its constructor is its only schema, ranges stand in the signature.

    A recipe never measures itself, never saves and never resumes: the workflow does. It is one of the two classes
    below.

    Attributes:
        takes: the kind of data.
        gives: what comes of it.
        validates: whether it chooses settings on a part of the data kept for that.
        aims: measures of ``evaluate.adaptation.MEASURES`` that it wants to change beside those of its kind of data.
        columns: of the data, by what such a measure calls them.
        rebuilds: whether the model that it gives is of another architecture: then nothing of the base is told to rest,
            and there are no weights between the two.
        used_by: the verb that takes its head.
        used_as: what that verb is told, with ``{folder}`` for the head's; empty is ``--head`` and a table to write.
        simpler: a way outside the recipes to try first where nothing was shown; empty takes other recipes.
        cost: rough price against a linear probe, to choose by.
        least: amount of data, see ``Case.amount``, from which on it may be proposed; None where it never is.
        goes_on: setting that is the folder of what goes on, or None.
        learnt_by: dotted name of the workflow that learns what is neither a head nor a model; None for a ``Recipe``.
    """

    takes: ClassVar[Kind]
    gives: ClassVar[Gives]
    aims: ClassVar[tuple[str, ...]] = ()
    rebuilds: ClassVar[bool] = False
    used_by: ClassVar[str] = "classify"
    used_as: ClassVar[str] = ""
    simpler: ClassVar[str] = ""
    cost: ClassVar[float]
    least: ClassVar[int | None] = None
    goes_on: ClassVar[str | None] = None
    learnt_by: ClassVar[str | None] = None
    validates: bool = False
    columns: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def suits(cls, case: Case) -> str:
        """Why it fits what was seen, in one line; empty where it is not to be proposed.

        It is asked for data of its kind, of which there are ``least`` or more.
        """
        del case
        return ""

    def check(self, model: DualEncoder) -> None:
        """Refuse a model with a reason of ``adaptation.recipes.refusals``; it is asked before data are read."""
        del model

    def remarks(self, model: DualEncoder) -> list[str]:
        """What the report shall say of the settings with this model, in sentences."""
        del model
        return []


class FitRecipe(Recipe):
    """In closed form, from embeddings: nothing of it needs to be resumed, as rows lie in the feature cache."""

    @abc.abstractmethod
    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """Make a head or a model.

        Args:
            model: the base; it must stay as it is, so a model that is given is a copy or is around it.
            given: data of the kind it takes.
        """


class TuneRecipe(Recipe):
    """By gradient: it describes what moves and how, and the workflow plays it, so every one of them resumes."""

    @abc.abstractmethod
    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """Prepare a copy of the base and say how it is trained; after an interrupt it is asked again.

        Everything it draws must come from ``given.seed``.

        Args:
            model: a copy of the base to set ``requires_grad`` of and to edit in place.
            given: data of the kind it takes.
        """
