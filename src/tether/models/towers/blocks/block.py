"""The one transformer block: attention, then a feed-forward net, each with its norms and its skip."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.towers.blocks.attention import ATTENTION, AttentionCore
from tether.models.towers.blocks.grid import Grid, GridConv
from tether.models.towers.blocks.layers import ACTIVATIONS, NORMS, Linear, linear
from tether.models.towers.blocks.mirror_gate import check_open
from tether.models.towers.blocks.moe import MoeConfig, MoEMlp, Tallies
from tether.models.towers.blocks.options import BlockConfig as BlockConfig
from tether.models.towers.blocks.options import Place
from tether.models.towers.blocks.packed_sequences import Pool, Runs, pooled
from tether.models.towers.blocks.rope import ROPE, Turn
from tether.models.towers.blocks.trace import Trace

LEAST_GATE = 1e-6  # arXiv 2506.21103: the log of a closed gate is taken here


class TransformerBlock(nn.Module):
    """Multi-head attention and a feed-forward net around one residual stream.

    For each of the two, with f the sublayer: ``y = post(skip * x + out(f(pre(x))))``, every norm optional
    (NormFormer arXiv 2110.09456, HybridNorm 2503.04598, Skip-the-Middle 2506.21103, NaLaFormer 2506.21137 are settings
    of it).
    """

    @checked
    def __init__(
        self, width: int, *, heads: int, hidden: Count, config: BlockConfig, moe: MoeConfig | None = None
    ) -> None:
        """Build the layers; linear weights stay unset.

        Args:
            width: channels of the stream.
            heads: query heads; must divide the width.
            hidden: width of the feed-forward net.
            config: the block's options.
            moe: experts in place of the feed-forward net; None for one net.
        """
        super().__init__()
        config.check(width=width, heads=heads)
        kv_heads = config.kv_heads or heads
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.attends = config.attention != "none"
        self.core, self.rope = ATTENTION.get(config.attention, ATTENTION["softmax"]), ROPE[config.rope]
        self.rope_theta = config.rope_theta
        self.needs_grid, self.skippable, self.gated_key = config.needs_grid, config.skippable, config.gated_key
        self.activation = ACTIVATIONS[config.activation]

        def norm(place: str, places: tuple[Place, ...], size: int) -> nn.Module | None:
            return NORMS[config.norm](size, eps=config.norm_eps) if place in places else None

        def conv(side: int, channels: int) -> GridConv | None:
            return GridConv(channels, side=side) if side else None

        def head_norm(letter: str) -> nn.Module | None:
            return NORMS[config.norm](self.head_width, eps=config.norm_eps) if letter in config.qkv_norm else None

        self.attn_conv, self.ffn_conv = conv(config.position_conv, width), conv(config.position_conv, width)
        self.lepe, self.mid_conv = conv(config.lepe, width), conv(config.ffn_conv, hidden)
        self.attn_pre = norm("pre", config.attn_norm, width)
        if self.attends:
            self.qkv = Linear(width, (heads + 2 * kv_heads) * self.head_width, bias=config.bias)
        self.q_norm, self.k_norm, self.v_norm, self.c_norm = (head_norm(letter) for letter in "qkvc")
        self.ctx_norm = NORMS[config.norm](width, eps=config.ctx_norm_eps) if config.ctx_norm else None
        self.out_gate = Linear(width, width, bias=config.bias) if config.out_gate else None
        if self.attends:
            self.proj = Linear(width, width, bias=config.bias)
        self.attn_out = norm("out", config.attn_norm, width)
        self.attn_post = norm("post", config.attn_norm, width)
        self.ffn_pre = norm("pre", config.ffn_norm, width)
        self.experts = None
        if moe is not None:
            self.experts = MoEMlp(width, hidden, config=moe, activation=config.activation, bias=config.bias)
        else:
            self.up = Linear(width, hidden * (2 if config.activation == "swiglu" else 1), bias=config.bias)
        self.ffn_mid = NORMS[config.norm](hidden, eps=config.norm_eps) if config.ffn_mid_norm else None
        if moe is None:
            self.down = Linear(hidden, width, bias=config.bias)
        self.ffn_out = norm("out", config.ffn_norm, width)
        self.ffn_post = norm("post", config.ffn_norm, width)
        self.head_scale_place = config.head_scale
        self.head_scale = None if config.head_scale == "none" else nn.Parameter(torch.ones(heads))
        self.residual_scale = nn.Parameter(torch.ones(width)) if config.residual_scale else None

        def scale() -> nn.Parameter | None:
            return None if config.layer_scale is None else nn.Parameter(torch.full((width,), config.layer_scale))

        self.attn_scale, self.ffn_scale = scale() if self.attends else None, scale()

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool,
        runs: Runs | None = None,
        bias: Tensor | None = None,
        gate: Tensor | None = None,
        grid: Grid | None = None,
        pool: Pool = "all",
        reads: Tensor | None = None,
        trace: Trace | None = None,
        name: str = "",
        real: Tensor | None = None,
        tallies: Tallies | None = None,
    ) -> Tensor:
        """One block.

        Args:
            x: (b, n, width), or (t, width) packed as ``runs`` says.
            causal: whether a token sees only itself and what stands before it.
            runs: the cut of a packed stream; None for a padded one.
            bias: added to the scores, broadcastable to (b, heads, m, n); only for a padded stream.
            gate: (b, n) in [0, 1], or packed (t,): how much of this block each token takes; unless the block was told
                otherwise, a token is hidden as a key as far as its gate is closed.
            grid: where the tokens of an image stand; needed by ``2d`` rope and the convolutions.
            pool: ``all`` tokens are computed, or only the ``first`` or ``last`` of each sequence, or the one at the
                index given for each (b,).
            reads: (b,) index of the pooling token, for the trace only; None means token 0.
            trace: recorder of inner values; only for a padded stream.
            name: prefix of this block's values in the trace.
            real: (b, n) False for padding, for experts alone; None is all.
            tallies: collects what experts count.

        Returns:
            Like ``x``; with one token per sequence (b, 1, width), packed (number of sequences, width).
        """
        if trace is not None:
            x = trace.visit(f"{name}.input", x)
        if self.needs_grid and (grid is None or runs is not None):
            raise InputError("grid: 2d rope and convolutions need the padded tokens of an image and their grid")
        if gate is not None:
            self._check_gate(gate, x)
        if self.attn_conv is not None and grid is not None:
            x = x + self.attn_conv(x, grid=grid)
        own = gate if gate is None else pooled(gate[..., None], runs=runs, pool=pool).to(x.dtype)
        around = grid if isinstance(pool, str) and pool == "all" else None
        routed: dict[str, Any] = {}
        if self.experts is not None:
            if not isinstance(pool, str) or pool != "all":
                raise InputError("pool: experts are given out over whole sequences; compute all tokens")
            routed = {"real": real, "lengths": None if runs is None else runs.each(x.device), "tallies": tallies}
        if not self.attends:
            x = _apply(self.attn_post, pooled(x, runs=runs, pool=pool))
            return self._feed_forward(x, gate=own, grid=around, **routed)
        normed = _apply(self.attn_pre, x)
        x = pooled(x, runs=runs, pool=pool)
        query, key_value = self._project(normed, runs=runs, pool=pool)
        closed = None if gate is None or self.gated_key == "seen" else gate.clamp(min=LEAST_GATE).log()
        if runs is None:
            if closed is not None:
                closed = closed[:, None, None, :]
                bias = closed if bias is None else bias + closed
            heads = self._attend(
                query, key_value, causal=causal, bias=bias, grid=grid, pool=pool, reads=reads, trace=trace, name=name
            )
        else:
            key_values = key_value.split(runs.sizes)
            queries = key_values if query is key_value else query.split(list(runs.rows))
            biases = [None] * len(runs.rows) if closed is None else closed.split(runs.sizes)
            parts = zip(queries, key_values, biases, runs.rows, strict=True)
            heads = torch.cat(
                [
                    self._attend(
                        q.unflatten(0, (rows, -1)),
                        kv.unflatten(0, (rows, -1)),
                        causal=causal,
                        bias=None if log is None else log.view(rows, 1, 1, -1),
                    ).flatten(0, 1)
                    for q, kv, log, rows in parts
                ]
            )
        heads = _apply(self.ctx_norm, heads)
        if self.out_gate is not None:
            heads = heads * F.silu(self.out_gate(pooled(normed, runs=runs, pool=pool)))
        branch = self.proj(heads)
        if self.head_scale is not None and self.head_scale_place == "after_proj":
            branch = (branch.unflatten(-1, (self.heads, -1)) * self.head_scale[:, None]).flatten(-2)
        branch = _scaled(_apply(self.attn_out, branch), self.attn_scale)
        x = _apply(self.attn_post, x + (branch if own is None else own * branch))
        return self._feed_forward(x, gate=own, grid=around, **routed)

    def _check_gate(self, gate: Tensor, x: Tensor) -> None:
        if not self.skippable:
            raise InputError("gate: a block with post norms, residual_scale or convolutions cannot be skipped")
        if gate.shape != x.shape[:-1]:
            raise InputError(f"gate: expected {tuple(x.shape[:-1])}, one for each token, got {tuple(gate.shape)}")
        check_open(gate, name="gate")

    def _project(self, x: Tensor, *, runs: Runs | None, pool: Pool) -> tuple[Tensor, Tensor]:
        """Queries of the computed tokens (..., heads * d); keys and values of all (..., 2 * kv_heads * d).

        If all are computed, both are the same tensor (..., (heads + 2 * kv_heads) * d): cut once, its gradient is put
        together once.
        """
        if isinstance(pool, str) and pool == "all":
            whole = self.qkv(x)
            return whole, whole
        sizes = [self.heads * self.head_width, 2 * self.kv_heads * self.head_width]
        if isinstance(self.qkv, Linear):
            rows = self.qkv.weight.split(sizes)
            offsets = (None, None) if self.qkv.bias is None else self.qkv.bias.split(sizes)
            query = linear(pooled(x, runs=runs, pool=pool), rows[0], offsets[0])
            key_value = linear(x, rows[1], offsets[1])
        else:  # an adapter stands in for the layer: let it see every token
            query, key_value = self.qkv(x).split(sizes, dim=-1)
            query = pooled(query, runs=runs, pool=pool)
        return query, key_value

    def _attend(
        self,
        query: Tensor,
        key_value: Tensor,
        *,
        causal: bool,
        bias: Tensor | None = None,
        grid: Grid | None = None,
        pool: Pool = "all",
        reads: Tensor | None = None,
        trace: Trace | None = None,
        name: str = "",
    ) -> Tensor:
        """What ``_project`` gave, (b, m, ...) and (b, n, ...), to (b, m, heads * d)."""
        n = key_value.shape[1]
        q, k, v, turn = self._split(query, key_value, grid=grid, pool=pool)
        if trace is not None and trace.wants(f"{name}.attention"):
            trace.visit(f"{name}.attention", _reading(self.core, q, k, causal=causal, bias=bias, reads=reads))
        if isinstance(pool, Tensor) and causal:
            later = _hide(torch.arange(n, device=k.device) > pool[:, None], q.dtype)[:, None, None]
            bias = later if bias is None else bias + later
        if causal and isinstance(pool, str) and pool == "first":
            raise InputError("pool: a causal block cannot pool its first token; expected all, last or an index")
        heads = self.core(q, k, v, causal=causal and isinstance(pool, str), bias=bias, turn=turn)
        heads = _apply(self.c_norm, heads)
        if self.head_scale is not None and self.head_scale_place == "heads":
            heads = heads * self.head_scale[:, None, None]
        if trace is not None:
            heads = trace.visit(f"{name}.heads", heads)
        heads = heads.transpose(1, 2).flatten(2)
        if self.lepe is not None and grid is not None:
            near = self.lepe(v.transpose(1, 2).flatten(2), grid=grid)
            heads = heads + pooled(near, runs=None, pool=pool).to(heads.dtype)
        return heads

    def heads_of(self, normed: Tensor, *, grid: Grid | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (b, n, width) normed tokens, (b, heads, n, d) as attention takes them."""
        whole = self.qkv(normed)
        return self._split(whole, whole, grid=grid, pool="all")[:3]

    def _split(
        self, query: Tensor, key_value: Tensor, *, grid: Grid | None, pool: Pool
    ) -> tuple[Tensor, Tensor, Tensor, Turn | None]:
        """Heads with their norms and turns, and the turn that is left to the attention core."""
        heads, kv_heads = key_value.unflatten(-1, (-1, self.head_width)), self.kv_heads
        if key_value.shape[-1] == 2 * kv_heads * self.head_width:
            q, (k, v) = query.unflatten(-1, (self.heads, -1)), heads.split(kv_heads, dim=2)
        else:
            q, k, v = heads.split([self.heads, kv_heads, kv_heads], dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k, v = _apply(self.q_norm, q), _apply(self.k_norm, k), _apply(self.v_norm, v)
        turn = self._turn(k.shape[2], asked=q.shape[2], grid=grid, pool=pool, device=k.device)
        if turn is not None and self.core.turns == "inputs":
            q, k, turn = turn.queries(q), turn.keys(k), None
        if kv_heads != self.heads:
            k, v = (part.repeat_interleave(self.heads // kv_heads, dim=1) for part in (k, v))
        return q, k, v, turn

    def _turn(self, n: int, *, asked: int, grid: Grid | None, pool: Pool, device: torch.device) -> Turn | None:
        """Positions of n keys and of the queries among them, or None when the block turns nothing."""
        if not self.rope.axes:
            return None
        if grid is None:
            held = torch.arange(n, device=device)
        else:
            held = grid.places(device) if self.rope.axes == 1 else grid.positions(device)
        if asked == n:
            return Turn(self.rope, self.rope_theta, held, held)
        if isinstance(pool, Tensor):
            if grid is not None:
                raise InputError("pool: the tokens of an image are computed all, or the first or the last alone")
            return Turn(self.rope, self.rope_theta, pool[:, None], held)
        at = 0 if pool == "first" else n - 1
        return Turn(self.rope, self.rope_theta, held.narrow(-self.rope.axes, at, 1), held)

    def _feed_forward(self, x: Tensor, *, gate: Tensor | None, grid: Grid | None, **routed: Any) -> Tensor:
        """The second half; without a grid the tokens are those that have no place in it."""
        if self.ffn_conv is not None:
            near = self.ffn_conv.nothing() if grid is None else self.ffn_conv(x, grid=grid)
            x = x + near.to(x.dtype)
        branch = self.feed_forward(x, grid=grid, **routed)
        skip = x if self.residual_scale is None else self.residual_scale * x
        return _apply(self.ffn_post, skip + (branch if gate is None else gate * branch))

    def feed_forward(
        self,
        x: Tensor,
        *,
        grid: Grid | None = None,
        real: Tensor | None = None,
        lengths: Tensor | None = None,
        tallies: Tallies | None = None,
    ) -> Tensor:
        """What the feed-forward net, or its experts, add to the stream, with its norms and its scale."""
        normed = _apply(self.ffn_pre, x)
        if self.experts is not None:
            rows, tally = self.experts(normed, real=real, lengths=lengths)
            if tallies is not None:
                tallies.found.append(tally)
            return _scaled(_apply(self.ffn_out, rows), self.ffn_scale)
        hidden = self.activation(self.up(normed))
        if self.mid_conv is not None:
            near = self.mid_conv.nothing() if grid is None else self.mid_conv(hidden, grid=grid)
            hidden = hidden + near.to(hidden.dtype)
        return _scaled(_apply(self.ffn_out, self.down(_apply(self.ffn_mid, hidden))), self.ffn_scale)


def _reading(
    core: AttentionCore, q: Tensor, k: Tensor, *, causal: bool, bias: Tensor | None, reads: Tensor | None
) -> Tensor:
    """(b, heads, n) weights of the pooling token over the keys, in float32 or wider."""
    rows, n = torch.arange(len(q), device=q.device), k.shape[2]
    at = torch.zeros_like(rows) if reads is None else reads
    query = q[:, :, 0] if q.shape[2] == 1 else q[rows, :, at]
    if bias is not None:
        bias = bias.expand(len(q), -1, -1, -1)
        bias = bias[:, :, :1] if bias.shape[2] == 1 else bias[rows, :, at][:, :, None]
    if causal:
        later = _hide(torch.arange(n, device=q.device) > at[:, None], torch.float32)[:, None, None]
        bias = later if bias is None else bias + later
    return core.weights(query[:, :, None], k, bias=bias)[:, :, 0]


def _apply(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _hide(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """True becomes minus infinity, False zero."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, -torch.inf)


def _scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else factor.to(x.dtype) * x
