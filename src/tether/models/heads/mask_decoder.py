"""Queries that find masks: a pixel decoder, a decoder that may read texts beside its queries, and a head of both."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.core.types import MaskPrediction
from tether.models.towers.positions import sine_grid

Layers = Annotated[int, Ge(1), Le(64)]
"""Of a mask decoder; each is made one by one, also for a file that merely says how many it has."""
GROUPS = 8
"""Of the group norms of a pixel decoder, or the greatest divisor of its width below."""


class MaskTextLayer(nn.Module):
    """Queries look at the places they may see, then queries and texts at each other, then each is thought over.

    A norm follows each addition, as in Mask2Former (arXiv 2112.01527); texts beside queries are MTA-CLIP's
    (arXiv 2407.21654).
    """

    @checked
    def __init__(self, dim: Count, *, heads: Count = 8, inner: Count | None = None) -> None:
        """Make it, with weights from torch's generator.

        Args:
            dim: of all rows; a number that ``heads`` divides.
            heads: of both attentions.
            inner: width of the feed-forward network, whose activation is ReLU; None takes four times ``dim``.
        """
        super().__init__()
        if dim % heads:
            raise InputError(f"heads: expected a number that divides dim = {dim}, got {heads}")
        wide = 4 * dim if inner is None else inner
        self.cross = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.own = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.linear1, self.linear2 = nn.Linear(dim, wide), nn.Linear(wide, dim)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        image: Float[Tensor, "b k d"],
        *,
        texts: Float[Tensor, "b n d"] | None = None,
        seen: Bool[Tensor, "b q k"] | None = None,
        places: Float[Tensor, "k d"] | None = None,
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b n d"] | None]:
        """Queries and texts after the layer.

        Args:
            queries: rows that look.
            image: what they look at.
            texts: rows of texts; they do not look at the image.
            seen: True where a query may look; one that may look nowhere looks everywhere. None lets all look
                everywhere.
            places: added to what is looked for, not to what is taken.
        """
        blocked = None
        if seen is not None:
            blocked = ~(seen | ~seen.any(dim=2, keepdim=True))
            blocked = blocked.repeat_interleave(self.cross.num_heads, dim=0)
        keys = image if places is None else image + places
        read = self.cross(queries, keys, image, attn_mask=blocked, need_weights=False)[0]
        queries = self.norm1(queries + read)
        both = queries if texts is None else torch.cat([queries, texts], dim=1)
        both = self.norm2(both + self.own(both, both, both, need_weights=False)[0])
        both = self.norm3(both + self.linear2(torch.relu(self.linear1(both))))
        count = queries.shape[1]
        return both[:, :count], None if texts is None else both[:, count:]


class MaskTextDecoder(nn.Module):
    """Learned queries that each find one mask, with the texts of classes among them or without.

    A query looks where its mask of the layer before is. Without texts it is Mask2Former's decoder on one map; with them
    the texts of all classes take part in self-attention, and so see the masks (MTA-CLIP).

    Attributes:
        queries: (q, d) what enters the first layer.

    Example:
        >>> import torch
        >>> from tether.models.heads.mask_decoder import MaskTextDecoder
        >>> decoder = MaskTextDecoder(32, heads=4, layers=3, queries=10, classes=5, text_dim=64)
        >>> found = decoder(torch.randn(2, 32, 16, 16), texts=torch.randn(5, 8, 64))  # 8 prompts for each class
        >>> found.rows.shape, found.logits.shape, found.classes.shape
        (torch.Size([4, 2, 10, 64]), torch.Size([4, 2, 10, 16, 16]), torch.Size([4, 2, 10, 6]))
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        heads: Count = 8,
        layers: Layers = 3,
        queries: Count = 32,
        inner: Count | None = None,
        classes: Count | None = None,
        text_dim: Count | None = None,
    ) -> None:
        """Make it, with weights from torch's generator.

        Args:
            dim: of the map; a multiple of 4 that ``heads`` divides.
            heads: of the attentions.
            layers: how many.
            queries: masks that it finds.
            inner: see ``MaskTextLayer``.
            classes: how many classes it tells apart besides no object; None tells none.
            text_dim: of texts; a linear map brings them to ``dim``, another one queries to them. None takes ``dim``
                for theirs, without maps.
        """
        super().__init__()
        if dim % 4:
            raise InputError(f"dim: expected a multiple of 4, got {dim}")
        self.dim, self.text_dim = dim, dim if text_dim is None else text_dim
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.layers = nn.ModuleList(MaskTextLayer(dim, heads=heads, inner=inner) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.masks = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.classes = None if classes is None else nn.Linear(dim, classes + 1)
        self.from_text = nn.Identity() if text_dim is None else nn.Linear(text_dim, dim)
        self.to_text = nn.Identity() if text_dim is None else nn.Linear(dim, text_dim)

    def forward(
        self,
        pixels: Float[Tensor, "b d h w"],
        *,
        memory: Float[Tensor, "b d r c"] | None = None,
        texts: Float[Tensor, "k p t"] | None = None,
    ) -> MaskPrediction:
        """Find masks.

        Args:
            pixels: the map whose places are compared with the queries.
            memory: a map that the queries look at, which may be coarser; None takes ``pixels``.
            texts: p prompts of k classes.

        Raises:
            InputError: maps or texts of another width.
        """
        memory = pixels if memory is None else memory
        for name, given in (("pixels", pixels), ("memory", memory)):
            if given.ndim != 4 or given.shape[1] != self.dim or 0 in given.shape:
                raise InputError(f"{name}: expected (b, {self.dim}, rows, columns), got {tuple(given.shape)}")
        if texts is not None and (texts.ndim != 3 or texts.shape[2] != self.text_dim or 0 in texts.shape):
            raise InputError(f"texts: expected (classes, prompts, {self.text_dim}), got {tuple(texts.shape)}")
        size = (memory.shape[2], memory.shape[3])
        image = memory.flatten(2).mT
        places = sine_grid(size, width=self.dim).to(image)
        x = self.queries.expand(len(image), -1, -1)
        said = None if texts is None else self.from_text(texts.flatten(0, 1)).expand(len(image), -1, -1)
        found = [self._predict(x, pixels)]
        for layer in self.layers:
            seen = F.interpolate(found[-1][1].detach(), size, mode="bilinear").flatten(2) > 0
            x, said = layer(x, image, texts=said, seen=seen, places=places)
            found.append(self._predict(x, pixels))
        rows, logits, classes = zip(*found, strict=True)
        told = None if self.classes is None else torch.stack(classes)
        return MaskPrediction(torch.stack(rows), torch.stack(logits), told, said)

    def _predict(self, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x = self.norm(x)
        logits = torch.einsum("bqd,bdhw->bqhw", self.masks(x), pixels)
        return self.to_text(x), logits, None if self.classes is None else self.classes(x)


class PixelDecoder(nn.Module):
    """A tower's last map brought to another width, then doubled in both directions a few times."""

    @checked
    def __init__(self, width: Count, *, dim: Count, doublings: Annotated[int, Ge(0), Le(5)] = 2) -> None:
        """Make it, with weights from torch's generator.

        Args:
            width: channels of the map.
            dim: channels of what comes out.
            doublings: how often; each has a 3 x 3 convolution.
        """
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, dim)
        groups = max(one for one in range(1, GROUPS + 1) if dim % one == 0)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(groups, dim), nn.ReLU())
            for _ in range(doublings)
        )
        self.outer = nn.Conv2d(dim, dim, 1)

    def forward(self, features: Float[Tensor, "b r c w"]) -> tuple[Float[Tensor, "b d r c"], Float[Tensor, "b d h v"]]:
        """The map in the new width at its own size, and enlarged."""
        coarse = x = self.inner(self.norm(features)).movedim(-1, 1)
        for step in self.steps:
            x = step(F.interpolate(x, scale_factor=2, mode="bilinear"))
        return coarse, self.outer(x)


