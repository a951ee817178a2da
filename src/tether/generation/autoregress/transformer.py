"""A transformer whose positions come in levels: each sees its own level and those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, Share, checked
from tether.models.latent.quantizer import Scales, Vocabulary

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values of the levels before, one pair a block."""
About = tuple[Tensor, list[Tensor], Tensor]
"""Of vectors: rows (b, w), and what scales, shifts and gates each block and the last layer."""
_EPS = 1e-6
_LARGEST = 100.0
"""Of the learnt scale of unit queries and keys."""


class LevelTransformer(nn.Module):
    """Codewords of all levels from what each level is told, and from one vector that shifts and scales every norm.

    Source: VAR-CLIP (arXiv 2408.01181) and its ``models/var.py``, ``models/basic_var.py``: keys have no bias; queries
    and keys of length 1 with a learnt scale of each head (``unit``), or plain ones times 0.25 / sqrt(head's width).
    """

    @checked
    def __init__(
        self,
        *,
        cond_dim: Count,
        width: Count,
        depth: Annotated[int, Ge(1), Le(128)],
        heads: Count,
        lengths: tuple[Count, ...],
        vocab: Vocabulary,
        told: Count,
        mlp_ratio: Annotated[float, Ge(0.125), Le(64)] = 4.0,
        unit: bool = True,
        null: Share = 0.1,
        nulls: Literal["each", "count"] = "each",
        drop_path: Decay = 0.0,
    ) -> None:
        """Draw the weights from torch's generator.

        Args:
            cond_dim: numbers of the vector.
            width: of a position; a multiple of ``heads``.
            depth: blocks.
            heads: of each.
            lengths: positions of each level.
            vocab: codewords.
            told: numbers that a position of a later level is told.
            mlp_ratio: width within a block over ``width``.
            unit: see the class.
            null: share of the vectors that are replaced in training by one that stands for no text.
            nulls: each vector by chance, or exactly ``int(null * b)`` of a batch, as the official code.
            drop_path: share of a batch that the last block passes by in training; earlier ones in proportion to depth.
        """
        super().__init__()
        if width % heads:
            raise InputError(f"width: expected a multiple of heads={heads}, got {width}")
        self.cond_dim, self.lengths, self.told_dim, self.vocab = cond_dim, tuple(lengths), told, vocab
        self.null_share, self.nulls = null, nulls
        self.null = nn.Parameter(torch.randn(cond_dim) / math.sqrt(cond_dim))
        self.cond = nn.Linear(cond_dim, width)
        self.told = nn.Linear(told, width)
        std = math.sqrt(1 / width / 3)
        self.start = nn.Parameter(torch.empty(lengths[0], width))
        self.positions = nn.Parameter(torch.empty(sum(lengths), width))
        self.levels = nn.Parameter(torch.empty(len(lengths), width))
        inner = round(width * mlp_ratio)
        drops = [drop_path * at / max(1, depth - 1) for at in range(depth)]
        self.blocks = nn.ModuleList(_LevelBlock(width, heads, inner, unit=unit, drop=drop) for drop in drops)
        self.out_norm = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, vocab)
        self._draw_(std)
        level = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths), output_size=sum(lengths))
        self.register_buffer("level", level, persistent=False)

    def _draw_(self, std: float) -> None:
        """As the official code: a truncated normal, gates and the last layer near nothing."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=std)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for table in (self.start, self.positions, self.levels):
            nn.init.trunc_normal_(table, std=std)
        with torch.no_grad():
            self.out.weight *= 0.02
            for block in self.blocks:
                for last in (cast(_LevelBlock, block).out, cast(_LevelBlock, block).back):
                    last.weight /= math.sqrt(2 * len(self.blocks))

    @property
    def mask(self) -> Bool[Tensor, "n n"]:
        """True where a position (row) sees another."""
        return self.level[:, None] >= self.level[None, :]

    def forward(
        self,
        told: Float[Tensor, "b m c"],
        cond: Float[Tensor, "b d"],
        *,
        draws: torch.Generator | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Logits of every position, what came before being known.

        Args:
            told: (b, positions after the first level, numbers).
            cond: (b, cond_dim) vectors; they stay as they are.
            draws: of the vectors that are replaced in training, on the CPU; None takes torch's own.

        Raises:
            InputError: other shapes.
        """
        self.check_cond(cond)
        wanted = (len(cond), sum(self.lengths[1:]), self.told_dim)
        if tuple(told.shape) != wanted:
            raise InputError(f"told: expected {wanted}, got {tuple(told.shape)}")
        row, shifts, last = self.about(cond, draws=draws)
        x = torch.cat([row[:, None] + self.start, self.told(told)], dim=1)
        x = x + self.positions + self.levels[self.level]
        bias = None
        if len(self.lengths) > 1:
            bias = torch.zeros_like(self.mask, dtype=x.dtype).masked_fill(~self.mask, -math.inf)
        for block, shift in zip(self.blocks, shifts, strict=True):
            x, _ = block(x, shift, bias=bias)
        return self._logits(x, last)

    def about(self, cond: Float[Tensor, "b d"], *, draws: torch.Generator | None = None) -> About:
        """What blocks are told of vectors; in training some are replaced."""
        if self.training and self.null_share:
            if self.nulls == "each":
                gone = torch.rand(len(cond), generator=draws) < self.null_share
            else:
                gone = torch.randperm(len(cond), generator=draws) < int(self.null_share * len(cond))
            cond = torch.where(gone.to(cond.device)[:, None], self.null, cond)
        row = self.cond(cond)
        on = F.silu(row)[:, None]
        return row, [cast(_LevelBlock, block).about(on) for block in self.blocks], self.out_norm(on)

    def step(
        self, about: About, told: Float[Tensor, "b l c"] | None, *, level: int, memory: Memory
    ) -> Float[Tensor, "b l v"]:
        """Logits of one level; ``memory``, empty at the first, takes its keys and values."""
        row, shifts, last = about
        first = sum(self.lengths[:level])
        x = row[:, None] + self.start if told is None else self.told(told)
        x = x + self.positions[first : first + self.lengths[level]] + self.levels[level]
        for number, (block, shift) in enumerate(zip(self.blocks, shifts, strict=True)):
            x, seen = block(x, shift, memory=memory[number] if level else None)
            memory[number : number + 1] = [seen]
        return self._logits(x, last)

    def _logits(self, x: Tensor, last: Tensor) -> Tensor:
        scale, shift = last.chunk(2, dim=-1)
        return self.out(_normed(x) * (1 + scale) + shift)

    def check_cond(self, cond: Tensor) -> None:
        """Refuse vectors of another width.

        Raises:
            InputError: see above.
        """
        if cond.ndim != 2 or cond.shape[1] != self.cond_dim:
            raise InputError(f"cond: expected (b, {self.cond_dim}) vectors of texts, got {tuple(cond.shape)}")


