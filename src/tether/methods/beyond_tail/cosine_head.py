"""A classifier whose logits are scaled cosines, as CLIP's are: class vectors are learned, or texts that stay."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

LEAST_LOG_SCALE, MOST_LOG_SCALE = 0.0, math.log(100.0)
FIRST_LOG_SCALE = math.log(1 / 0.07)  # CLIP's, arXiv 2103.00020 section 2.5


class CosineHead(nn.Module):
    """Logits ``exp(s) * cos(feature, class vector)`` over all classes or over some of them.

    Source: arXiv 2405.21070, released code (``exps_sup/model.py``). With ``prototypes="frozen"`` and the texts'
    embeddings as ``start`` it is the paper's frozen text head; the scale is still learned.

    Attributes:
        weight: (c, d) class vectors, not normalised; a parameter, or a buffer when frozen.
        log_scale: 0-d parameter s.
    """

    weight: Tensor

    @checked
    def __init__(
        self,
        classes: Count,
        *,
        dim: Count,
        start: Float[Tensor, "c d"] | None = None,
        prototypes: Literal["learned", "frozen"] = "learned",
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the class vectors.

        Args:
            classes: c.
            dim: d of the features.
            start: first class vectors, copied; None draws them from a normal law of deviation ``1 / sqrt(d)``.
            prototypes: ``learned`` by gradient, or ``frozen`` as they start.
            generator: of that draw; None is torch's own.
        """
        super().__init__()
        if start is None and prototypes == "frozen":
            raise InputError("prototypes: frozen ones need a start, such as the embeddings of the classes' texts")
        if start is None:
            weight = torch.randn(classes, dim, generator=generator) * dim**-0.5
        else:
            if tuple(start.shape) != (classes, dim):
                raise InputError(f"start: expected ({classes}, {dim}), got {tuple(start.shape)}")
            if not torch.isfinite(start).all():
                raise InputError("start: expected finite class vectors, got NaN or infinity")
            weight = start.detach().clone()
        if prototypes == "frozen":
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_LOG_SCALE, dtype=weight.dtype))

    @property
    def prototypes(self) -> Literal["learned", "frozen"]:
        """Whether the class vectors move."""
        return "learned" if isinstance(self.weight, nn.Parameter) else "frozen"

    def forward(
        self, features: Float[Tensor, "b d"], *, classes: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, "b k"]:
        """Logits of features over the classes given by position, or over all."""
        weight = self.weight if classes is None else self.weight[classes]
        return self.log_scale.exp() * F.normalize(features, dim=-1) @ F.normalize(weight, dim=-1).T

    @torch.no_grad()
    def clamp_scale_(self) -> None:
        """Hold s between 0 and ln 100; to be called after every step of the optimiser."""
        self.log_scale.clamp_(LEAST_LOG_SCALE, MOST_LOG_SCALE)