class MaskHead(nn.Module):
    """Masks out of a tower's last map: a pixel decoder and a mask decoder.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.heads.mask_decoder import MaskHead
        >>> from tether.models.features.penultimate import image_map
        >>> head = MaskHead(64, dim=32, heads=4, queries=10, classes=3)
        >>> tokens = image_map(create("tiny").eval(), torch.rand(2, 3, 32, 32)).tokens
        >>> head(tokens.unflatten(1, (4, 4))).logits[-1].shape  # of patches of 8 pixels, at a quarter of them
        torch.Size([2, 10, 16, 16])
    """

    @checked
    def __init__(
        self,
        width: Count,
        *,
        dim: Count = 64,
        heads: Count = 4,
        layers: Layers = 3,
        queries: Count = 32,
        classes: Count | None = None,
        text_dim: Count | None = None,
        doublings: Annotated[int, Ge(0), Le(5)] = 2,
    ) -> None:
        """Make it; see ``PixelDecoder`` and ``MaskTextDecoder``."""
        super().__init__()
        self.settings: dict[str, int | None] = {
            "width": width,
            "dim": dim,
            "heads": heads,
            "layers": layers,
            "queries": queries,
        }
        self.settings |= {"classes": classes, "text_dim": text_dim, "doublings": doublings}
        self.pixels = PixelDecoder(width, dim=dim, doublings=doublings)
        self.decoder = MaskTextDecoder(
            dim, heads=heads, layers=layers, queries=queries, classes=classes, text_dim=text_dim
        )

    def forward(
        self, features: Float[Tensor, "b r c w"], *, texts: Float[Tensor, "k p t"] | None = None
    ) -> MaskPrediction:
        """See ``MaskTextDecoder``; ``features`` are rows and columns of patches: ``features.penultimate.image_map``."""
        memory, pixels = self.pixels(features)
        return self.decoder(pixels, memory=memory, texts=texts)


def semantic_map(
    class_logits: Float[Tensor, "b q k"],
    mask_logits: Float[Tensor, "b q h w"],
    *,
    void: Float[Tensor, "b q"] | None = None,
) -> Float[Tensor, "b k h w"]:
    """How much of each class stands at each place: the sum over masks of class probability times mask probability.

    Args:
        class_logits: of each mask; the softmax is over all of them.
        mask_logits: of each mask.
        void: probability that a mask shows no object; it counts that much less. None counts all whole.

    Raises:
        InputError: shapes that do not fit.
    """
    if class_logits.ndim != 3 or mask_logits.ndim != 4 or class_logits.shape[:2] != mask_logits.shape[:2]:
        raise InputError(
            f"expected class_logits (b, q, k) and mask_logits (b, q, h, w), got {tuple(class_logits.shape)} and "
            f"{tuple(mask_logits.shape)}"
        )
    if void is not None and void.shape != class_logits.shape[:2]:
        raise InputError(f"void: expected {tuple(class_logits.shape[:2])}, got {tuple(void.shape)}")
    likely = class_logits.softmax(dim=2)
    likely = likely if void is None else likely * (1 - void[..., None])
    return torch.einsum("bqk,bqhw->bkhw", likely, mask_logits.sigmoid())
