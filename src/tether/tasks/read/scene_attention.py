"""Gated attention of word features to the scene that the word stands in."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

_WAVES = 4
"""Frequencies of a box's Fourier code, of 1 to 8 half turns across the scene."""
_HALF = (torch.float16, torch.bfloat16)


class SceneContext(NamedTuple):
    """What words take from a scene, before the gate.

    Attributes:
        context: (b, t, d).
        weights: (b, h, t, n) attention of each head; zeros for a scene without tokens.
    """

    context: Float[Tensor, "b t d"]
    weights: Float[Tensor, "b h t n"]


class GatedSceneAttention(nn.Module):
    """Adds to a word's features what they find in the scene, through a gate that starts closed.

    ``words + tanh(alpha) * attention(norm(words), projected scene)``; alpha is 0 at the start, so that the output is
    the input bit for bit. Then only alpha has a gradient, and the rest once alpha has moved.

    Source: CLIPTER (arXiv 2301.07464), for which no code was found: one gate for all channels in the form of Flamingo's
    (arXiv 2204.14198), the norm before the queries and the code of boxes are ours.

    Attributes:
        alpha: () the gate before its tanh. It stays in float32 when the rest becomes half precision, and belongs in a
            parameter group without weight decay.

    Example:
        >>> import torch
        >>> from tether.tasks.read import GatedSceneAttention
        >>> fusion = GatedSceneAttention(16, scene_dim=24, heads=2)
        >>> words, scene = torch.randn(3, 5, 16), torch.randn(3, 9, 24)
        >>> torch.equal(fusion(words, scene), words)
        True
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        scene_dim: Count,
        heads: Count = 8,
        position: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            dim: of word features; a number that ``heads`` divides.
            scene_dim: of scene tokens.
            heads: of the attention.
            position: whether a code of the word's box in the scene is added to what asks.
            generator: of the weights; None is the global one.

        Raises:
            InputError: heads that do not divide the width.
        """
        super().__init__()
        if dim % heads:
            raise InputError(f"heads: expected a number that divides dim = {dim}, got {heads}")
        self.dim, self.scene_dim = dim, scene_dim
        self.alpha = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(scene_dim, dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.place = nn.Linear(8 * _WAVES, dim) if position else None
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(
        self,
        words: Float[Tensor, "b t d"],
        scene: Float[Tensor, "s n e"] | None,
        *,
        scene_padding: Bool[Tensor, "s n"] | None = None,
        scene_index: Int[Tensor, " b"] | None = None,
        boxes: Float[Tensor, "b 4"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """The words' features with what the scene adds to them.

        Args:
            words: features of each word.
            scene: tokens of each scene; None gives the words back.
            scene_padding: True for tokens that are not there; a scene of no others adds nothing.
            scene_index: number of each word's scene; None where each word has its own, in the same order.
            boxes: of the words in their scenes, x0, y0, x1, y1 in 0..1.

        Raises:
            InputError: shapes or numbers of scenes that do not fit, or boxes without or missing for ``position``.
        """
        if scene is None:
            return words
        found = self.look(words, scene, scene_padding=scene_padding, scene_index=scene_index, boxes=boxes)
        return words + torch.tanh(self.alpha) * found.context.to(words.dtype)

    def look(
        self,
        words: Float[Tensor, "b t d"],
        scene: Float[Tensor, "s n e"],
        *,
        scene_padding: Bool[Tensor, "s n"] | None = None,
        scene_index: Int[Tensor, " b"] | None = None,
        boxes: Float[Tensor, "b 4"] | None = None,
    ) -> SceneContext:
        """What the words take from the scene, before the gate; see ``forward``."""
        self._check(words, scene, scene_padding, scene_index)
        if (boxes is None) != (self.place is None):
            raise InputError(f"boxes: expected {'none' if self.place is None else 'one a word'} with this position")
        if scene_index is not None:
            scene = scene[scene_index]
            scene_padding = None if scene_padding is None else scene_padding[scene_index]
        asks = self.norm(words.to(self.project.weight.dtype))
        if self.place is not None and boxes is not None:
            if boxes.shape != (len(words), 4) or not bool(((boxes >= 0) & (boxes <= 1)).all()):
                raise InputError(f"boxes: expected ({len(words)}, 4) in 0..1, got {tuple(boxes.shape)}")
            asks = asks + self.place(_waves(boxes).to(asks.dtype))[:, None]
        given = self.project(scene.to(asks.dtype))
        if scene_padding is None:
            return SceneContext(*self.attention(asks, given, given, average_attn_weights=False))
        none = scene_padding.all(1)
        absent = scene_padding & ~none[:, None]  # softmax over nothing is NaN
        context, weights = self.attention(asks, given, given, key_padding_mask=absent, average_attn_weights=False)
        return SceneContext(
            context.masked_fill(none[:, None, None], 0), weights.masked_fill(none[:, None, None, None], 0)
        )

    def _check(self, words: Tensor, scene: Tensor, padding: Tensor | None, index: Tensor | None) -> None:
        for name, given, width in (("words", words, self.dim), ("scene", scene, self.scene_dim)):
            if given.ndim != 3 or not given.shape[1] or given.shape[2] != width:
                raise InputError(f"{name}: expected (b, n, {width}) with n above 0, got {tuple(given.shape)}")
        if padding is not None and padding.shape != scene.shape[:2]:
            raise InputError(f"scene_padding: expected {tuple(scene.shape[:2])}, got {tuple(padding.shape)}")
        if index is None and len(words) != len(scene):
            raise InputError(f"scene: expected one a word, {len(words)}, got {len(scene)}; or give scene_index")
        if index is not None:
            fits = index.shape == words.shape[:1] and not bool(((index < 0) | (index >= len(scene))).any())
            if not fits:
                expected = f"{len(words)} numbers from 0 to {len(scene) - 1}"
                raise InputError(f"scene_index: expected {expected}, got {index.tolist()!s:.100}")

    def _apply(self, fn, recurse: bool = True):
        """As ``nn.Module`` does it, but alpha keeps float32: near 1, bfloat16 has steps of 1/128."""
        before = self.alpha.detach().clone()
        super()._apply(fn, recurse)
        if self.alpha.dtype in _HALF:
            self.alpha.data = before.to(self.alpha.device, torch.promote_types(before.dtype, torch.float32))
        return self


def _waves(boxes: Float[Tensor, "b 4"]) -> Float[Tensor, "b w"]:
    turns = boxes[..., None] * math.pi * 2.0 ** torch.arange(_WAVES, device=boxes.device)
    return torch.cat([turns.sin(), turns.cos()], dim=-1).flatten(1)
