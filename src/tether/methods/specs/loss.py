"""A caption metric that rewards detail: similarity rises with a true detail and falls with a false one (SPECS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, checked
from tether.losses.infonce import info_nce, scale_like

LARGEST_MARGIN = 1.5
"""Where an adaptive margin stops, in logits (released code)."""


@dataclass(frozen=True, slots=True)
class SpecsTerms:
    """The parts of the loss, weighted, all 0-d.

    Attributes:
        total: all three.
        contrast: each caption among the images.
        detail: a true detail must raise the similarity.
        negative: a false one must lower it.
        margin: in force after the call, in logits; detached.
    """

    total: Float[Tensor, ""]
    contrast: Float[Tensor, ""]
    detail: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    margin: Float[Tensor, ""]


@final
class SpecsLoss(nn.Module):
    """Contrast of whole captions, and two hinges on captions that grow by a true and by a false detail.

    With ``r = logit_scale * cosine`` of a text with its own image, the hinges are ``max(0, m + r_base - r_detail)``
    and ``max(0, m + r_negative - r_base)``. The margin is in logits: with a scale of 100, a margin of 1.5 is a cosine
    of 0.015, with a scale of 14 one of 0.11. An adaptive one follows the mean difference that each hinge asks for,
    within 0 and 1.5, so a hinge whose difference is 1.5 on average still charges about half of the rows. It is a
    buffer: ``state_dict`` holds it, and evaluation mode leaves it as it is.

    Source: arXiv 2509.03897, section 3, and its released code, which has text to image alone and looks at one process
    at a time; here contrast, hinges and adaptive margin are those of the whole batch. Its ``beta``, which it never
    uses, is left out, and a margin given as 0 stays 0.

    Example:
        >>> import torch
        >>> from tether.methods.specs import SpecsLoss
        >>> image, caption, base, detail, false_detail = torch.randn(5, 8, 64)  # embeddings of a batch
        >>> loss = SpecsLoss()
        >>> found = loss(image, caption=caption, base=base, detail=detail, neg=false_detail, logit_scale=20.0)
        >>> bool(torch.isclose(found.total, found.contrast + found.detail + found.negative))
        True
    """

    margin: Tensor

    @checked
    def __init__(
        self,
        *,
        lambda_contrast: NonNegative = 1.0,
        lambda_detail: NonNegative = 8.0,
        lambda_neg: NonNegative = 0.8,
        margin: NonNegative | None = None,
    ) -> None:
        """Take the settings; the defaults are the released script's.

        Args:
            lambda_contrast: weight of the contrast.
            lambda_detail: weight of the true details.
            lambda_neg: weight of the false ones.
            margin: in logits; None is adaptive and starts at 0.
        """
        super().__init__()
        self.lambda_contrast, self.lambda_detail, self.lambda_neg = lambda_contrast, lambda_detail, lambda_neg
        self.adaptive = margin is None
        self.register_buffer("margin", torch.tensor(margin or 0.0, dtype=torch.float64))

    def forward(
        self,
        img: Float[Tensor, "b d"],
        *,
        caption: Float[Tensor, "b d"],
        base: Float[Tensor, "b d"],
        detail: Float[Tensor, "b d"],
        neg: Float[Tensor, "b d"],
        logit_scale: Float[Tensor, ""] | float,
        valid: Bool[Tensor, " b"] | None = None,
        gather: Gather = LOCAL,
    ) -> SpecsTerms:
        """The loss of this process's rows; embeddings of any length, row i of all belongs to image i.

        Args:
            img: images.
            caption: whole captions.
            base: captions cut short.
            detail: the same with one more true detail.
            neg: the same with a false one instead.
            logit_scale: multiplier of the cosines, already exponentiated.
            valid: False for rows that the hinges leave out, such as those whose detail was cut off with the text's end,
                where base and detail are one. None takes all; without any the hinges are 0.
            gather: rows of all processes.
        """
        image, whole, short, longer, wrong = _unit(img, caption=caption, base=base, detail=detail, neg=neg)
        rows = torch.ones_like(image[:, 0]) if valid is None else _mask(valid, like=image)
        self.margin = self.margin.to(image.device)
        scale = scale_like(logit_scale, rows=image)
        contrast = image.new_zeros(())
        if self.lambda_contrast:
            contrast = info_nce(whole, gather(image), scale=scale, offset=gather.rank * len(image)).mean()
        share = gather(rows.sum()[None]).sum().clamp_min(1) / gather.world
        of_base, of_detail, of_wrong = (scale * (text * image).sum(dim=1) for text in (short, longer, wrong))
        grows = self._hinge(of_base, of_detail, rows, share=share)
        self._follow(of_detail - of_base, rows, gather=gather)
        falls = self._hinge(of_wrong, of_base, rows, share=share)
        self._follow(of_base - of_wrong, rows, gather=gather)
        parts = (self.lambda_contrast * contrast, self.lambda_detail * grows, self.lambda_neg * falls)
        return SpecsTerms(sum(parts[1:], parts[0]), *parts, self.margin.clone())

    def _hinge(self, lower: Tensor, higher: Tensor, rows: Tensor, *, share: Tensor) -> Tensor:
        """What ``higher`` lacks to be a margin above ``lower``: over processes the mean of this is that of valid rows.

        ``share`` is how many rows of the whole batch are valid, for each process.
        """
        lacking = (self.margin.to(lower.dtype) + lower - higher).clamp_min(0)
        return torch.where(rows > 0, lacking, 0.0).sum() / share

    @torch.no_grad()
    def _follow(self, difference: Tensor, rows: Tensor, *, gather: Gather) -> None:
        """Move an adaptive margin to the mean difference of the valid rows of all processes; it stays without any."""
        if not (self.adaptive and self.training):
            return
        sums = gather(torch.stack([torch.where(rows > 0, difference, 0.0).sum(), rows.sum()])[None]).sum(dim=0)
        mean = (sums[0] / sums[1].clamp_min(1)).clamp(0, LARGEST_MARGIN)
        self.margin.copy_(torch.where(sums[1] > 0, mean, self.margin.to(mean.dtype)))


def _unit(img: Tensor, **texts: Tensor) -> list[Tensor]:
    """All five sides as unit rows of one dtype, at least float32."""
    shapes = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in (("img", img), *texts.items()))
    if img.ndim != 2 or any(rows.shape != img.shape for rows in texts.values()):
        raise InputError(f"expected five equal (b, d), got {shapes}")
    if len(img) == 0:
        raise InputError(f"expected at least one row, got an empty batch: {shapes}")
    dtype = torch.promote_types(img.dtype, torch.float32)
    return [F.normalize(rows.to(dtype), dim=1) for rows in (img, *texts.values())]


def _mask(valid: Tensor, *, like: Tensor) -> Tensor:
    if valid.dtype != torch.bool or valid.shape != like.shape[:1]:
        raise InputError(f"valid: expected bool ({len(like)},), got {valid.dtype} {tuple(valid.shape)}")
    return valid.to(like.dtype)
