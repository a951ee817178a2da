"""New maps for a composed encoder from its own pairs, in closed form."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from tether.adaptation.finetune.map_fit import MapFit
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.recipe import Case, FitRecipe
from tether.adaptation.recipes.refusals import refused
from tether.adaptation.recipes.tuning import Outcome
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import NonNegative, Positive, checked
from tether.models.composed.cached import CachedEncoder
from tether.models.composed.encoder import ComposedEncoder


class MapsRecipe(FitRecipe):
    """Canonical correlation between the two resting towers' rows, see ``MapFit``: seconds, no steps."""

    takes = "pairs"
    gives = "model"
    rebuilds = True
    cost = 2.0
    least = 100

    @checked
    def __init__(
        self,
        *,
        image_ridge: Positive = 3.0,
        text_ridge: Positive = 1.0,
        keep: NonNegative | None = None,
        folds: Annotated[int, Ge(2)] = 5,
    ) -> None:
        """Take the settings of ``MapFit``.

        Args:
            image_ridge: of the images' covariance.
            text_ridge: of the texts'.
            keep: weight of the earlier maps; None finds it by cross-validation on the pairs that are learnt from.
            folds: of the cross-validation.
        """
        self._fit = MapFit(image_ridge=image_ridge, text_ridge=text_ridge, keep=keep, folds=folds)

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        return f"fits the maps between the two towers to {case.rows} pairs in seconds; towers rest"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        if not isinstance(model, ComposedEncoder):
            raise refused("not composed", found=type(model).__name__)

    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """See FitRecipe."""
        assert isinstance(model, ComposedEncoder)  # check has seen it
        rows = given.embed(CachedEncoder(model, maps=False), texts=True)
        if len(rows.image) < 4 * self._fit.folds:
            raise InputError(
                f"recipe maps: {len(rows.image)} images to learn from; expected at least {4 * self._fit.folds} (folds)"
            )
        found = self._fit.fit(model, rows.image, rows.text, owners=rows.owner)
        return Outcome(model=found.model.eval(), chosen={"keep": found.keep} if self._fit.keep is None else {})
