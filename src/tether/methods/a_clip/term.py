"""Agreement of the views of an image, as terms: between two of them, and of each to what a trailing encoder sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Positive, checked
from tether.core.types import Loss
from tether.losses.self_supervised import nt_xent_loss, siamese_loss
from tether.training.terms.term import SeenView, Term, TermInputs


class SimclrTerm(Term):
    """``nt_xent_loss`` between two views of the same images, each through a head (A-CLIP, arXiv 2212.08653; SLIP)."""

    @checked
    def __init__(
        self, *, first: str = "image", second: str = "second_image", head: str = "simclr", temperature: Positive = 0.1
    ) -> None:
        """Take the views.

        Args:
            first: a view.
            second: another of the same rows.
            head: a ``projection``; both views go through it in one batch.
            temperature: that cosines are divided by.
        """
        self.views, self.heads = {"first": first, "second": second}, {"head": head}
        self._head, self.temperature = head, temperature

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: views of unequal length.
        """
        _check_equal(seen, self.views.values())
        rows = [_read(seen.views[name]) for name in self.views.values()]
        first, second = seen.heads[self._head](torch.cat(rows), gather=gather).chunk(2)
        return (Loss(nt_xent_loss(first, second, temperature=self.temperature, gather=gather)),)


class ByolTerm(Term):
    """``siamese_loss`` between what is predicted from each view and what the trailing teacher makes of the image.

    The teacher's embedding goes through the projector's own trailing average, which the step's ``teacher: {ema: ...}``
    moves along (BYOL, arXiv 2006.07733; A-CLIP, arXiv 2212.08653).
    """

    @checked
    def __init__(
        self,
        *,
        images: Annotated[Sequence[str], MinLen(1)] = ("image", "second_image"),
        target: str = "whole_image",
        projector: str = "projector",
        predictor: str = "predictor",
    ) -> None:
        """Take the views.

        Args:
            images: one or more views of the same rows.
            target: the teacher's view of them.
            projector: a ``projection``; all views go through it in one batch.
            predictor: a ``projection`` whose ``inputs`` are the projector's ``out``.
        """
        self._images, self._target, self._projector = list(images), target, projector
        self.views = {f"images {place}": name for place, name in enumerate(images)} | {"target": target}
        self.heads, self.trailed = {"projector": projector, "predictor": predictor}, [projector]

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: views of unequal length.
        """
        _check_equal(seen, self.views.values())
        projector, predictor = (seen.heads[name] for name in self.heads.values())
        rows = torch.cat([_read(seen.views[name]) for name in self._images])
        with torch.no_grad():
            target = seen.trailing[self._projector](_read(seen.views[self._target]), gather=gather)
        predicted = predictor(projector(rows, gather=gather), gather=gather)
        return (Loss(siamese_loss(predicted, target.repeat(len(self._images), 1))),)


def _read(view: SeenView) -> Tensor:
    """What a head reads: the embedding, or what it is projected from where the view has ``want: state``."""
    return view.features.pooled if view.features.tokens is None else view.features.tokens[:, 0]


def _check_equal(seen: TermInputs, names: Iterable[str]) -> None:
    """Refuse views of unequal length."""
    counts = {name: len(seen.views[name].rows) for name in names}
    if len(set(counts.values())) > 1:
        raise InputError(f"expected as many rows in every view, got {counts}")
