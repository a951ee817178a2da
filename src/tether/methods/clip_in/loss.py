"""CLIP-IN's symmetric loss: an edited pair is the hard negative of its original in both modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.gather import LOCAL, Gather
from tether.core.ranges import checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.hard_negatives import (
    Duplicates,
    EqualNegatives,
    check_negatives,
    hard_info_nce,
    pair_labels,
    quadruple_rows,
)
from tether.losses.infonce import info_nce_pairs

Scope = Literal["own", "batch", "pair"]


@dataclass(frozen=True, slots=True)
class SymmetricTerms:
    """What ``symmetric_negative_loss`` gives; all 0-d.

    Attributes:
        total: mean of the four others, to be minimised.
        i2t: images look for their captions.
        t2i: captions look for their images.
        i2t_edit: edited images look for the edited captions.
        t2i_edit: edited captions look for the edited images.
    """

    total: Float[Tensor, ""]
    i2t: Float[Tensor, ""]
    t2i: Float[Tensor, ""]
    i2t_edit: Float[Tensor, ""]
    t2i_edit: Float[Tensor, ""]


@checked
def symmetric_negative_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    img_edit: Float[Tensor, "b d"],
    txt_edit: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    scope: Scope = "own",
    labels: Int[Tensor, " b"] | None = None,
    edit_labels: Int[Tensor, " b"] | None = None,
    duplicates: Duplicates = "negatives",
    gather: Gather | None = None,
) -> SymmetricTerms:
    """Every image must be told from its edit, and every caption from its own (arXiv 2508.02329).

    The exact published form could not be had; ``own`` is our reading of it, the others are its neighbours.

    Args:
        img: rows of length 1; row i and ``txt[i]`` are one pair.
        txt: rows of length 1.
        img_edit: rows of length 1; row i and ``txt_edit[i]`` are pair i with one thing changed.
        txt_edit: rows of length 1.
        logit_scale: multiplier of the cosines, already exponentiated.
        scope: the candidates of a row. ``own``: the b of its kind (originals or edits) and its own twin. ``batch``: all
            2b, which is CLIP on 2b pairs. ``pair``: its match and the twin of that, no one else's.
        labels: equal for pairs that mean the same; needed unless duplicates are negatives.
        edit_labels: of the edited pairs, among the same labels.
        duplicates: what candidates of a row's own label are; see ``hard_info_nce``. In small worlds the edit of one
            pair is often another pair, which ``batch`` counts as wrong unless it is ``left_out``. ``pair`` asks about
            twins alone and has none.
        gather: rows of all processes; None for this process alone.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from tether.methods.clip_in import symmetric_negative_loss
        >>> pair, edit = torch.eye(6).split(3)  # unit embeddings of images and their captions, and of the edits of both
        >>> told = symmetric_negative_loss(pair, pair, edit, edit, 20.0)
        >>> near = F.normalize(pair + 0.3 * edit, dim=1)  # as an encoder gives them that hardly sees the edit
        >>> bool(told.total < 0.01 < symmetric_negative_loss(pair, pair, near, near, 20.0).total)
        True
    """
    check_negatives(img, txt, img_edit=img_edit, txt_edit=txt_edit)
    equal = EqualNegatives()
    equal(txt, txt_edit, what="captions")
    equal(img, img_edit, what="pictures")
    return _terms(
        (img, txt, img_edit, txt_edit),
        logit_scale,
        scope=scope,
        labels=(labels, edit_labels),
        duplicates=duplicates,
        gather=gather or LOCAL,
    )


def _terms(
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: Tensor | float,
    *,
    scope: Scope,
    labels: tuple[Tensor | None, Tensor | None],
    duplicates: Duplicates,
    gather: Gather,
) -> SymmetricTerms:
    if scope == "batch":
        parts = _over_all(rows, scale, labels=labels, duplicates=duplicates, gather=gather)
    else:
        img, txt, img_edit, txt_edit = rows
        asked = (
            (img, txt, txt_edit, labels),
            (txt, img, img_edit, labels),
            (img_edit, txt_edit, txt, labels[::-1]),
            (txt_edit, img_edit, img, labels[::-1]),
        )
        if scope == "pair":
            # Not softplus, which rounds to its argument above 20.
            parts = [-F.logsigmoid(scale * (p * (q - other)).sum(dim=1)) for p, q, other, _ in asked]
        else:
            parts = [
                hard_info_nce(
                    queries,
                    gather(keys),
                    scale=scale,
                    offset=gather.rank * len(img),
                    twins=twins,
                    query_labels=mine,
                    key_labels=None if mine is None else gather(mine),
                    twin_labels=theirs,
                    duplicates=duplicates,
                )
                for queries, keys, twins, (mine, theirs) in asked
            ]
    means = [part.mean() for part in parts]
    return SymmetricTerms(torch.stack(means).mean(), *means)


def _over_all(
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: Tensor | float,
    *,
    labels: tuple[Tensor | None, Tensor | None],
    duplicates: Duplicates,
    gather: Gather,
) -> list[Tensor]:
    """One InfoNCE over originals and edits together: losses of (img, txt, img_edit, txt_edit) rows."""
    img, txt, img_edit, txt_edit = rows
    count = len(img)
    images, texts = torch.cat([img, img_edit]), torch.cat([txt, txt_edit])
    if gather.world == 1 and duplicates == "negatives":
        left, right = info_nce_pairs(images, texts, scale=scale)
    else:
        own, other = labels
        mine = None if own is None or other is None else torch.cat([own, other])
        common = {
            "scale": scale,
            "offset": gather.rank * 2 * count,
            "query_labels": mine,
            "key_labels": None if mine is None else gather(mine),
            "duplicates": duplicates,
        }
        left = hard_info_nce(images, gather(texts), **common)
        right = hard_info_nce(texts, gather(images), **common)
    return [left[:count], right[:count], left[count:], right[count:]]


@final
class SymmetricHardNegativeLoss:
    """CLIP-IN's objective on quadruples: both modalities get the edit of their own. Source: arXiv 2508.02329.

    It needs ``Encoded.negative_image`` and ``negative_text``, which the step ``hard_negatives`` puts there.
    """

    @checked
    def __init__(self, *, scope: Scope = "own", duplicates: Duplicates = "negatives") -> None:
        """Take the settings.

        Args:
            scope: the candidates of a row; see ``symmetric_negative_loss``.
            duplicates: as for ``NegClipLoss``.
        """
        self.scope: Scope = scope
        self.duplicates: Duplicates = duplicates
        self._equal = EqualNegatives()

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's quadruples; terms are the four directions and the logit scale."""
        found = _terms(
            quadruple_rows(out, equal=self._equal),
            out.logit_scale,
            scope=self.scope,
            labels=pair_labels(batch, duplicates=self.duplicates),
            duplicates=self.duplicates,
            gather=gather,
        )
        terms = {
            "logit_scale": out.logit_scale.detach(),
            "image_to_text": found.i2t.detach(),
            "text_to_image": found.t2i.detach(),
            "image_to_text_edit": found.i2t_edit.detach(),
            "text_to_image_edit": found.t2i_edit.detach(),
        }
        return Loss(found.total, terms)