class ScaleTransformer(LevelTransformer):
    """Codewords of the scales of a ``MultiScaleQuantizer``, all of a scale at once (VAR-CLIP).

    Example:
        >>> import torch
        >>> from tether.generation.autoregress.transformer import ScaleTransformer
        >>> model = ScaleTransformer(cond_dim=8, width=16, depth=2, heads=2, scales=(1, 2, 4), vocab=32, channels=6)
        >>> model(torch.randn(2, 20, 6), torch.randn(2, 8)).shape
        torch.Size([2, 21, 32])
    """

    @checked
    def __init__(
        self,
        cond_dim: Count,
        width: Count,
        depth: Annotated[int, Ge(1), Le(128)],
        heads: Count,
        scales: Scales,
        vocab: Vocabulary,
        *,
        channels: Count = 32,
        mlp_ratio: Annotated[float, Ge(0.125), Le(64)] = 4.0,
        unit: bool = True,
        null: Share = 0.1,
        nulls: Literal["each", "count"] = "each",
        drop_path: Decay = 0.0,
    ) -> None:
        """Draw the weights from torch's generator.

        Args:
            cond_dim: numbers of a text's embedding.
            width: see ``LevelTransformer``; 64 for each block in the paper.
            depth: see ``LevelTransformer``.
            heads: see ``LevelTransformer``; as many as blocks in the paper.
            scales: of the quantizer.
            vocab: of the quantizer.
            channels: of the quantizer; VAR's has 32.
            mlp_ratio: see ``LevelTransformer``.
            unit: see ``LevelTransformer``.
            null: see ``LevelTransformer``.
            nulls: see ``LevelTransformer``.
            drop_path: see ``LevelTransformer``; 0.1 * depth / 24 in the paper.
        """
        lengths = tuple(side**2 for side in scales)
        super().__init__(
            cond_dim=cond_dim, width=width, depth=depth, heads=heads, lengths=lengths, vocab=vocab, told=channels,
            mlp_ratio=mlp_ratio, unit=unit, null=null, nulls=nulls, drop_path=drop_path,
        )  # fmt: skip
        self.scales = tuple(scales)
        self.settings = {
            "cond_dim": cond_dim, "width": width, "depth": depth, "heads": heads, "scales": list(scales),
            "vocab": vocab, "channels": channels, "mlp_ratio": mlp_ratio, "unit": unit, "null": null, "nulls": nulls,
            "drop_path": drop_path,
        }  # fmt: skip

    def load_official_(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of VAR-CLIP's own transformer, by the names of its ``models/var.py``.

        Raises:
            InputError: a name or a shape that does not fit; it names it.
        """
        found = {_renamed(name): value for name, value in state.items() if not name.endswith("zero_k_bias")}
        for block in range(len(self.blocks)):
            at = f"blocks.{block}."
            if f"{at}scale" in found:
                found[f"{at}scale"] = found[f"{at}scale"].flatten()
        for name in ("start", "positions"):
            if name in found:
                found[name] = found[name].squeeze(0)
        if "null" in found:
            found["null"] = found["null"].flatten()
        own = self.state_dict()
        for name in sorted(found.keys() ^ own.keys()):
            raise InputError(f"state: {name} is {'unknown' if name in found else 'missing'}: another architecture")
        for name, value in found.items():
            if value.shape != own[name].shape:
                raise InputError(f"state: {name}: expected {tuple(own[name].shape)}, got {tuple(value.shape)}")
        self.load_state_dict(found)


_NAMES = (
    ("pos_start", "start"), ("pos_1LC", "positions"), ("lvl_embed.weight", "levels"), ("word_embed.", "told."),
    ("noise.weight", "null"), ("cond_proj.", "cond."), ("head_nm.ada_lin.1.", "out_norm."), ("head.", "out."),
    ("attn.mat_qkv.", "qkv."), ("attn.q_bias", "q_bias"), ("attn.v_bias", "v_bias"), ("attn.proj.", "out."),
    ("attn.scale_mul_1H11", "scale"), ("ffn.fc1.", "up."), ("ffn.fc2.", "back."), ("ada_lin.1.", "about."),
)  # fmt: skip


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES:
        if theirs in name:
            return name.replace(theirs, ours)
    return name


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=_EPS)


class _LevelBlock(nn.Module):
    """Attention and two layers, each behind a norm that a vector shifts and scales, and gated by it."""

    def __init__(self, width: int, heads: int, inner: int, *, unit: bool, drop: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.full((heads,), math.log(4))) if unit else None
        self.out = nn.Linear(width, width)
        self.up, self.back = nn.Linear(width, inner), nn.Linear(inner, width)
        self.about = nn.Linear(width, 6 * width)

    def forward(
        self,
        x: Tensor,
        about: Tensor,
        *,
        bias: Tensor | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Positions a block later, and keys and values of all so far."""
        gate, gate2, scale, scale2, shift, shift2 = about.chunk(6, dim=-1)
        looked, seen = self._attend(_normed(x) * (1 + scale) + shift, bias, memory)
        x = x + self._dropped(gate * looked)
        inner = F.gelu(self.up(_normed(x) * (1 + scale2) + shift2), approximate="tanh")
        return x + self._dropped(gate2 * self.back(inner)), seen

    def _attend(
        self, x: Tensor, bias: Tensor | None, memory: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        no_bias = torch.zeros_like(self.q_bias)
        rows = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, no_bias, self.v_bias]))
        q, k, v = rows.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        by = 0.25 / math.sqrt(q.shape[-1])
        if self.scale is not None:
            q = F.normalize(q, dim=-1) * self.scale.clamp(max=math.log(_LARGEST)).exp()[:, None, None]
            k, by = F.normalize(k, dim=-1), 1.0
        if memory is not None:
            k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=by)
        return self.out(found.transpose(1, 2).flatten(2)), (k, v)

    def _dropped(self, x: Tensor) -> Tensor:
        """The batch without some rows, what is left grown in proportion."""
        if not (self.drop and self.training):
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
        return x * kept / (1 - self.drop)
