"""A decoder that reads an image's tokens: one row for the whole, and some regions with their boxes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.ranges import Count, checked
from tether.core.types import Grounding
from tether.models.heads.query_decoder import QueryDecoder


class GroundingDecoder(nn.Module):
    """GRAIN's decoder (arXiv 2412.04429): learned queries that look for regions, and a last one for the whole image.

    A ``QueryDecoder`` as DETR's, without positions in the memory, reads the layer norm of a linear map of all tokens.
    Each query but the last gives a region's embedding, and its box by three linear layers and a sigmoid. The release's
    head of classes is never used, so there is none.

    Attributes:
        settings: plain values from which the same architecture is built again.
        saved: what becomes of it at the end of a run.

    Example:
        >>> import torch
        >>> from tether.models.heads.grounding_decoder import GroundingDecoder
        >>> found = GroundingDecoder(32, state=64, layers=2)(torch.randn(3, 17, 64))
        >>> found.image.shape, found.regions.shape, found.boxes.shape
        (torch.Size([3, 32]), torch.Size([3, 5, 32]), torch.Size([3, 5, 4]))
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        queries: Count = 5,
        layers: Count = 6,
        heads: Count = 8,
        state: Count | None = None,
        width: Count = 512,
        inner: Count = 2048,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        saved: Literal["dropped", "kept"] = "dropped",
        generator: torch.Generator | None = None,
    ) -> None:
        """Make it, with new weights.

        Args:
            dim: of the joint space.
            queries: regions of an image, at most.
            layers: of the decoder.
            heads: of each attention; must divide ``width``.
            state: width of the tokens that are read; None is ``dim``. A step sets it to the tower's.
            width: of the decoder.
            inner: of its feed-forward networks.
            dropout: in training mode.
            saved: ``kept`` makes a run save a model that embeds images with it (``heads.grounded``); ``dropped``
                saves the model alone.
            generator: of the weights; None is torch's own.
        """
        super().__init__()
        self.settings: dict[str, Any] = {
            "dim": dim, "queries": queries, "layers": layers, "heads": heads, "state": state or dim, "width": width,
            "inner": inner, "dropout": dropout,
        }  # fmt: skip
        self.saved = saved
        with torch.random.fork_rng(devices=[], enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.memory = nn.Sequential(nn.Linear(state or dim, width), nn.LayerNorm(width))
            self.decoder = QueryDecoder(
                width,
                queries=queries + 1,
                layers=layers,
                heads=heads,
                inner=inner,
                dropout=dropout,
                norm="pre",
                queries_as="positions",
            )
            self.image = nn.Linear(width, dim, bias=False)
            self.region = nn.Linear(width, dim, bias=False)
            sizes = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)]
            self.box = nn.Sequential(*sizes)
            for part in (self.image, self.region):
                nn.init.normal_(part.weight, std=width**-0.5)

    def forward(self, tokens: Float[Tensor, "b n w"]) -> Grounding:
        """What the queries find.

        Args:
            tokens: of the final stream of an image tower, the class token among them
                (``features.penultimate.image_tokens``).

        Raises:
            InputError: no tokens, or rows of another width.
        """
        states = self.decoder.each(self.memory(tokens.to(self.image.weight.dtype)))
        boxes = self.box(states[:, :, :-1]).float().sigmoid()
        return Grounding(self.image(states[-1, :, -1]), self.region(states[-1, :, :-1]), boxes[-1], boxes[:-1])
