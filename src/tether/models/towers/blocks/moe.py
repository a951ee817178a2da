"""A feed-forward net of several experts, of which each token asks a few; each sequence is routed by itself."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, PositiveSingle, Whole, checked
from tether.models.towers.blocks.layers import ACTIVATIONS, linear

Experts = Annotated[int, Ge(1), Le(1024)]
ROUTER_STD = 0.02
"""Of a new router's weights."""
TALLIED = ("groups", "load_balance", "tokens", "router_z", "choices", "dropped")
"""Columns of a tally, before one for each expert: how many choices fell on it."""
_LEAST = 1e-9  # added to the sum of the gates that are divided by it, as axlearn does


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """Which blocks of a tower have experts in place of their feed-forward net, and how these are asked.

    Attributes:
        blocks: rising indices of the blocks; none by default.
        experts: how many a block has.
        top_k: how many of them a token asks.
        capacity_factor: an expert takes at most ``tokens * capacity_factor / experts`` tokens of a sequence, at least
            one; those beyond pass unchanged. As many as there are ``experts`` drops nothing.
        eval_capacity_factor: in evaluation; None is the same.
        gates: ``shares`` of the chosen experts add up to 1; ``probabilities`` are those of the softmax over all of
            them, which a single choice needs to learn anything.
        balanced: what the balance loss counts: ``all`` choices, or only the ``first`` ones.
    """

    blocks: tuple[Whole, ...] = ()
    experts: Experts = 8
    top_k: Count = 2
    capacity_factor: PositiveSingle = 2.0
    eval_capacity_factor: PositiveSingle | None = None
    gates: Literal["shares", "probabilities"] = "shares"
    balanced: Literal["all", "first"] = "all"

    def __post_init__(self) -> None:
        """Refuse more choices than experts, and indices that do not rise."""
        blocks = tuple(self.blocks)
        if list(blocks) != sorted(set(blocks)):
            raise InputError(f"blocks: expected rising indices, got {blocks}")
        object.__setattr__(self, "blocks", blocks)
        if self.top_k > self.experts:
            raise InputError(f"top_k: expected at most experts={self.experts}, got {self.top_k}")
        if self.top_k == 1 and self.gates == "shares" and self.experts > 1:
            warnings.warn(
                "top_k 1 with gates 'shares': the gate is always 1, so the router learns nothing from the loss; take "
                "gates='probabilities'",
                stacklevel=3,
            )


class Routing(NamedTuple):
    """Where the tokens of several sequences go.

    Attributes:
        chosen: (t, k) experts of each token, the most probable first; of equal ones the smaller number.
        gates: (t, k) what each is multiplied by; 0 where the expert was full.
        kept: (t, k) whether there was a slot.
        tally: sums by ``TALLIED``, then the choices of each expert; those of two batches add up. ``load_balance`` and
            ``router_z`` have a gradient to the router.
    """

    chosen: Int[Tensor, "t k"]
    gates: Float[Tensor, "t k"]
    kept: Bool[Tensor, "t k"]
    tally: Float[Tensor, " n"]


def route(
    logits: Float[Tensor, "t e"],
    *,
    group: Int[Tensor, " t"],
    groups: int,
    config: MoeConfig,
    capacity_factor: float,
    real: Bool[Tensor, " t"] | None = None,
) -> Routing:
    """Give each token its experts: all first choices in the order of the tokens, then all second ones, and so on.

    Args:
        logits: of the router, at least float32.
        group: number of each token's sequence, rising. Sequences do not see each other.
        groups: how many sequences there are.
        config: of the experts.
        capacity_factor: that of training or of evaluation.
        real: False for padding, which takes no slot and does not count; None is all.
    """
    count, experts = logits.shape[-1], config.top_k
    probabilities = logits.softmax(dim=-1)
    ranked = probabilities.detach().sort(dim=-1, descending=True, stable=True).indices
    chosen = ranked[:, :experts]
    gates = probabilities.gather(1, chosen)
    if config.gates == "shares":
        gates = gates / (gates.sum(dim=-1, keepdim=True) + _LEAST)
    counted = torch.ones_like(group) if real is None else real.to(group.dtype)
    tokens = torch.zeros(groups, dtype=group.dtype, device=group.device).index_add(0, group, counted)
    slots_each = (tokens.double() * float(capacity_factor) / count).floor()
    capacity = slots_each.minimum(tokens).clamp(min=1).to(group.dtype)[group]
    begins = torch.searchsorted(group, torch.arange(groups, device=group.device))
    taken = torch.zeros(groups, count, dtype=group.dtype, device=group.device)
    kept = []
    for choice in chosen.unbind(1):
        asked = F.one_hot(choice, count) * counted[:, None]
        before = F.pad(asked.cumsum(dim=0), (0, 0, 1, 0))
        place = (before[1:] - before[begins][group] + taken[group]).gather(1, choice[:, None])[:, 0]
        kept.append((place <= capacity) & counted.bool())
        taken = taken.index_add(0, group, asked)
    slots = torch.stack(kept, dim=1)
    tally = _tally(logits, probabilities, chosen, slots, group=group, tokens=tokens, counted=counted, config=config)
    return Routing(chosen, gates * slots, slots, tally)


