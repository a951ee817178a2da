"""A trained model whose feed-forward nets become mixtures of experts that start as copies of them (CLIP-UP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from torch import nn

from tether.core.errors import InputError
from tether.core.ranges import Count, PositiveSingle, Whole, checked
from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.blocks.moe import Experts, MoeConfig, MoEMlp
from tether.models.towers.clip import Clip

TowerName = Literal["visual", "text"]
TOWERS: Mapping[TowerName, str] = {"visual": "vision", "text": "text"}
"""Towers of a ``Clip``, and what its configuration calls them."""


@checked
def upcycle(
    model: nn.Module,
    *,
    experts: Experts = 8,
    top_k: Count = 2,
    capacity_factor: PositiveSingle = 2.0,
    eval_capacity_factor: PositiveSingle | None = None,
    gates: Literal["shares", "probabilities"] = "shares",
    balanced: Literal["all", "first"] = "all",
    blocks: Literal["every_other", "all"] | Sequence[Whole] = "every_other",
    towers: Annotated[Sequence[TowerName], MinLen(1)] = ("visual", "text"),
    seed: Whole = 0,
) -> Clip:
    """A copy of a model with experts in place of some feed-forward nets, each expert a copy of the net it replaces.

    All other weights and the logit scale are taken over; only the routers are drawn, normal with deviation 0.02. Where
    the ``gates`` are shares and no expert is ever full (``capacity_factor`` as large as ``experts``), the copy gives
    the embeddings of the model. Train it on with the term ``experts`` and a small learning rate.

    Args:
        model: a dense model of Tether's own make; it stays as it is.
        experts: see ``MoeConfig``.
        top_k: see ``MoeConfig``.
        capacity_factor: see ``MoeConfig``.
        eval_capacity_factor: see ``MoeConfig``.
        gates: see ``MoeConfig``.
        balanced: see ``MoeConfig``.
        blocks: ``every_other``, the last one included; ``all``; or indices, of both towers. In the last block only the
            experts of the token that is read (class or end token) learn from a loss on the embeddings.
        towers: which get experts; a shared tower is both.
        seed: of the routers.

    Raises:
        InputError: a model that has experts already or is not of Tether's own make, more choices than experts, or
            indices that a tower does not have.

    Source: arXiv 2502.00965; which blocks, how many experts and which capacity are not published with code.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.clip_up.upcycle import expert_costs, upcycle
        >>> dense = create("tiny").eval()
        >>> sparse = upcycle(dense, experts=4, capacity_factor=4.0).eval()
        >>> image = torch.rand(2, 3, 32, 32)
        >>> torch.allclose(sparse.encode_image(image).pooled, dense.encode_image(image).pooled, atol=1e-5)
        True
        >>> costs = expert_costs(sparse)
        >>> costs.active < costs.parameters, costs.feed_forward
        (True, 1.5)
    """
    if not isinstance(model, Clip):
        raise InputError(
            f"upcycle: expected a model of Tether's own make, got {type(model).__name__}, whose blocks are another "
            "library's"
        )
    config = model.config
    if config.vision.moe.blocks or config.text.moe.blocks:
        raise InputError("upcycle: the model has experts already")
    names = list(TOWERS.values()) if config.towers == "shared" else [TOWERS[tower] for tower in towers]
    settings: dict[str, Any] = {"experts": experts, "top_k": top_k, "gates": gates, "balanced": balanced}
    settings |= {"capacity_factor": capacity_factor, "eval_capacity_factor": eval_capacity_factor}
    changed = {}
    for name in dict.fromkeys(names):
        tower = getattr(config, name)
        chosen = _chosen(blocks, layers=tower.layers)
        changed[name] = replace(tower, moe=MoeConfig(blocks=chosen, **settings))
    made = Clip(replace(config, **changed), tokenizer=model.tokenizer).to(model.logit_scale)
    _carry_over(model, made, seed=seed)
    return made.train(model.training)


def _chosen(blocks: str | Sequence[int], *, layers: int) -> tuple[int, ...]:
    if blocks == "every_other":
        return tuple(range((layers - 1) % 2, layers, 2))
    if isinstance(blocks, str):
        return tuple(range(layers))
    if not blocks:
        raise InputError("blocks: expected at least one index, got none")
    return tuple(sorted(blocks))


@torch.no_grad()
def _carry_over(model: Clip, made: Clip, *, seed: int) -> None:
    """The dense model's weights, those of each feed-forward net once for every expert, and new routers."""
    dense, sparse = model.state_dict(), made.state_dict()
    made.load_state_dict({name: value for name, value in dense.items() if name in sparse}, strict=False)
    generator = torch.Generator().manual_seed(seed)
    for name, module in made.named_modules():
        if isinstance(module, MoEMlp):
            block = name.rpartition(".")[0]
            weights = {key.removeprefix(f"{block}."): value for key, value in dense.items() if key.startswith(block)}
            module.copy_dense_(weights)
            module.draw_router_(generator)


@dataclass(frozen=True, slots=True)
class ExpertCosts:
    """What experts cost.

    Attributes:
        parameters: of the whole model.
        active: of them, those that one token meets: of each block's experts only the chosen ones.
        feed_forward: multiplications in feed-forward nets, as a multiple of the dense model's; at most, for choices
            beyond the capacity are not computed.
    """

    parameters: int
    active: int
    feed_forward: float


def expert_costs(model: Clip) -> ExpertCosts:
    """Size and cost of a model with experts; one without has all parameters active.

    Args:
        model: a model of Tether's own make.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    active, dense, sparse = parameters, 0, 0.0
    for block in (module for module in model.modules() if isinstance(module, TransformerBlock)):
        moe = block.experts
        if moe is None:
            size = block.up.weight.numel() + block.down.weight.numel()
            dense, sparse = dense + size, sparse + size
            continue
        own = sum(parameter.numel() for name, parameter in moe.named_parameters() if name != "router")
        size = (moe.up.numel() + moe.down.numel()) // moe.config.experts
        asked = moe.config.top_k
        active -= own - own // moe.config.experts * asked
        dense, sparse = dense + size, sparse + size * min(asked, moe.config.capacity_factor)
    return ExpertCosts(parameters, active, sparse / dense)
