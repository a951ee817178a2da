"""Long-CLIP's loss: whole images with long captions, their principal components with short ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Count, Decay, NonNegative, checked
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses.checks import check_cosine, check_unit_pairs, unit_rows
from tether.losses.clip import clip_loss
from tether.losses.infonce import info_nce, info_nce_pairs, refuse_second_order

SHORT_TEXT = "short_text"
"""Where a batch's extra holds the embeddings of the short captions."""


class WholeBatchWarning(UserWarning):
    """A batch is so small that its principal components are all there is."""


class _Projector(torch.autograd.Function):
    """The projection on the k first eigenvectors of a symmetric matrix, whose gradient needs their gap alone."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, k: int, noise: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix.nan_to_num(0.0, 0.0, 0.0))  # the rows themselves hand NaN on
        ctx.save_for_backward(values, vectors)
        ctx.k, ctx.noise = k, noise
        top = vectors[:, -k:]
        return top @ top.T

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        refuse_second_order()
        values, vectors = ctx.saved_tensors
        rest = len(values) - ctx.k
        gap = values[rest:, None] - values[None, :rest]
        smallest = ctx.noise * values.abs().amax()  # nearer ones are equal but for rounding
        turned = vectors.T @ ((grad_outputs[0] + grad_outputs[0].T) / 2) @ vectors
        between = torch.where(gap > smallest, turned[rest:, :rest] / gap.clamp(min=smallest), 0.0)
        turned = torch.zeros_like(turned)
        turned[rest:, :rest], turned[:rest, rest:] = between, between.T
        return vectors @ turned @ vectors.T, None, None


@checked
def principal_components(x: Float[Tensor, "b d"], *, k: Count = 32) -> Float[Tensor, "b d"]:
    """Rows made of the k directions in which a batch differs most (arXiv 2403.15378, section 3.2; released code).

    They are centred by the batch's mean, projected on its first k principal components, and the mean is added again;
    what comes out is not normalised. The gradient reaches the directions, too, and is zero between directions in which
    the batch differs equally. The components are those of the batch, so its size changes what they mean.

    Args:
        x: of one process.
        k: components. A batch of at most k + 1 rows, or rows of at most k numbers, have no more: they come back as
            they are, without a decomposition, with a ``WholeBatchWarning`` for the first.

    Example:
        >>> import torch
        >>> from tether.losses import principal_components
        >>> rows = torch.randn(6, 4) * torch.tensor([5.0, 1.0, 0.1, 0.1])
        >>> short = principal_components(rows, k=1)
        >>> torch.linalg.matrix_rank(short - short.mean(0)).item()
        1
    """
    rows, width = x.shape
    if k >= rows - 1:
        warnings.warn(
            f"{rows} rows have at most {max(rows - 1, 0)} principal components, so the {k} that are asked for are all "
            "there is and short captions see whole images: take a larger batch or a smaller k",
            WholeBatchWarning,
            stacklevel=2,
        )
    if k >= min(rows - 1, width):
        return x
    with torch.autocast(x.device.type, enabled=False):
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = exact.mean(dim=0)
        centred = exact - mean
        noise = max(rows, width) * torch.finfo(exact.dtype).eps
        if rows <= width:
            return _Projector.apply(centred @ centred.T, k, noise) @ centred + mean
        return centred @ _Projector.apply(centred.T @ centred, k, noise) + mean


@dataclass(frozen=True, slots=True)
class LongClipTerms:
    """What ``long_clip_loss`` gives; all 0-d.

    Attributes:
        total: ``long + short_weight * short``.
        long: CLIP's loss of images and long captions.
        short: that of the images' principal components and short captions.
    """

    total: Float[Tensor, ""]
    long: Float[Tensor, ""]
    short: Float[Tensor, ""]


@checked
def long_clip_loss(
    img: Float[Tensor, "b d"],
    long_txt: Float[Tensor, "b d"],
    short_txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    k: Count = 32,
    label_smoothing: Decay = 0.1,
    short_weight: NonNegative = 1.0,
    gather: Gather | None = None,
) -> LongClipTerms:
    """CLIP's loss with long captions, and with short ones and the images' main directions (arXiv 2403.15378).

    Long captions tell everything of an image and short ones the main thing, so only the ``principal_components`` of
    the images must find the short captions.

    Args:
        img: rows of length 1; row i of all three belong together.
        long_txt: rows of length 1.
        short_txt: rows of length 1.
        logit_scale: multiplier of the products, already exponentiated.
        k: principal components, of the batch of one process.
        label_smoothing: share of the target spread over the batch, in both parts.
        short_weight: of the short captions' part: 1 in the released code, 0.1 in an earlier version of it.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: what ``clip_loss`` refuses.

    Example:
        >>> import torch
        >>> from tether.losses import long_clip_loss
        >>> image, long, short = torch.nn.functional.normalize(torch.randn(3, 6, 4), dim=-1)
        >>> found = long_clip_loss(image, long, short, 10.0, k=2)
        >>> bool(found.total == found.long + found.short)
        True
    """
    check_unit_pairs(img, long_txt)
    check_unit_pairs(img, short_txt)
    gather = gather or LOCAL
    long = clip_loss(img, long_txt, logit_scale, label_smoothing=label_smoothing, gather=gather)
    main = principal_components(img, k=k)
    if gather.world == 1:
        losses = info_nce_pairs(main, short_txt, scale=logit_scale, label_smoothing=label_smoothing)
        short = torch.stack(losses).mean()
    else:
        short = torch.stack(
            [
                info_nce(
                    queries,
                    gather(keys),
                    scale=logit_scale,
                    offset=gather.rank * len(img),
                    label_smoothing=label_smoothing,
                )
                for queries, keys in ((main, short_txt), (short_txt, main))
            ]
        ).mean()
    return LongClipTerms(long + short_weight * short, long, short)


@final
class LongClipLoss:
    """Long-CLIP's objective, for a step that sees each image with a long and a short caption.

    The short captions' embeddings are ``batch.extra["short_text"]`` (b, d): ``extra: {short_text: VIEW}`` of the term
    gives it those of a view, such as one with ``rewrite: first_sentence``.

    Source: arXiv 2403.15378, section 3.2; defaults of the released code.
    """

    @checked
    def __init__(self, *, k: Count = 32, label_smoothing: Decay = 0.1, short_weight: NonNegative = 1.0) -> None:
        """Take the settings.

        Args:
            k: principal components of the images that the short captions must find; far below the batch size.
            label_smoothing: share of the target spread over the batch, in [0, 1).
            short_weight: of the short captions' part.
        """
        self.k, self.label_smoothing, self.short_weight = k, label_smoothing, short_weight

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are its two parts and the logit scale.

        Raises:
            InputError: no embeddings of short captions, or rows that do not fit.
        """
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        short = extra_rows(batch, SHORT_TEXT, like=image, objective="long_clip")
        found = long_clip_loss(
            image,
            text,
            short,
            out.logit_scale,
            k=self.k,
            label_smoothing=self.label_smoothing,
            short_weight=self.short_weight,
            gather=gather,
        )
        terms = {"long": found.long, "short": found.short, "logit_scale": out.logit_scale}
        return Loss(found.total, {name: term.detach() for name, term in terms.items()})


def extra_rows(batch: Batch, name: str, *, like: Tensor, objective: str) -> Float[Tensor, "b d"]:
    """Embeddings of a further view in the batch's extra, as rows of length 1 in the precision of other rows.

    Raises:
        InputError: there are none.
    """
    found = batch.extra.get(name)
    if not isinstance(found, Tensor) or found.ndim != 2 or not found.is_floating_point():
        raise InputError(
            f"{objective}: expected batch.extra[{name!r}] (b, d), embeddings of a further view; "
            f"name one in the term: extra: {{{name}: VIEW}}"
        )
    return unit_rows(Features(found)).to(like.dtype)