def _tally(
    logits: Tensor,
    probabilities: Tensor,
    chosen: Tensor,
    kept: Tensor,
    *,
    group: Tensor,
    tokens: Tensor,
    counted: Tensor,
    config: MoeConfig,
) -> Tensor:
    """See ``Routing``; a sequence without a real token counts as none."""
    count, kind = logits.shape[-1], logits.dtype
    asked = F.one_hot(chosen, count) * counted[:, None, None]
    looked_at = asked[:, :1] if config.balanced == "first" else asked
    shares = torch.zeros(len(tokens), count, dtype=kind, device=logits.device)
    each = tokens.clamp(min=1).to(kind)[:, None]
    shares = shares.index_add(0, group, looked_at.sum(1).to(kind)) / (each * looked_at.shape[1])
    means = torch.zeros_like(shares).index_add(0, group, probabilities * counted[:, None]) / each
    balance = count * (shares * means).sum()
    surprise = (logits.logsumexp(dim=-1).square() * counted).sum()
    dropped = (~kept & counted.bool()[:, None]).sum()
    sums = [(tokens > 0).sum(), balance, tokens.sum(), surprise, asked.sum(), dropped]
    return torch.cat([torch.stack([one.to(kind) for one in sums]), asked.sum((0, 1)).to(kind)])


class ExpertOutput(NamedTuple):
    """What a ``MoEMlp`` gives.

    Attributes:
        rows: what is added to the stream, in the shape of its input.
        tally: see ``Routing``; ``expert_losses`` makes means of it.
    """

    rows: Float[Tensor, "... w"]
    tally: Float[Tensor, " n"]


@dataclass(slots=True)
class Tallies:
    """Collects the tallies of a tower's blocks in order."""

    found: list[Tensor] = field(default_factory=list)


