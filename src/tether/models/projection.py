"""A linear map from a model's embeddings to another width, for terms that compare with another model's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.ranges import Count, checked


class EmbeddingProjection(nn.Linear):
    """A matrix without bias that is trained along with a run and is no part of the model that is saved."""

    @checked
    def __init__(self, *, width: Count, dim: int, vocabulary: int, context: int, generator: torch.Generator) -> None:
        """Build it, with weights drawn from the generator.

        Args:
            width: numbers of what comes out, such as those of a teacher's embedding.
            dim: of the embeddings.
            vocabulary: number of token ids; not looked at.
            context: longest text in tokens; not looked at.
            generator: of the weights.
        """
        super().__init__(dim, width, bias=False)
        nn.init.normal_(self.weight, std=dim**-0.5, generator=generator)

    def forward(self, input: Float[Tensor, "b d"]) -> Float[Tensor, "b w"]:
        """The embeddings at the other width."""
        return super().forward(input)
