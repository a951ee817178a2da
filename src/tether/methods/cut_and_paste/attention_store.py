"""Maps of cross-attention inside a network of diffusers: recorded, replaced, and frames that look at other frames."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.ranges import checked
from tether.generation.diffuse.attention import PLAIN, CrossPieces, attended, weights

Beside = Literal["first", "previous"]
Replace = Callable[[int, str, Tensor], Tensor | None]
"""Number of the network's call in the block, layer, and its map to another map or None."""


class AttentionStore(contextlib.AbstractContextManager):
    """Records what a network of diffusers looks at in texts, call by call, and may replace it, inside the block.

    Source: prompt-to-prompt (arXiv 2208.01626), whose store and controllers it stands for; ``beside`` is the sparse
    causal attention of arXiv 2212.11565.

    Attributes:
        maps: of (call, layer) the weights (b, h, n, t) of each row, head and pixel over tokens, as the network gave
            them, before they are replaced.
        calls: of the network so far.

    Example:
        >>> import torch
        >>> from tether.generation import TextDiffusion
        >>> from tether.methods.cut_and_paste.attention_store import AttentionStore
        >>> from tether.models import create
        >>> diffusion = TextDiffusion(create("tiny").eval(), size=8, channels=(8, 16))
        >>> with AttentionStore(diffusion.unet) as store:
        ...     _ = diffusion.generate(["a cat"], steps=2, generator=torch.Generator().manual_seed(0))
        >>> store.calls, {tuple(value.shape[2:]) for value in store.maps.values()}  # 4 x 4 pixels, 4 tokens
        (2, {(16, 4)})
    """

    @checked
    def __init__(
        self,
        model: Any,
        *,
        record: bool = True,
        replace: Replace | None = None,
        beside: tuple[Beside, ...] = (),
        half: bool = False,
    ) -> None:
        """Look at the network; nothing is changed yet.

        Args:
            model: a network of diffusers whose attention is that of its own plain processors.
            record: whether maps are kept.
            replace: given each map, it may give another one.
            beside: frames, rows of the batch, whose keys and values in self-attention stand beside a frame's own.
            half: keep maps at half precision, for long clips.

        Raises:
            UnsupportedModelError: no network of diffusers, or processors of another kind.
        """
        processors = getattr(model, "attn_processors", None)
        kinds = {type(one).__name__ for one in processors.values()} if isinstance(processors, Mapping) else set()
        if not kinds or not kinds <= {*PLAIN}:
            raise UnsupportedModelError(
                f"model: expected a network of diffusers with processors of {' or '.join(PLAIN)}, got "
                f"{', '.join(sorted(kinds)) or type(model).__name__}"
            )
        self.model, self.record, self.replace, self.beside, self.half = model, record, replace, tuple(beside), half
        self.maps: dict[tuple[int, str], Float[Tensor, "b h n t"]] = {}
        self.calls = 0
        self._before: dict[str, Any] | None = None
        self._hook: Any = None

    def __enter__(self) -> AttentionStore:
        if self._before is not None:
            raise InputError("AttentionStore: it is in use; expected another one for a block inside its own")
        self._before = dict(self.model.attn_processors)
        self.model.set_attn_processor({name: StoredAttention(self, name) for name in self._before})
        self._hook = self.model.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.model.set_attn_processor(self._before)
            self._hook.remove()
        self._before = self._hook = None

    def _count(self, *_: object) -> None:
        self.calls += 1

    def seen(self, layer: str, found: Float[Tensor, "b h n t"]) -> Float[Tensor, "b h n t"]:
        """Keep a map, and give the one to use.

        Raises:
            InputError: a map of another shape in its place.
        """
        if self.record:
            self.maps[self.calls - 1, layer] = found.detach().half() if self.half else found.detach()
        other = None if self.replace is None else self.replace(self.calls - 1, layer, found)
        if other is None:
            return found
        if other.shape != found.shape:
            raise InputError(f"replace: {layer}: expected a map {tuple(found.shape)}, got {tuple(other.shape)}")
        return other.to(found)

    def layers(self) -> Sequence[str]:
        """Names of the layers whose maps were kept, in the order of their first call."""
        return list(dict.fromkeys(layer for _, layer in self.maps))


class StoredAttention:
    """A plain processor of diffusers that shows its map, and may let frames look at other frames."""

    def __init__(self, owner: AttentionStore, layer: str) -> None:
        """Stand for the processor of a layer."""
        self.owner, self.layer = owner, layer.removesuffix(".processor")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's result."""
        pieces = CrossPieces.of(attn, hidden_states, temb)
        query, (key, value) = pieces.queries(), pieces.keys(encoder_hidden_states)
        mask = pieces.mask(attention_mask, length=key.shape[2])
        if encoder_hidden_states is None:
            if self.owner.beside and mask is None:
                key, value = (besides(one, self.owner.beside) for one in (key, value))
            return pieces.result(attended(query, key, value, mask))
        found = self.owner.seen(self.layer, weights(query, key, mask))
        return pieces.result((found @ value).transpose(1, 2).flatten(2))


def besides(rows: Float[Tensor, "f h n d"], which: Sequence[Beside]) -> Float[Tensor, "f h m d"]:
    """Keys or values of each frame with those of the first frame or of the one before it; that of the first is its own.

    Example:
        >>> import torch
        >>> from tether.methods.cut_and_paste.attention_store import besides
        >>> besides(torch.arange(3.0).view(3, 1, 1, 1), ("first", "previous")).flatten(1).tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 1.0]]
    """
    others = {"first": rows[:1].expand_as(rows), "previous": torch.cat([rows[:1], rows[:-1]])}
    return torch.cat([rows, *(others[one] for one in which)], dim=2)
