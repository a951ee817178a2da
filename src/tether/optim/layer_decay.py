"""Parameter groups by depth: the layers near the input learn more slowly than those near the output."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import Part, PositiveRate, Rate, checked
from tether.optim.param_groups import rate_scales

FinalNorm = Literal["head", "last_block"]
REST = "rest"
"""Name of the groups of what belongs to no tower, such as the logit scale."""

_BLOCK = re.compile(r"(?:^|\.)(?:(?:stages|blocks|resblocks|layers|h)\.|layer\.?)(\d+)\.")
_INPUT = re.compile(
    r"(?:^|\.)(?:cls_token|class_token|class_embedding|mask_token|reg_token|patch|patch_embed|patch_embedding|conv1|stem"
    r"|conv_stem|bn1|token|token_embedding|pos_embed|position|(?<!attnpool\.)positional_embedding|position_embedding"
    r"|embeddings|norm_pre|ln_pre|pre_layrnorm)(?:\.|$)"
)
"""Names of what comes before the first block, in our towers, open_clip's, timm's, transformers' and EVA's."""
_OUTPUT = re.compile(
    r"(?:^|\.)(?:norm|fc_norm|norm_post|ln_post|ln_final|final_layer_norm|post_layernorm|layernorm|head|attn_pool"
    r"|attnpool|pooler|proj|projection|text_projection|visual_projection|image_map|text_map|point_scale|conv_head|bn2"
    r"|final_conv|rel_pos_bias)(?:\.|$)"
)
"""Names of what comes after the last block."""
_FINAL_NORM = re.compile(r"(?:^|\.)(?:norm|norm_post|ln_post|ln_final|final_layer_norm|post_layernorm)\.\w+$")


@checked
def layer_of(name: str, *, blocks: int, final_norm: FinalNorm = "head") -> int:
    """How deep a tower's parameter lies: 0 at the input, k + 1 in block k, ``blocks + 1`` at the output.

    Source: arXiv 2402.04252, released code; arXiv 2106.08254 (BEiT), whose rule it is.

    Args:
        name: of the parameter.
        blocks: of its tower.
        final_norm: the norm after the last block lies with the ``head``, as in EVA's code, or in the ``last_block``,
            as timm has it.

    Example:
        >>> from tether.optim.layer_decay import layer_of
        >>> [layer_of(name, blocks=4) for name in ("pos_embed", "blocks.3.mlp.fc1.bias", "head.weight")]
        [0, 4, 5]
    """
    if found := _BLOCK.search(name):
        return int(found[1]) + 1
    if _INPUT.search(name):
        return 0
    return blocks if final_norm == "last_block" and _FINAL_NORM.search(name) else blocks + 1


@checked
def layer_decay_groups(
    model: nn.Module,
    *,
    towers: Mapping[str, Mapping[str, Any]],
    weight_decay: Rate,
    lr: PositiveRate | None = None,
    final_norm: FinalNorm = "head",
    plain: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Groups of one depth, one tower and one weight decay; ``lr_scale`` is ``decay ** (blocks + 1 - depth)``.

    Vectors, biases, positions and class tokens, by the names of every library, get no weight decay: one rule for the
    lists of EVA's and FT-CLIP's code. Frozen parameters are left out, tied ones stand once. What lies nowhere by its
    name is taken for the output's, with a warning.

    Source: arXiv 2402.04252, released code (training/optim.py); arXiv 2212.06138 (FT-CLIP), released optim_factory.py.

    Args:
        model: whose trainable parameters are grouped.
        towers: by the name of the submodule (``visual``; the empty string is the model itself): ``decay`` (above 0, at
            most 1; 1 if not given), ``below`` (a factor on all depths but the output's; 1 if not given), ``lr`` and
            ``wd`` (those of the others if not given).
        weight_decay: of matrices that no tower has a ``wd`` for.
        lr: learning rate of what belongs to no tower; None leaves it, and that of towers without one, to the optimiser.
        final_norm: see ``layer_of``.
        plain: further names, or parts of names between dots, that get no weight decay.

    Returns:
        Groups for any optimiser: ``name``, ``params`` as pairs, ``weight_decay``, ``lr_scale``, and ``lr`` where there
        is one. A training loop multiplies ``lr_scale`` into the learning rate at every step.

    Raises:
        InputError: a tower that the model has not, or a setting that is none or out of its range.

    Example:
        >>> from torch import nn
        >>> from tether.optim.layer_decay import layer_decay_groups
        >>> tower = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(2)])})
        >>> model = nn.ModuleDict({"visual": tower, "head": nn.Linear(2, 1, bias=False)})
        >>> groups = layer_decay_groups(model, towers={"visual": {"decay": 0.5}}, weight_decay=0.1)
        >>> [(group["name"], group["lr_scale"]) for group in groups]
        [('visual 1 decay', 0.25), ('visual 2 decay', 0.5), ('rest decay', 1.0)]
    """
    settings = {name: _tower(**_known(name, given)) for name, given in towers.items()}
    names = [name for name, _ in model.named_parameters()]
    blocks = {tower: _blocks([name for name in names if _inside(name, tower)], tower) for tower in settings}
    exempt = {*_EXEMPT, *plain}
    faster = rate_scales(model)
    groups: dict[tuple[str, int, bool, float], dict[str, Any]] = {}
    lost: list[str] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tower = max((tower for tower in settings if _inside(name, tower)), key=len, default=None)
        given = {} if tower is None else settings[tower]
        depth = 0 if tower is None else layer_of(name, blocks=blocks[tower], final_norm=final_norm)
        scale = 1.0
        if tower is not None:
            above = blocks[tower] + 1 - depth
            scale = given["decay"] ** above * (given["below"] if above else 1.0)
            if not any(known.search(name) for known in (_BLOCK, _INPUT, _OUTPUT)):
                lost.append(name)
        scale *= (own := faster.get(id(parameter), 1.0))
        bare = parameter.ndim < 2 or name.endswith(".bias") or not exempt.isdisjoint((name, *name.split(".")))
        decay = 0.0 if bare else given.get("wd", weight_decay)
        label = REST if tower is None else f"{tower} {depth}".strip()
        group = groups.setdefault(
            (label, depth, bare, own),
            {
                "name": f"{label} {'no_decay' if bare else 'decay'}",
                "params": [],
                "weight_decay": float(decay),
                "lr_scale": scale,
            },
        )
        if (rate := given.get("lr", lr)) is not None:
            group["lr"] = rate
        group["params"].append((name, parameter))
    if not groups:
        raise InputError(f"{type(model).__name__} has no trainable parameter")
    if lost:
        shown = ", ".join(lost[:_SHOWN]) + ("" if len(lost) <= _SHOWN else f" and {len(lost) - _SHOWN} more")
        warnings.warn(f"no depth is known for {shown}: they learn at the rate of the output", stacklevel=3)
    return list(groups.values())


_SHOWN = 8
_EXEMPT = (
    *("cls_token", "class_token", "class_embedding", "pos_embed", "position", "positional_embedding"),
    *("position_embedding", "position_embeddings", "relative_position_bias_table"),
)


@checked
def _tower(
    *, decay: Part = 1.0, below: PositiveRate = 1.0, lr: PositiveRate | None = None, wd: Rate | None = None
) -> dict[str, float]:
    """A tower's settings, those that are given."""
    found = {"decay": decay, "below": below, "lr": lr, "wd": wd}
    return {name: value for name, value in found.items() if value is not None}


def _known(tower: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    keys = ("decay", "below", "lr", "wd")
    for key in given:
        if key not in keys:
            raise InputError(f"towers: {tower}: unknown key {key!r}; {closest(key, keys)}")
    return given


def _inside(name: str, tower: str) -> bool:
    return not tower or name.startswith(f"{tower}.")


def _blocks(names: Iterable[str], tower: str) -> int:
    """How many blocks a tower has."""
    listed = list(names)
    if not listed:
        raise InputError(f"towers: the model has no part {tower!r}")
    return max((int(found[1]) + 1 for found in map(_BLOCK.search, listed) if found), default=0)
