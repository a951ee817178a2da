"""A head for losses between images and texts: projectors of both sides, and predictors, prototypes or a scale."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Count, Positive, Share, checked
from tether.methods.improved_baselines.projection_head import LastNorm, Projector
from tether.models.encoders.tower_parts import SIDES, Side

LARGEST_LOG_SCALE = 4.6052
"""Of a scale's logarithm, which is kept between 0 and this (arXiv 2305.08675, released code)."""


class PairedProjectors(nn.Module):
    """One projector for images and one for texts, and what may come with them.

    What it is for, with the settings of the release (arXiv 2305.08675, appendix):

    - the term ``rocket``: ``{hidden: [4096, 4096], scale: 10}``, and ``out`` as the embedding is wide;
    - ``barlow``: ``{hidden: [3000, 3000], out: 8192, last_norm: plain}``;
    - ``siamese``: ``{hidden: [2048], out: 128, bias: false, last_norm: plain, predictor: 2048}``, and
      ``momentum: 0.99`` for BYOLIP;
    - ``prototypes``: ``{hidden: [2048], out: 128, prototypes: 3000}``.

    Smaller widths do for small models. The release's projectors read the tower's state before its projection; these
    read the embedding. Like every head it is trained and saved with the run and is no part of the model.

    Example:
        >>> import torch
        >>> from tether.methods.improved_baselines.projectors import PairedProjectors
        >>> about = {"dim": 8, "vocabulary": 10, "context": 5, "generator": torch.Generator().manual_seed(0)}
        >>> heads = PairedProjectors(hidden=[16], out=4, predictor=16, **about)
        >>> heads.predict("text", heads.project("text", torch.rand(3, 8))).shape
        torch.Size([3, 4])
    """

    @checked
    def __init__(
        self,
        *,
        hidden: Annotated[list[Count], MinLen(1)] | None = None,
        out: Count | None = None,
        bias: bool = True,
        last_norm: LastNorm = "none",
        scale: Positive | None = None,
        predictor: Count | None = None,
        momentum: Share | None = None,
        prototypes: Count | None = None,
        dim: int,
        vocabulary: int,
        context: int,
        generator: torch.Generator,
    ) -> None:
        """Build it, with weights drawn from the generator.

        Args:
            hidden: widths of the projectors' hidden layers; None is two as wide as four embeddings.
            out: width of a projection; None is that of the embeddings.
            bias: whether the projectors' linear layers have one; a predictor's last layer always has, its others never.
            last_norm: ``plain`` or ``scaled`` batch norm at the projectors' end.
            scale: start of a logit scale of its own, in [1, 100].
            predictor: width of the hidden layer of a predictor for each side.
            momentum: of a copy that trails the head by ``copy <- m * copy + (1 - m) * head`` after each step; the term
                ``siamese`` then makes its targets by it.
            prototypes: how many unit vectors both sides are scored with.
            dim: of the embeddings.
            vocabulary: of the tokenizer; not needed.
            context: of the tokenizer; not needed.
            generator: of the weights.

        Raises:
            InputError: a scale beyond its range.
        """
        super().__init__()
        out = dim if out is None else out
        hidden = [4 * dim, 4 * dim] if hidden is None else hidden
        self.projectors = nn.ModuleDict(
            {
                side: Projector(
                    dim, hidden=hidden, out=out, bias=bias, last_bias=bias, last_norm=last_norm, generator=generator
                )
                for side in SIDES
            }
        )
        self.predictors = nn.ModuleDict()
        if predictor is not None:
            for side in SIDES:
                self.predictors[side] = Projector(
                    out, hidden=[predictor], out=out, bias=False, last_bias=True, generator=generator
                )
        self.prototypes = None
        if prototypes is not None:
            self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, out, generator=generator), dim=1))
        self.log_scale = None
        if scale is not None:
            if not 0 <= math.log(scale) <= LARGEST_LOG_SCALE:
                raise InputError(f"scale: expected 1 to 100, got {scale}")
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.momentum = momentum

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Its own logit scale, with gradient; first put back into its range, as after an optimiser's step.

        Raises:
            InputError: it has none.
        """
        if self.log_scale is None:
            raise InputError("projectors: expected scale, the start of a logit scale for strong views, such as 10")
        with torch.no_grad():
            self.log_scale.clamp_(0, LARGEST_LOG_SCALE)
        return self.log_scale.exp()

    def project(self, side: Side, rows: Float[Tensor, "b d"], *, gather: Gather = LOCAL) -> Float[Tensor, "b o"]:
        """Embeddings of one side, projected."""
        return self.projectors[side](rows, gather=gather)

    def predict(self, side: Side, projected: Float[Tensor, "b o"], *, gather: Gather = LOCAL) -> Float[Tensor, "b o"]:
        """What a projection of one side says of the other.

        Raises:
            InputError: there is no predictor.
        """
        if side not in self.predictors:
            raise InputError("projectors: expected predictor, the width of its hidden layer")
        return self.predictors[side](projected, gather=gather)

    def scores(self, projected: Float[Tensor, "b o"]) -> Float[Tensor, "b n"]:
        """Cosines of projections with the prototypes.

        Raises:
            InputError: there are none.
        """
        if self.prototypes is None:
            raise InputError("projectors: expected prototypes, their number")
        with torch.autocast(projected.device.type, enabled=False):
            wide = projected.to(torch.promote_types(projected.dtype, torch.float32))
            return F.normalize(wide, dim=1) @ F.normalize(self.prototypes, dim=1).to(wide.dtype).T
