"""A place of an image turned into an embedding: by a box, or by words, whose box is then told."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.models.features.region_pooling import checked_boxes


class Prompter(nn.Module):
    """One transformer block that reads an image's tokens from a prompt (CLOC, arXiv 2410.02746).

    Of the block's output only that at the prompt is used, so only the prompt asks: keys and values of an image's tokens
    are made once, whatever the number of its regions. The paper's code is not public; the Fourier features, the block
    and the loss of boxes are ours.

    Attributes:
        settings: plain values from which the same architecture is built again.
        saved: what becomes of it at the end of a run.
        rate_scale: see ``optim.parameter_groups``.

    Example:
        >>> import torch
        >>> from tether.models.heads.prompter import Prompter
        >>> prompter, tokens = Prompter(32, state=64), torch.randn(2, 17, 64)
        >>> prompter.region(tokens, torch.tensor([[[0.1, 0.1, 0.5, 0.6]]]).expand(2, 1, 4)).shape
        torch.Size([2, 1, 32])
        >>> prompter.ground(tokens, torch.randn(2, 3, 32)).shape
        torch.Size([2, 3, 4])
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        state: Count | None = None,
        heads: Count = 8,
        fourier: Annotated[int, Ge(1), Le(12)] = 6,
        mlp_ratio: Positive = 4.0,
        saved: Literal["dropped", "kept"] = "dropped",
        rate: Positive = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make it, with new weights.

        Args:
            dim: of the joint space.
            state: width of the tokens and of the block; None is ``dim``. A step sets it to the tower's. Where it is
                another than ``dim``, regions and texts go through a linear map each.
            heads: of the attention; must divide ``state``.
            fourier: frequencies of each number of a box, 2 pi 2^k.
            mlp_ratio: width of the feed-forward net over that of the block.
            saved: ``kept`` makes a run save a model that has it (``heads.prompted``); ``dropped`` the model alone.
            rate: ``rate_scale``: how many times faster than the model it learns.
            generator: of the weights; None is torch's own.

        Raises:
            InputError: ``heads`` do not divide the width.
        """
        super().__init__()
        width = state or dim
        if width % heads:
            raise InputError(f"heads: expected a divisor of the width {width}, got {heads}")
        self.settings: dict[str, Any] = {
            "dim": dim, "state": width, "heads": heads, "fourier": fourier, "mlp_ratio": mlp_ratio,
        }  # fmt: skip
        self.saved, self.heads, self.fourier, self.rate_scale = saved, heads, fourier, rate
        inner = round(width * mlp_ratio)
        with torch.random.fork_rng(devices=[], enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.corners = nn.Linear(8 * fourier, width)
            self.words = nn.Identity() if width == dim else nn.Linear(dim, width)
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
            self.embedding = nn.Identity() if width == dim else nn.Linear(width, dim)
            self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))

    def region(
        self,
        tokens: Float[Tensor, "b n w"],
        boxes: Float[Tensor, "b r 4"],
        *,
        valid: Bool[Tensor, "b r"] | None = None,
    ) -> Float[Tensor, "b r d"]:
        """Unit embeddings of the places that boxes name.

        Args:
            tokens: of the final stream of an image tower, any number (``features.penultimate.image_tokens``).
            boxes: x0, y0, x1, y1 in shares of the image's width and height, 0 to 1.
            valid: which of the boxes are regions; the others are not looked at and give zeros. None looks at every box.

        Raises:
            InputError: shapes that do not fit, or without ``valid`` a box that is not inside the image or has no area;
                it names the row and the box.
        """
        boxes = checked_boxes(boxes, batch=len(tokens), valid=valid)
        found = F.normalize(self.embedding(self._read(tokens, self.corners(self._features(boxes)))), dim=2)
        return found if valid is None else found * valid[..., None]

    def ground(self, tokens: Float[Tensor, "b n w"], text: Float[Tensor, "b r d"]) -> Float[Tensor, "b r 4"]:
        """Where texts are: centre x, centre y, width and height in shares of the image, 0 to 1.

        Args:
            tokens: see ``region``.
            text: embeddings of texts, r for each image; they are scaled to length 1.

        Raises:
            InputError: shapes that do not fit.
        """
        if text.ndim != 3 or len(text) != len(tokens) or text.shape[2] != self.settings["dim"]:
            expected = f"({len(tokens)}, texts, {self.settings['dim']})"
            raise InputError(f"text: expected {expected}, got {tuple(text.shape)}")
        dtype = self.qkv.weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        prompts = self.words(F.normalize(text.to(wide), dim=2).to(dtype))
        return self.box(self._read(tokens, prompts)).to(wide).sigmoid()

    def forward(
        self,
        tokens: Float[Tensor, "b n w"],
        boxes: Float[Tensor, "b r 4"],
        *,
        valid: Bool[Tensor, "b r"] | None = None,
    ) -> Float[Tensor, "b r d"]:
        """See ``region``."""
        return self.region(tokens, boxes, valid=valid)

    def _features(self, boxes: Tensor) -> Float[Tensor, "b r f"]:
        """Sines, then cosines, of each of the four numbers; in float32 or wider."""
        with torch.autocast(boxes.device.type, enabled=False):
            wide = boxes.to(torch.promote_types(self.qkv.weight.dtype, torch.float32))
            rates = 2 * math.pi * 2.0 ** torch.arange(self.fourier, device=boxes.device, dtype=wide.dtype)
            angles = wide[..., None] * rates
            return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(self.qkv.weight.dtype)

    def _read(self, tokens: Tensor, prompts: Float[Tensor, "b r w"]) -> Float[Tensor, "b r w"]:
        """The block's output at each prompt, which sees itself and the tokens of its image, and no other prompt."""
        width = self.settings["state"]
        if tokens.ndim != 3 or not tokens.shape[1] or tokens.shape[2] != width:
            raise InputError(f"tokens: expected (b, n, {width}), got {tuple(tokens.shape)}")
        seen = self.norm1(tokens.to(self.qkv.weight.dtype))
        queries, own_keys, own_values = self._heads(self.qkv(self.norm1(prompts)), 3)
        keys, values = self._heads(F.linear(seen, self.qkv.weight[width:], self.qkv.bias[width:]), 2)
        scale = queries.shape[-1] ** -0.5
        itself = (queries * own_keys).sum(dim=-1, keepdim=True)
        weights = (scale * torch.cat([itself, queries @ keys.mT], dim=-1)).softmax(dim=-1).to(values.dtype)
        mixed = weights[..., :1] * own_values + weights[..., 1:] @ values
        states = prompts + self.out(mixed.transpose(1, 2).flatten(2))
        return states + self.feed_forward(self.norm2(states))

    def _heads(self, rows: Tensor, parts: int) -> list[Float[Tensor, "b h n e"]]:
        return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in rows.chunk(parts, dim=2)]
