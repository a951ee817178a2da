"""Normalised attention guidance on any diffusers UNet or transformer: attention processors, for a while."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.ranges import checked
from tether.generation.diffuse.attention import PLAIN, CrossPieces, attended
from tether.generation.diffuse.nag import NAG, nag

JOINT = ("FluxAttnProcessor", "FluxAttnProcessor2_0", "JointAttnProcessor2_0")
"""Processors of diffusers in whose layers image and text attend to each other."""


class NAGGuidance(contextlib.AbstractContextManager):
    """Leads what a diffusers network makes away from a negative prompt, inside the block; the network stays as it was.

    The tokens of the negative prompt follow those of the prompt into the network. In layers of cross-attention the
    image attends to either, with one set of queries, and the outputs are combined by ``nag`` before the output
    projection; keys and values of the negative are computed once for the whole block. In joint layers (Flux, Stable
    Diffusion 3) each text sees itself and the image, the image sees either, and goes on as one stream. All else is
    computed once, where classifier-free guidance runs the network twice. At ``scale=1`` nothing is touched.

    Layers of cross-attention with a processor of another kind are run twice as they are. Not thread-safe: the
    network is another one inside the block for all who use it.

    Source: arXiv 2505.21179.

    Example:
        >>> import torch
        >>> from diffusers import UNet2DConditionModel
        >>> from tether.generation import NAG, NAGGuidance
        >>> unet = UNet2DConditionModel(sample_size=8, block_out_channels=(8, 16), norm_num_groups=8,
        ...     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=4, attention_head_dim=4,
        ...     up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1).eval()
        >>> x, prompt, negative = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 4), torch.randn(1, 3, 4)
        >>> with torch.no_grad(), NAGGuidance(unet, negative, NAG(scale=3.0)):
        ...     unet(x, 500, encoder_hidden_states=prompt).sample.shape
        torch.Size([2, 4, 8, 8])
    """

    @checked
    def __init__(
        self,
        model: Any,
        negative: Float[Tensor, "b n w"],
        settings: NAG | None = None,
        *,
        mask: Bool[Tensor, "b n"] | None = None,
        rows: Literal["all", "last half"] = "all",
        layers: Sequence[str] | None = None,
    ) -> None:
        """Look at the network; nothing is changed yet.

        Args:
            model: a network of diffusers, such as ``pipe.unet`` or ``pipe.transformer``.
            negative: token states of the negative prompt as the network takes those of the prompt, one for all rows or
                one each, of any length.
            settings: scale, bound and blend; None for ``NAG()``.
            mask: True where they are no padding; not for joint layers, which know none.
            rows: which rows of a batch are guided: ``last half`` are those with the prompt where a pipeline of
                diffusers also uses classifier-free guidance.
            layers: parts of the names of the attention processors to guide in; None for all. Joint layers are
                guided all or none.

        Raises:
            InputError: states or a mask of another shape, or no layer of these names.
            UnsupportedModelError: no network of diffusers with attention processors.
        """
        processors = getattr(model, "attn_processors", None)
        if not isinstance(processors, Mapping) or not hasattr(model, "set_attn_processor"):
            raise UnsupportedModelError(
                f"model: expected a network of diffusers with attention processors, got {type(model).__name__}; of a "
                "pipeline give pipe.unet or pipe.transformer"
            )
        if negative.ndim != 3 or not negative.shape[1]:
            raise InputError(f"negative: expected (1 or b, n, w) token states, got {tuple(negative.shape)}")
        if mask is not None and tuple(mask.shape) != tuple(negative.shape[:2]):
            raise InputError(f"mask: expected {tuple(negative.shape[:2])}, as negative, got {tuple(mask.shape)}")
        kinds = {name: type(processor).__name__ for name, processor in processors.items()}
        self.joint = any(kind in JOINT for kind in kinds.values())
        if self.joint and (mask is not None or layers is not None):
            raise InputError("mask, layers: expected None for a network with joint layers")
        chosen = [name for name in kinds if layers is None or any(part in name for part in layers)]
        if not chosen:
            raise InputError(f"layers: expected parts of {', '.join(kinds):.500}, got {list(layers or ())}")
        self.model, self.negative, self.negative_mask, self.rows = model, negative, mask, rows
        self.settings = settings or NAG()
        self.active, self.lengths = False, (0, 0)
        self._chosen, self._kinds = chosen, kinds
        self._before: dict[str, Any] | None = None
        self._hook: Any = None

    def __enter__(self) -> NAGGuidance:
        if self._before is not None:
            raise InputError("NAGGuidance: it is in use; expected another one for a block inside its own")
        if self.settings.scale == 1:
            return self
        self._before = dict(self.model.attn_processors)
        made = {name: self._around(name, one) for name, one in self._before.items() if name in self._chosen}
        self.model.set_attn_processor({**self._before, **made})
        self._hook = self.model.register_forward_pre_hook(self._enter_model, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.model.set_attn_processor(self._before)
            self._hook.remove()
        self._before = self._hook = None
        self.active = False

    def _around(self, name: str, processor: Any) -> Any:
        if self._kinds[name] in JOINT:
            return JointNAG(self, processor)
        return CrossNAG(self, processor) if self._kinds[name] in PLAIN else TwiceNAG(self, processor)

    def _enter_model(self, model: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Put the negative tokens behind the prompt's, unless the noise is below the level to stop at."""
        bound = inspect.signature(model.forward).bind(*args, **given)
        values = bound.arguments
        prompt, step = values.get("encoder_hidden_states"), values.get("timestep")
        least = float(torch.as_tensor(step).float().min()) if step is not None else float("inf")
        self.active = prompt is not None and least >= self.settings.until
        if not self.active or prompt is None:
            return args, given
        if self.negative.shape[2] != prompt.shape[2] or len(self.negative) not in (1, len(prompt)):
            raise InputError(
                f"negative: expected (1 or {len(prompt)}, n, {prompt.shape[2]}) as the prompt has "
                f"{tuple(prompt.shape)}, got {tuple(self.negative.shape)}"
            )
        added = self.negative.to(prompt).expand(len(prompt), -1, -1)
        values["encoder_hidden_states"] = torch.cat([prompt, added], dim=1)
        self.lengths = (prompt.shape[1], added.shape[1])
        mask = values.get("encoder_attention_mask")
        if mask is not None or self.negative_mask is not None:
            real = torch.ones(prompt.shape[:2], dtype=torch.bool) if mask is None else mask
            more = torch.ones(added.shape[:2], dtype=torch.bool) if self.negative_mask is None else self.negative_mask
            more = more.to(prompt.device).expand(len(prompt), -1)
            if real.ndim != 2:
                raise InputError(f"encoder_attention_mask: expected (b, n), got {tuple(real.shape)}")
            values["encoder_attention_mask"] = torch.cat([real.to(prompt.device), more.to(real.dtype)], dim=1)
        if (ids := values.get("txt_ids")) is not None:  # Flux's positions of text tokens
            which = torch.arange(added.shape[1], device=ids.device) % ids.shape[-2]
            values["txt_ids"] = torch.cat([ids, ids[..., which, :]], dim=-2)
        return bound.args, bound.kwargs

    def combine(self, z_pos: Tensor, z_neg: Tensor) -> Tensor:
        """Guided outputs of the rows that are guided; ``z_neg`` may be of these alone."""
        use = self.settings
        guided = nag(z_pos[-len(z_neg) :], z_neg, scale=use.scale, tau=use.tau, alpha=use.alpha, p=use.p)
        return guided if len(z_neg) == len(z_pos) else torch.cat([z_pos[: -len(z_neg)], guided])

    def guided_rows(self, count: int) -> int:
        """How many rows of a batch are guided; they are the last.

        Raises:
            InputError: an odd number of rows has no half.
        """
        if self.rows == "all":
            return count
        if count % 2:
            raise InputError(f"rows: expected an even number for 'last half', got a batch of {count}")
        return count // 2