class MoEMlp(nn.Module):
    """Several feed-forward nets and a router that sends each token to a few of them.

    A token's output is the sum of its experts' outputs, each times its gate; a token that found no slot gets 0, so that
    the stream goes past unchanged. Each sequence is routed by itself: no row changes another one. The router works in
    float32 under any autocast.

    Source: CLIP-UP, arXiv 2502.00965; no code of it is public, so the rules are those of apple/axlearn's
    ``mixture_of_experts.py`` (commit 34aed43). It counts padding; here only with ``padding="counted"``.

    Example:
        >>> import torch
        >>> from tether.models.towers.blocks.moe import MoeConfig, MoEMlp, expert_losses
        >>> up, down = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
        >>> moe = MoEMlp.from_dense(up, down, config=MoeConfig(experts=4, capacity_factor=4.0))
        >>> x = torch.randn(2, 5, 8)
        >>> rows, tally = moe(x)
        >>> torch.allclose(rows, down(torch.nn.functional.gelu(up(x))), atol=1e-5)
        True
        >>> sorted(expert_losses(tally))
        ['dropped', 'load_balance', 'router_z', 'top_share']
    """

    undecayed = ("router", "up_bias", "down_bias")

    @checked
    def __init__(
        self,
        width: Count,
        hidden: Count,
        *,
        config: MoeConfig,
        activation: str = "gelu",
        bias: bool = True,
        padding: Literal["skipped", "counted"] = "skipped",
    ) -> None:
        """Build the layers; weights stay unset.

        Args:
            width: channels of the stream.
            hidden: of each expert.
            config: how many there are and how they are asked; its ``blocks`` do not matter here.
            activation: a name in ``ACTIVATIONS``.
            bias: whether the experts' layers have one; the router has none.
            padding: ``counted`` gives padding slots and a place in all means, as axlearn does.
        """
        super().__init__()
        self.config, experts = config, config.experts
        self.padding, self.activation = padding, ACTIVATIONS[activation]
        wide = hidden * (2 if activation == "swiglu" else 1)
        self.router = nn.Parameter(torch.empty(width, experts))
        self.up = nn.Parameter(torch.empty(experts, wide, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))
        self.up_bias = nn.Parameter(torch.empty(experts, wide)) if bias else None
        self.down_bias = nn.Parameter(torch.empty(experts, width)) if bias else None

    @classmethod
    def from_dense(
        cls,
        up: nn.Linear,
        down: nn.Linear,
        *,
        config: MoeConfig,
        activation: str = "gelu",
        generator: torch.Generator | None = None,
    ) -> MoEMlp:
        """Experts that are all copies of one feed-forward net, behind a router drawn at random.

        Args:
            up: its first layer.
            down: its second.
            config: of the experts.
            activation: between the two, a name in ``ACTIVATIONS``.
            generator: of the router.
        """
        bias = up.bias is not None
        made = cls(up.in_features, down.in_features, config=config, activation=activation, bias=bias).to(up.weight)
        layers = nn.ModuleDict({"up": up, "down": down})
        made.copy_dense_(dict(layers.named_parameters()))
        made.draw_router_(generator)
        return made

    @torch.no_grad()
    def copy_dense_(self, weights: dict[str, Tensor]) -> None:
        """Make every expert a copy of one feed-forward net: ``up.weight``, ``down.weight`` and their biases."""
        for name in ("up", "down"):
            getattr(self, name).copy_(weights[f"{name}.weight"].expand_as(getattr(self, name)))
            bias = getattr(self, f"{name}_bias")
            if bias is not None:
                bias.copy_(weights[f"{name}.bias"].expand_as(bias))

    @torch.no_grad()
    def draw_router_(self, generator: torch.Generator | None) -> None:
        """New weights for the router."""
        drawn = torch.randn(self.router.shape, generator=generator) * ROUTER_STD
        self.router.copy_(drawn)

    @torch.no_grad()
    def initialise_(self, *, up_std: float, down_std: float, generator: torch.Generator) -> None:
        """Draw every expert, normal with these deviations and without biases, and the router."""
        for weight, bias, std in ((self.up, self.up_bias, up_std), (self.down, self.down_bias, down_std)):
            nn.init.normal_(weight, std=std, generator=generator)
            if bias is not None:
                bias.zero_()
        self.draw_router_(generator)

    def forward(
        self,
        x: Float[Tensor, "... w"],
        *,
        real: Bool[Tensor, "g s"] | None = None,
        lengths: Int[Tensor, " g"] | None = None,
    ) -> ExpertOutput:
        """What the experts add to the stream.

        Args:
            x: (g, s, width) tokens of g sequences, or (t, width) packed ones.
            real: (g, s) False for padding; None is all.
            lengths: (g,) tokens of each packed sequence.
        """
        if torch.compiler.is_exporting():
            raise InputError("its experts each take the tokens that chose them, and a graph knows no such numbers")
        flat = x.reshape(-1, x.shape[-1])
        if lengths is None:
            groups, size = x.shape[0], x.shape[1]
            group = torch.arange(groups, device=x.device).repeat_interleave(size)
        else:
            groups = len(lengths)
            group = torch.arange(groups, device=x.device).repeat_interleave(lengths)
        seen = real.flatten() if real is not None and self.padding == "skipped" else None
        own, given = self.config, self.config.eval_capacity_factor
        factor = own.capacity_factor if self.training or given is None else given
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            logits = flat.to(wide) @ self.router.to(wide)
            found = route(logits, group=group, groups=groups, config=own, capacity_factor=factor, real=seen)
        out: Tensor | None = None
        for number in range(own.experts):
            token, choice = ((found.chosen == number) & found.kept).nonzero(as_tuple=True)
            said = self._expert(number, flat[token])
            part = said * found.gates[token, choice, None].to(said.dtype)
            out = part.new_zeros(flat.shape) if out is None else out
            out = out.index_add(0, token, part)
        assert out is not None  # there is an expert
        return ExpertOutput(out.view(x.shape), found.tally)

    def _expert(self, number: int, x: Tensor) -> Tensor:
        biases = [None if bias is None else bias[number] for bias in (self.up_bias, self.down_bias)]
        return linear(self.activation(linear(x, self.up[number], biases[0])), self.down[number], biases[1])


def expert_losses(tally: Float[Tensor, "... n"]) -> dict[str, Float[Tensor, ""]]:
    """Means of a tally's sums: two losses with gradient, and two figures to watch.

    Args:
        tally: see ``Routing``, of one layer, or (layers, n) of several, whose means are averaged.

    Returns:
        ``load_balance``, 1 where all is even; ``router_z``, the mean square of the logits' log-sum-exp; ``dropped``,
        the share of choices without a slot; and ``top_share``, that of the choices that fell on the busiest expert.
        All are 0 where there was no token but padding.
    """
    groups, balance, tokens, surprise, choices, dropped = tally[..., : len(TALLIED)].unbind(-1)
    groups, tokens, choices = (count.clamp(min=1) for count in (groups, tokens, choices))
    busiest = tally[..., len(TALLIED) :].amax(dim=-1)
    return {
        "load_balance": (balance / groups).mean(),
        "router_z": (surprise / tokens).mean(),
        "dropped": (dropped / choices).detach().mean(),
        "top_share": (busiest / choices).detach().mean(),
    }
