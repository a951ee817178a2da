"""An objective over named views, as a term."""

from __future__ import annotations

from collections.abc import Sequence

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import Drawing, Objective, Scheduled
from tether.core.types import Batch, Encoded, Loss
from tether.training.terms.term import LABELS, Term, TermInputs

ROLES = ("image", "text", "negative_image", "negative_text", "extra")
"""Settings of the term; all others are the objective's."""


class ObjectiveTerm(Term):
    """A loss on two embeddings of the same rows, and on those of their hard negatives where they are named."""

    def __init__(
        self,
        objective: Objective,
        *,
        image: str = "image",
        text: str = "text",
        negative_image: str | None = None,
        negative_text: str | None = None,
        extra: dict[str, str] | None = None,
        steps: int,
        seed: int,
    ) -> None:
        """Args: the loss, and the views it is given.

        objective: the loss.
        image: view of the images.
        text: view of the texts; row i of both is one pair.
        negative_image: view of their hard negatives, or None.
        negative_text: likewise, for some objectives K rows for each pair, one pair's after another's.
        extra: views whose embeddings the objective finds in the batch's extra, by the names it has for them.
        steps: length of the run.
        seed: of objectives that draw.
        """
        roles = {"image": image, "text": text, "negative_image": negative_image, "negative_text": negative_text}
        self._roles = {role: view for role, view in roles.items() if view is not None}
        self._extra = dict(extra or {})
        self.views = self._roles | {f"extra.{name}": view for name, view in self._extra.items()}
        self.objective, self.seed, self._last = objective, seed, max(1, steps - 1)

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: views of different numbers of rows.
        """
        views = {role: seen.views[name] for role, name in self._roles.items() if name in seen.views}
        counts = {self._roles[role]: len(view.rows) for role, view in views.items()}
        pairs = len(views["image"].rows)
        several = {"negative_text"}  # may have several rows a pair, which the objective looks at
        if not pairs or any(len(view.rows) != pairs for role, view in views.items() if role not in several):
            raise InputError(f"expected as many rows in every view, at least one; got {counts}")
        if "negative_text" in views and len(views["negative_text"].rows) % pairs:
            raise InputError(f"expected equally many hard negatives for each of {pairs} pairs; got {counts}")
        rows = {role: view.rows for role, view in views.items()}
        image, text, *negatives = (views[role].features if role in views else None for role in ROLES[:4])
        assert image is not None  # both are always named
        assert text is not None
        out = Encoded(image, text, seen.logit_scale, seen.logit_bias, *negatives, geometry=seen.geometry)
        batch = Batch(rows.pop("image"), rows.pop("text"), self._extra_of(seen) | rows)
        try:
            return (self.objective_at(step)(out, batch, gather=gather),)
        except InputError as error:
            given = [(name, view, len(seen.views[view].rows)) for name, view in self._extra.items()]
            if other := [f"extra.{name} is the view {view} with {n}" for name, view, n in given if n != pairs]:
                raise InputError(f"{error}: {', '.join(other)} rows; the batch has {pairs} pairs") from error
            raise

    def _extra_of(self, seen: TermInputs) -> dict[str, object]:
        """The batch's extra without labels and hard negatives, but with those of the views."""
        hidden = {*LABELS.values(), "negative_image", "negative_text"}
        extra = {name: value for name, value in seen.batch.extra.items() if name not in hidden}
        for role, name in LABELS.items():
            view = seen.views.get(self._roles.get(role, ""))
            if view is not None and "labels" in view.about:
                extra[name] = view.about["labels"]
        return extra | {name: seen.views[view].features.pooled for name, view in self._extra.items()}

    def objective_at(self, step: int) -> Objective:
        """The loss of one step; most are the same throughout. Chance depends on (seed, step) alone."""
        objective = self.objective
        if isinstance(objective, Scheduled):
            objective = objective.at(step / self._last)
        if isinstance(objective, Drawing):
            objective = objective.drawn(hash_int(str(step), seed=self.seed, salt="objective"))
        return objective