class CrossNAG:
    """Cross-attention to prompt and negative prompt with the same queries."""

    def __init__(self, owner: NAGGuidance, inner: Any) -> None:
        """Stand for a processor."""
        self.owner, self.inner = owner, inner
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's result."""
        if encoder_hidden_states is None or not self.owner.active:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        pieces, length = CrossPieces.of(attn, hidden_states, temb), self.owner.lengths[0]
        mask = pieces.mask(attention_mask, length=encoder_hidden_states.shape[1])
        prompt, negative = encoder_hidden_states[:, :length], encoder_hidden_states[:, length:]
        count = self.owner.guided_rows(len(hidden_states))
        query = pieces.queries()
        z_pos = attended(query, *pieces.keys(prompt), None if mask is None else mask[..., :length])
        key, value = (one.expand(count, -1, -1, -1) for one in self._keys(pieces, negative[-count:]))
        z_neg = attended(query[-count:], key, value, None if mask is None else mask[-count:, ..., length:])
        return pieces.result(self.owner.combine(z_pos, z_neg))

    def _keys(self, pieces: CrossPieces, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Of the negative prompt: computed at the first call, and for one row where all have the same."""
        one = negative[:1] if len(self.owner.negative) == 1 else negative
        if self.kept is None or len(self.kept[0]) != len(one) or torch.is_grad_enabled():
            self.kept = pieces.keys(one)
        return self.kept


class TwiceNAG:
    """A layer of cross-attention of another kind, run twice: what enters its output projection is combined."""

    def __init__(self, owner: NAGGuidance, inner: Any) -> None:
        """Stand for a processor."""
        self.owner, self.inner = owner, inner

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **given: Any
    ) -> Tensor:
        """The layer's result."""
        if encoder_hidden_states is None or not self.owner.active:
            return self.inner(attn, hidden_states, encoder_hidden_states, **given)
        length, mask = self.owner.lengths[0], given.pop("attention_mask", None)
        sides = [slice(length, None), slice(None, length)]  # the negative first, so that its output is at hand
        seen, out = list[Tensor](), None

        def combine(_: Any, entered: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            seen.append(entered[0])
            if len(seen) < 2:
                return None
            count = self.owner.guided_rows(len(entered[0]))
            return (self.owner.combine(entered[0], seen[0][-count:]), *entered[1:])

        hook = attn.to_out[0].register_forward_pre_hook(combine)
        try:
            for side in sides:
                shown = None if mask is None else mask[..., side]
                out = self.inner(attn, hidden_states, encoder_hidden_states[:, side], attention_mask=shown, **given)
        finally:
            hook.remove()
        if not isinstance(out, Tensor) or len(seen) != 2:
            raise UnsupportedModelError(
                f"model: expected layers of cross-attention, or joint ones of {', '.join(JOINT)}; "
                f"{type(self.inner).__name__} is neither"
            )
        return out


class JointNAG:
    """Joint attention of an image and two texts that do not see each other."""

    def __init__(self, owner: NAGGuidance, inner: Any) -> None:
        """Stand for a processor."""
        self.owner, self.inner = owner, inner

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        """The layer's result: the image's, and the texts' where they came apart from it."""
        flux = type(self.inner).__name__.startswith("Flux")
        alone = encoder_hidden_states is None
        if not self.owner.active or (alone and not flux):
            more = {} if image_rotary_emb is None else {"image_rotary_emb": image_rotary_emb}
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, **more)
        if attention_mask is not None or getattr(attn, "fused_projections", False):
            raise UnsupportedModelError("model: joint layers with a mask or fused projections are not guided")
        of_image = [attn.to_q, attn.to_k, attn.to_v]
        query, key, value = (self._heads(attn, one(hidden_states)) for one in of_image)
        query, key = _normed(query, attn.norm_q), _normed(key, attn.norm_k)
        if encoder_hidden_states is not None:  # texts have projections of their own
            texts = [self._heads(attn, one(encoder_hidden_states)) for one in
                     (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)]  # fmt: skip
            texts = [_normed(texts[0], attn.norm_added_q), _normed(texts[1], attn.norm_added_k), texts[2]]
            query, key, value = (torch.cat(pair, dim=2) for pair in zip(texts, (query, key, value), strict=True))
        if image_rotary_emb is not None:
            from diffusers.models.embeddings import apply_rotary_emb

            query, key = (apply_rotary_emb(one, image_rotary_emb, sequence_dim=2) for one in (query, key))
        prompt, negative = self.owner.lengths
        seen = torch.arange(query.shape[2], device=query.device)
        sides = [seen[(seen < prompt) | (seen >= prompt + negative)], seen[seen >= prompt]]
        first, second = (attended(query[:, :, at], key[:, :, at], value[:, :, at]) for at in sides)
        count = self.owner.guided_rows(len(query))
        image = self.owner.combine(first[:, prompt:], second[-count:, negative:])
        said = torch.cat([first[:, :prompt], second[:, :negative]], dim=1)
        if alone:
            return torch.cat([said, image], dim=1)
        if not getattr(attn, "context_pre_only", False):
            said = attn.to_add_out(said)
        return attn.to_out[1](attn.to_out[0](image)), said

    @staticmethod
    def _heads(attn: Any, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _normed(heads: Tensor, norm: Any) -> Tensor:
    return heads if norm is None else norm(heads)
