"""A head on embeddings that does not look at an attribute: FairerCLIP as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.recipes.given import EmbeddedRows, Given
from tether.adaptation.recipes.recipe import FitRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Outcome
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, NonNegative, Positive, checked
from tether.data.labelled import LABEL, label_of
from tether.methods.fairerclip.debiaser import FairerClip
from tether.methods.fairerclip.head import KernelHead
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_texts


class DebiasRecipe(FitRecipe):
    """Codes of images and class texts that tell classes and ignore an attribute, in closed form; see ``FairerClip``.

    The attribute is a column of the data, or a guess by the model itself, as in the paper: the nearest of the texts in
    ``groups``. With a column the report has the accuracy of the worst group of class and attribute on held-out rows
    beside the plain one, which may fall; a guess is not measured by, so a test set with the column is worth bringing.
    Every image needs its class: ``FairerClip.fit_unlabelled``, which needs none, is there from Python alone.

    Embeddings are scaled to length 1. The attribute must be visible in them, and the class without it. Logistic
    regression with the groups weighted equally was not shown to be worse, see the paper's page.

    Source: arXiv 2403.15593. Defaults are the released ones for Waterbirds, with fewer random features.
    """

    takes = "labels"
    gives = "head"
    aims = ("worst_group",)
    cost = 6.0

    @checked
    def __init__(
        self,
        *,
        attribute: str | None = None,
        groups: Annotated[Sequence[str], MinLen(2)] | None = None,
        n_features: Count = 1000,
        n_code_features: Count = 1000,
        dim: Count | None = None,
        tau_image: tuple[Decay, Decay] = (0.7, 0.7),
        tau_text: tuple[Decay, Decay] = (0.1, 0.1),
        gamma: tuple[NonNegative, NonNegative] = (3e-4, 2e-4),
        n_iter: Count = 1,
        sigma: Positive | Literal["median"] = "median",
        centre: Literal["none", "images"] = "none",
        max_samples: Count | None = None,
    ) -> None:
        """Take the settings; exactly one of ``attribute`` and ``groups``, the others are ``FairerClip``'s.

        Args:
            attribute: column of the data whose value shall not matter.
            groups: texts, such as "a photo on water", the nearest of which stands in for the attribute.
            n_features: random features of embeddings; memory is their square.
            n_code_features: random features of codes.
            dim: numbers of a code; None takes one less than there are classes.
            tau_image: weights of the attribute and of agreement, image side; a larger first number takes out more.
            tau_text: the same for the text side.
            gamma: ridges, images first; larger for few rows.
            n_iter: rounds.
            sigma: width of the kernels, or the median of the distances.
            centre: ``images`` takes the mean code of the training images off, which is not the paper's rule: without,
                few random features (1000 in a trial, not 3000) can favour one class by chance.
            max_samples: fit on so many rows, drawn by the seed.
        """
        if (attribute is None) == (groups is None):
            raise InputError("recipe debias: expected one of attribute (a column) and groups (texts), and not both")
        if groups is not None and len(set(groups)) < len(groups):
            raise InputError(f"recipe debias: groups: expected different texts, got {list(groups)!r:.200}")
        if attribute == LABEL:
            raise InputError(f"recipe debias: attribute: {LABEL!r} is the class; expected another column")
        self.column, self.groups, self.columns = attribute, groups, {"value": attribute}
        self._fair = FairerClip(
            n_features=n_features,
            n_code_features=n_code_features,
            dim=dim,
            tau_image=tau_image,
            tau_text=tau_text,
            gamma=gamma,
            n_iter=n_iter,
            sigma=sigma,
            centre=centre,
            max_samples=max_samples,
        )

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)

    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """See FitRecipe."""
        rows = given.embed(model)
        unit = F.normalize(rows.image, dim=1)
        values = self._guessed(model, unit) if self.column is None else self._read(rows, column=self.column)
        if len(set(values)) < 2:
            how = f"column {self.column!r} has" if self.groups is None else "the nearest text of groups is"
            raise InputError(f"recipe debias: {how} {values[0]!r} for all {len(values)} images to learn from")
        fair = self._fair.set_params(random_state=hash_int("debias", seed=given.seed) % 2**32)
        fair.fit(
            _wide(unit), rows.labels.numpy(), s=values, text_features=_wide(F.normalize(given.class_text.cpu(), dim=1))
        )
        if not (fair.image_map_.any() and fair.text_map_.any()):
            raise InputError("recipe debias: nothing tells the classes without the attribute; give a smaller tau_image")
        scale = float(model.logit_scale.detach())
        return Outcome(head=KernelHead.of(fair, classes=given.classes, scale=scale))

    def _guessed(self, model: DualEncoder, unit: Float[Tensor, "n d"]) -> list[str]:
        """The nearest text of each image."""
        assert self.groups is not None
        texts = F.normalize(encode_texts(CachedEncoder(model), self.groups), dim=1)
        return [self.groups[number] for number in (unit @ texts.T).argmax(dim=1).tolist()]

    @staticmethod
    def _read(rows: EmbeddedRows, *, column: str) -> list[str]:
        """The column's value of each image."""
        values = [label_of(row, column) for row in rows.rows]
        without = [row for row, value in zip(rows.rows, values, strict=True) if value is None]
        if without:
            known = ", ".join(sorted(str(name) for name in without[0].meta if name != LABEL)) or "none"
            raise InputError(
                f"recipe debias: attribute: {len(without)} of {len(values)} images to learn from have nothing in "
                f"column {column!r}, the first is {without[0].key!r}; its other columns: {known}"
            )
        found = [value for value in values if value is not None]
        if len(set(zip(found, rows.labels.tolist(), strict=True))) == len(set(found)) == len(rows.labels.unique()):
            raise InputError(f"recipe debias: attribute: each value of column {column!r} has one class of its own")
        return found


def _wide(rows: Tensor) -> np.ndarray:
    return rows.double().numpy()
