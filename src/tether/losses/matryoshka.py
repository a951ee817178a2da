"""Matryoshka: one loss on several prefixes of the embeddings, so that the first numbers of a vector are one too."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import Drawing, Objective, Scheduled
from tether.core.ranges import Count, NonNegative, checked
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses.registry import OBJECTIVES

HALVINGS = 3
"""Of the width, where a configuration names no widths: the whole one, its half, quarter and eighth."""

Dims = Annotated[Sequence[Count], MinLen(1)]
Weights = Annotated[Sequence[NonNegative], MinLen(1)]
Reduce = Literal["sum", "mean"]


class PartialWidthWarning(UserWarning):
    """The widest prefix is not the whole embedding, whose last numbers then learn nothing."""


@checked
def truncate(rows: Float[Tensor, "*n d"], *, dim: Count) -> Float[Tensor, "*n k"]:
    """The first ``dim`` numbers of each row, scaled to length 1; in float32 or wider.

    It is the same whether the rows had length 1 before or not.

    Args:
        rows: embeddings.
        dim: how many numbers to keep, at most d.

    Example:
        >>> import torch
        >>> from tether.losses import truncate
        >>> truncate(torch.tensor([[3.0, 4.0, 12.0]]), dim=2)
        tensor([[0.6000, 0.8000]])
    """
    if dim > rows.shape[-1]:
        raise InputError(f"dim: expected at most the {rows.shape[-1]} numbers of an embedding, got {dim}")
    return F.normalize(rows[..., :dim].to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)


@dataclass(frozen=True, slots=True)
class MatryoshkaTerms:
    """What ``matryoshka_loss`` gives.

    Attributes:
        total: weighted sum or mean over the widths.
        each: the loss at each width, in the order of ``dims``, unweighted.
    """

    total: Float[Tensor, ""]
    each: Float[Tensor, " n"]


@checked
def matryoshka_loss(
    loss: Callable[..., Tensor],
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    *,
    dims: Dims,
    weights: Weights | None = None,
    reduce: Reduce = "sum",
    **others: Float[Tensor, "*n d"],
) -> MatryoshkaTerms:
    """``sum_k weights[k] * loss(prefix(img, k), prefix(txt, k))``, prefixes scaled to length 1.

    Source: arXiv 2205.13147, section 3; arXiv 2412.08802, section 3.

    Args:
        loss: takes both sides as rows of length 1 and gives a 0-d tensor, such as ``clip_loss`` with its scale.
        img: embeddings of any length, not normalised.
        txt: likewise.
        dims: widths, rising, the last at most d.
        weights: of each width; None is 1 for all.
        reduce: ``sum`` over the widths, or their ``mean``, which is the sum divided by how many there are.
        **others: further embeddings by the names ``loss`` has for them, such as hard negatives; cut alike.

    Raises:
        InputError: widths that do not rise or are above d, or not one weight for each.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from tether.losses import clip_loss, matryoshka_loss
        >>> image, text, wrong = torch.randn(3, 8, 16)
        >>> loss = partial(clip_loss, logit_scale=10.0)
        >>> found = matryoshka_loss(loss, image, text, dims=(4, 16), extra_txt=wrong)
        >>> found.each.shape, bool(torch.isclose(found.total, found.each.sum()))
        (torch.Size([2]), True)
    """
    shares = _shares(dims, weights)
    each = torch.stack(
        [
            loss(
                *(truncate(rows, dim=dim) for rows in (img, txt)),
                **{k: truncate(v, dim=dim) for k, v in others.items()},
            )
            for dim in dims
        ]
    )
    total = (each * each.new_tensor(shares)).sum()
    return MatryoshkaTerms(total / len(dims) if reduce == "mean" else total, each)


def _shares(dims: Sequence[int], weights: Sequence[float] | None) -> list[float]:
    """A weight for each width.

    Raises:
        InputError: widths that do not rise, or not one weight for each.
    """
    if any(left >= right for left, right in itertools.pairwise(dims)):
        raise InputError(f"dims: expected widths that rise, got {list(dims)}")
    if weights is not None and len(weights) != len(dims):
        raise InputError(f"weights: expected one for each of {len(dims)} widths, got {len(weights)}")
    return [1.0] * len(dims) if weights is None else [float(weight) for weight in weights]


@final
class MatryoshkaLoss:
    """Any objective on several prefixes of the embeddings, so that vectors may be cut short when they are stored.

    Images, texts and hard negatives are cut alike; the towers run once. ``tether search --dims 64`` compares the
    first 64 numbers of each vector. The sum over widths is about as many times larger as there are widths: take
    ``reduce: mean`` for the learning rate of a plain run. Maps that mix the numbers of an embedding, such as
    whitening, undo the nesting.

    Source: arXiv 2205.13147, section 3; arXiv 2412.08802, section 3, which has the widths 32, 64, 128, 256, 512, 768
    and 1024, all with weight 1.

    Example:
        >>> from tether.core.component import build
        >>> from tether.losses import OBJECTIVES
        >>> spec = {"name": "matryoshka", "of": {"name": "clip", "label_smoothing": 0.1}, "dims": [32, 64, 128]}
        >>> build(spec, OBJECTIVES, where="recipe").dims
        (32, 64, 128)
    """

    @checked
    def __init__(
        self,
        *,
        of: Objective | str | Mapping[str, Any] = "clip",
        dims: Dims | None = None,
        weights: Weights | None = None,
        reduce: Reduce = "sum",
        dims_per_step: Count | None = None,
    ) -> None:
        """Take the settings.

        Args:
            of: the objective, or its name or settings as in a recipe: ``{name: clip, label_smoothing: 0.1}``.
            dims: widths, rising; the last is best the whole one. None takes the whole one, its half, quarter and
                eighth.
            weights: of each of ``dims``; None is 1 for all.
            reduce: ``sum`` over the widths, or their ``mean``.
            dims_per_step: how many widths a step looks at: the widest, and others drawn anew each step. None is all.

        Raises:
            InputError: widths that do not rise, weights that are not theirs, or more widths a step than there are.
        """
        part = build(of, OBJECTIVES, where="matryoshka: of") if isinstance(of, (str, Mapping)) else of
        if isinstance(part, MatryoshkaLoss):
            raise InputError("matryoshka: of: expected another objective, got matryoshka itself")
        if dims is None and weights is not None:
            raise InputError("matryoshka: weights: expected dims beside them, got none")
        if dims is not None:
            _shares(dims, weights)
            if dims_per_step is not None and dims_per_step > len(dims):
                raise InputError(f"matryoshka: dims_per_step: expected at most {len(dims)}, got {dims_per_step}")
        self.of: Objective = part
        self.dims = None if dims is None else tuple(dims)
        self.weights = None if weights is None else tuple(weights)
        self.reduce: Reduce = reduce
        self.dims_per_step = dims_per_step
        self._draw = 0

    def at(self, share: float) -> MatryoshkaLoss:
        """See core.protocols.Scheduled: the objective inside may change over a run."""
        return self._with(self.of.at(share)) if isinstance(self.of, Scheduled) else self

    def drawn(self, draw: int) -> MatryoshkaLoss:
        """See core.protocols.Drawing: the widths of one step, and what the objective inside draws."""
        other = self._with(self.of.drawn(draw) if isinstance(self.of, Drawing) else self.of)
        other._draw = draw
        return other

    def _with(self, of: Objective) -> MatryoshkaLoss:
        other = copy.copy(self)
        other.of = of
        return other

    def widths(self, whole: int) -> dict[int, float]:
        """The widths of this draw and their weights, the widest first.

        Args:
            whole: numbers of an embedding.

        Raises:
            InputError: a width above it.
        """
        dims = sorted({whole >> k for k in range(HALVINGS + 1)} - {0}) if self.dims is None else self.dims
        if dims[-1] > whole:
            raise InputError(f"matryoshka: dims: expected at most the {whole} numbers of an embedding, got {dims[-1]}")
        if dims[-1] < whole:
            warnings.warn(
                f"matryoshka: the widest prefix has {dims[-1]} of {whole} numbers; the others learn nothing",
                PartialWidthWarning,
                stacklevel=3,
            )
        chosen = range(len(dims))
        if self.dims_per_step is not None and self.dims_per_step < len(dims):
            rng = np.random.default_rng([self._draw, 1])  # not the numbers that the objective inside draws
            others = rng.choice(len(dims) - 1, size=self.dims_per_step - 1, replace=False)
            chosen = [*sorted(others.tolist()), len(dims) - 1]
        shares = _shares(dims, self.weights)
        return {dims[place]: shares[place] for place in reversed(chosen)}

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The sum over widths; terms are those of the widest, and ``width_64`` and so on, unweighted.

        Raises:
            InputError: a width above that of the embeddings, or what the objective inside refuses.
        """
        widths = self.widths(out.image.pooled.shape[1])
        losses = {width: self.of(_cut(out, width), batch, gather=gather) for width in widths}
        total = torch.stack([share * losses[width].total for width, share in widths.items()]).sum()
        terms = dict(next(iter(losses.values())).terms)
        terms |= {f"width_{width}": loss.total.detach() for width, loss in losses.items()}
        return Loss(total / len(widths) if self.reduce == "mean" else total, terms)


def _cut(out: Encoded, width: int) -> Encoded:
    """The same batch with the first numbers of each embedding."""
    negatives = (None if side is None else _short(side, width) for side in (out.negative_image, out.negative_text))
    image, text = next(negatives), next(negatives)
    return replace(
        out, image=_short(out.image, width), text=_short(out.text, width), negative_image=image, negative_text=text
    )


def _short(features: Features, width: int) -> Features:
    tokens, whole = features.tokens, features.pooled.shape[1]
    if tokens is not None and tokens.shape[2] == whole:  # in the joint space, as far as an objective needs them
        tokens = tokens[:, :, :width]
    return replace(features, pooled=features.pooled[:, :width], tokens=tokens)
