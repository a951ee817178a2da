"""InfoNCE of queries and what answers them, with a temperature of its own and any number of hard negatives a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Positive, checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, check_unit_lengths, check_unit_pairs, unit_rows
from tether.losses.clip import batch_labels
from tether.losses.hard_negatives import Duplicates, EqualNegatives, hard_info_nce, pair_labels
from tether.losses.infonce import info_nce_pairs

Symmetric = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class InfoNceTerms:
    """What ``info_nce_loss`` gives; all 0-d and with gradient.

    Attributes:
        total: sum or mean of the two others.
        forward: queries look for their positives among all positives and all hard negatives.
        backward: positives look for their queries.
    """

    total: Float[Tensor, ""]
    forward: Float[Tensor, ""]
    backward: Float[Tensor, ""]


@checked
def info_nce_loss(
    query: Float[Tensor, "b d"],
    positive: Float[Tensor, "b d"],
    *,
    tau: Positive | Float[Tensor, ""],
    symmetric: Symmetric = "sum",
    negatives: Float[Tensor, "b k d"] | Float[Tensor, "m d"] | None = None,
    labels: Int[Tensor, " b"] | None = None,
    negative_labels: Int[Tensor, " m"] | None = None,
    duplicates: Duplicates = "negatives",
    gather: Gather | None = None,
) -> InfoNceTerms:
    """InfoNCE both ways; hard negatives are candidates of every query of the batch, and of no positive.

    Without negatives and with ``symmetric="mean"`` it is CLIP's loss; with one negative a query and the mean,
    NegCLIP's. With ``gather`` positives and negatives of all processes are candidates.

    Source: arXiv 2405.20204, section 3 (there called L_nce and L_nce+).

    Args:
        query: rows of length 1; row i and ``positive[i]`` are one pair.
        positive: rows of length 1.
        tau: what cosines are divided by, above 0.
        symmetric: ``sum`` of the two directions, or their ``mean``.
        negatives: rows of length 1: k for each query, or m of all; none is the same as None.
        labels: equal for pairs that mean the same; needed unless duplicates are negatives.
        negative_labels: of the negatives, query by query, among the same labels.
        duplicates: what candidates of a query's own label are; see ``hard_info_nce``.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: fewer than two pairs, from which nothing can be told, rows of another width or length, or a
            temperature of 0 or less.

    Example:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from tether.methods.jina_clip import info_nce_loss
        >>> query, positive = normalize(torch.randn(2, 4, 8), dim=2)
        >>> wrong = normalize(torch.randn(4, 3, 8), dim=2)
        >>> plain, hard = (info_nce_loss(query, positive, tau=0.05, negatives=some) for some in (None, wrong))
        >>> bool(hard.forward > plain.forward), bool(torch.isclose(hard.backward, plain.backward))
        (True, True)
    """
    if isinstance(tau, Tensor) and not bool(tau > 0):
        raise InputError(f"tau: expected a number above 0, got {float(tau):g}")
    rows = None if negatives is None else negatives.reshape(-1, negatives.shape[-1])
    scale = 1 / tau
    return _terms(
        query,
        positive,
        rows,
        scale,
        symmetric=symmetric,
        labels=(labels, negative_labels),
        duplicates=duplicates,
        gather=gather or LOCAL,
    )


def _terms(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None,
    scale: Tensor | float,
    *,
    symmetric: Symmetric,
    labels: tuple[Tensor | None, Tensor | None],
    duplicates: Duplicates,
    gather: Gather,
) -> InfoNceTerms:
    check_unit_pairs(query, positive)
    if len(query) * gather.world < 2:
        raise InputError("expected at least two pairs, got one: there is nothing to tell it from")
    if negatives is not None and not len(negatives):
        negatives = None
    if negatives is not None:
        if negatives.ndim != 2 or negatives.shape[1] != query.shape[1]:
            raise InputError(f"negatives: expected rows of {query.shape[1]} numbers, got {tuple(negatives.shape)}")
        check_unit_lengths(negatives, name="negatives")
    if gather.world == 1 and duplicates == "negatives":
        left, right = info_nce_pairs(query, positive, scale=scale, extra_right=negatives)
    else:
        own, others = labels
        keys, key_labels = gather(positive), None if own is None else gather(own)
        all_keys, all_labels = keys, key_labels
        if negatives is not None:
            all_keys = torch.cat([keys, gather(negatives)])
            both = key_labels is not None and others is not None
            all_labels = torch.cat([key_labels, gather(others)]) if both else None  # pyrefly: ignore - both are there
        about = {"scale": scale, "offset": gather.rank * len(query), "query_labels": own, "duplicates": duplicates}
        left = hard_info_nce(query, all_keys, key_labels=all_labels, **about)
        right = hard_info_nce(positive, gather(query), key_labels=key_labels, **about)
    forward, backward = left.mean(), right.mean()
    total = forward + backward
    return InfoNceTerms(total / 2 if symmetric == "mean" else total, forward, backward)


@final
class InfoNceLoss:
    """InfoNCE of any two views, with a fixed or the model's temperature and K hard negatives for every query.

    In jina-clip's training it is the loss of the text pairs, beside that of images and captions. Hard negatives are
    ``Encoded.negative_text``, any number of rows, all of them candidates of every query; where there are none it is
    plain InfoNCE. Source: arXiv 2405.20204, section 3.

    Example:
        >>> from tether.core.component import build
        >>> from tether.losses import OBJECTIVES
        >>> build({"name": "info_nce", "tau": 0.05, "symmetric": "mean"}, OBJECTIVES, where="recipe").tau
        0.05
    """

    @checked
    def __init__(
        self,
        *,
        tau: Positive | None = None,
        symmetric: Symmetric = "sum",
        duplicates: Duplicates = "negatives",
    ) -> None:
        """Take the settings.

        Args:
            tau: what cosines are divided by; None takes the model's learned scale.
            symmetric: ``sum`` of the two directions, as published, or their ``mean``.
            duplicates: candidates with the text of a query's own positive are ``negatives``, ``positives`` or
                ``left_out``. What counts as equal is ``labels`` and ``negative_labels`` of ``batch.extra``, or the
                tokens where there are none.
        """
        self.tau, self.symmetric, self.duplicates = tau, symmetric, duplicates
        self._equal = EqualNegatives()

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are both directions, and the logit scale where it is looked at.

        Raises:
            InputError: fewer than two pairs over all processes.
        """
        check_cosine(out)
        query, positive = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(query, positive)
        negatives, labels = None, (None, None)
        if out.negative_text is not None:
            negatives = unit_rows(out.negative_text)
            labels = pair_labels(batch, duplicates=self.duplicates)
            if len(negatives) % len(positive) == 0:
                self._equal(positive.repeat_interleave(len(negatives) // len(positive), 0), negatives, what="positives")
        elif self.duplicates != "negatives":
            labels = batch_labels(batch), None
        found = _terms(
            query,
            positive,
            negatives,
            out.logit_scale if self.tau is None else 1 / self.tau,
            symmetric=self.symmetric,
            labels=labels,
            duplicates=self.duplicates,
            gather=gather,
        )
        terms = {"forward": found.forward.detach(), "backward": found.backward.detach()}
        if self.tau is None:
            terms["logit_scale"] = out.logit_scale.detach()
        return Loss(found.total, terms)
