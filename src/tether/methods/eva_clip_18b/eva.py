"""Weights of EVA's image towers, in the names of the released code or of timm, into ours, with a report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tether.core.atomic_io import local
from tether.core.component import closest
from tether.core.errors import InputError
from tether.models.config_check import other_architecture
from tether.models.convert.weights import read_weights
from tether.models.towers.blocks.layers import swiglu
from tether.models.towers.positions import Bicubic, GridMethod
from tether.models.towers.vision.eva import EvaBlock, EvaTower

EVA_RESIZING = Bicubic(antialias=False, kernel="plain")
"""How the released code brings positions and patches to another size; its helper for OpenAI's towers aligns corners."""
_PREFIXES = ("visual.trunk.", "visual.")
_NOT_OURS = re.compile(r"(?:.*\.)?(?:rope\.(?:freqs_cos|freqs_sin)|mask_token)$|text\.|logit_scale$")
"""Rotary angles, which are computed, what only pre-training uses, and the other half of a whole CLIP."""

_STEM = {
    "cls_token": "class_token",
    "pos_embed": "position",
    "patch_embed.proj": "patch",
    "norm": "norm_post",
    "fc_norm": "norm_post",
    "head": "projection",
}
_PARTS = {
    "attn.qkv": ("qkv", 0),
    "attn.q_proj": ("qkv", 0),
    "attn.k_proj": ("qkv", 1),
    "attn.v_proj": ("qkv", 2),
    "attn.inner_attn_ln": ("ctx_norm", 0),
    "attn.norm": ("ctx_norm", 0),
    "attn.proj": ("proj", 0),
    "mlp.fc1": ("up", 0),
    "mlp.w2": ("up", 0),
    "mlp.fc1_x": ("up", 0),
    "mlp.w1": ("up", 1),
    "mlp.fc1_g": ("up", 1),
    "mlp.ffn_ln": ("ffn_mid", 0),
    "mlp.norm": ("ffn_mid", 0),
    "mlp.w3": ("down", 0),
    "mlp.fc2": ("down", 0),
    "gamma_1": ("attn_scale", 0),
    "gamma_2": ("ffn_scale", 0),
}
"""Their part of a block to ours, and its place under others in one matrix: values above gates in a gated net."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of weights from outside.

    Attributes:
        loaded: names of ours that were filled.
        missing: of ours that the weights say nothing of; they stay as they were.
        unexpected: of theirs that have no place here.
        skipped: of theirs that were asked to be left out.
        resized: of ours that were brought to another size.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    skipped: tuple[str, ...]
    resized: tuple[str, ...]


@torch.no_grad()
def load_tower_(
    tower: EvaTower,
    weights: str | Path | Mapping[str, Any],
    *,
    skip: Sequence[str] = (),
    resize: GridMethod | None = EVA_RESIZING,
) -> LoadReport:
    """Fill an image tower of EVA with weights in the names of the released code, of timm or of open_clip.

    Args:
        tower: ``model.visual`` of a model with ``vision: {tower: eva}``.
        weights: a safetensors file (a pickle is refused), or tensors by name, which may be those of a checkpoint's
            ``model``, ``module`` or ``state_dict``. Of a whole CLIP the image tower is taken; rotary angles and mask
            tokens are no weights here.
        skip: beginnings of their names to leave out, such as ``head`` where the joint space differs.
        resize: how positions and patches of another size are resized; None refuses them.

    Raises:
        InputError: weights of another architecture or a name in ``skip`` that is not there; nothing is changed then.

    Example:
        >>> from timm.models.eva import Eva
        >>> from tether.models import create
        >>> from tether.methods.eva_clip_18b.eva import load_tower_
        >>> blocks = {"embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 8 / 3, "swiglu_mlp": True}
        >>> inner = {"scale_mlp": True, "scale_attn_inner": True, "use_rot_pos_emb": True}
        >>> theirs = Eva(img_size=48, patch_size=8, num_classes=0, **blocks, **inner)
        >>> report = load_tower_(create("eva02-tiny").visual, theirs.state_dict())
        >>> report.missing, report.unexpected, report.resized
        (('projection.bias', 'projection.weight'), (), ('position',))
    """
    where = "weights" if isinstance(weights, Mapping) else str(weights)
    given = unwrapped(weights) if isinstance(weights, Mapping) else read_weights(local(weights))
    state, skipped = _left(_plain(given), skip, where=where)
    own, pieces, unexpected = tower.state_dict(), dict[str, dict[int, Tensor]](), list[str]()
    problems = list[str]()
    for name, value in state.items():
        ours, place = _place(name, tower)
        if ours not in own:
            unexpected.append(name)
        elif place in pieces.get(ours, {}):
            problems.append(f"{name} is there twice, under another name, too")
        elif not isinstance(value, Tensor) or not value.is_floating_point():
            problems.append(f"{name} is {getattr(value, 'dtype', type(value).__name__)}, expected floating point")
        else:
            pieces.setdefault(ours, {})[place] = value
    if not pieces and not problems:
        raise other_architecture([f"unexpected {name}" for name in unexpected], where=where)
    filled, resized = dict[str, Tensor](), list[str]()
    for name, parts in pieces.items():
        if not _stacks(name, list(parts.values()), width=own[name].shape[-1:]):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts.values())
            problems.append(f"{name} is {shapes}, expected {tuple(own[name].shape)}")
            continue
        stacked = _shaped(name, [parts[place] for place in sorted(parts)], tower)
        filled[name] = _resized(name, stacked, tower, resize)
        if filled[name].shape != own[name].shape:
            problems.append(f"{name} is {tuple(filled[name].shape)}, expected {tuple(own[name].shape)}")
        elif filled[name].numel() != stacked.numel():
            resized.append(name)
    if problems:
        raise other_architecture(problems, where=where)
    tower.load_state_dict(filled, strict=False)
    missing = tuple(sorted(own.keys() - filled.keys()))
    return LoadReport(tuple(filled), missing, tuple(unexpected), tuple(skipped), tuple(resized))


def unwrapped(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights of a checkpoint that has more than them, such as its optimizer's state."""
    found = (checkpoint.get(key) for key in ("model", "module", "state_dict"))
    return next((part for part in found if isinstance(part, Mapping)), checkpoint)


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's weights without what wraps them."""
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    prefix = next((one for one in _PREFIXES if any(name.startswith(one) for name in bare)), "")
    tower = {name.removeprefix(prefix): value for name, value in bare.items() if name.startswith(prefix)}
    return {name: value for name, value in tower.items() if not _NOT_OURS.match(name)}


def _left(state: dict[str, Tensor], skip: Sequence[str], *, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """What is not to be skipped, and the names of what is."""
    skipped = dict[str, None]()
    for begin in skip:
        some = [name for name in state if name == begin or name.startswith(f"{begin}.")]
        if not some:
            raise InputError(f"{where}: skip: no weight is called {begin!r} or begins with it; {closest(begin, state)}")
        skipped |= dict.fromkeys(some)
    return {name: value for name, value in state.items() if name not in skipped}, list(skipped)


def _place(name: str, tower: EvaTower) -> tuple[str, int]:
    """Our name for one of theirs, and its place under others in that matrix; a name of none of ours if unknown."""
    found = re.fullmatch(r"blocks\.(\d{1,4})\.(.+)", name)
    part, _, kind = (name if found is None else found[2]).rpartition(".")
    if found is None:
        whole = _STEM.get(name)
        return (whole, 0) if whole else (f"{_STEM.get(part)}.{kind}", 0)
    if found[2] in ("attn.q_bias", "attn.q_proj.bias", "attn.v_bias", "attn.v_proj.bias"):
        return f"blocks.{found[1]}.qkv.{found[2][5]}_bias", 0
    index = int(found[1])
    post = index < len(tower.blocks) and cast(EvaBlock, tower.blocks[index]).attn_out is not None
    norms = {"norm1": "attn", "norm2": "ffn"}
    if part in norms:
        return f"blocks.{index}.{norms[part]}_{'out' if post else 'pre'}.{kind}", 0
    if found[2] in _PARTS:
        ours, place = _PARTS[found[2]]
        return f"blocks.{index}.{ours}", place
    ours, place = _PARTS.get(part, ("", 0))
    return f"blocks.{index}.{ours}.{kind}", place


def _stacks(name: str, parts: list[Tensor], *, width: torch.Size) -> bool:
    """Whether tensors can be put under each other, and a table has rows of our width."""
    if name == "position":
        return all(part.ndim in (2, 3) and part.shape[-1:] == width and part.numel() > 0 for part in parts)
    return all(part.ndim and part.shape[1:] == parts[0].shape[1:] for part in parts)


def _shaped(name: str, parts: list[Tensor], tower: EvaTower) -> Tensor:
    """Their tensors as our one, of their size."""
    if name in ("class_token", "position"):
        return parts[0].flatten() if name == "class_token" else parts[0].flatten(0, -2)
    value = parts[0] if len(parts) == 1 else torch.cat(parts)
    block = re.match(r"blocks\.(\d+)\.up\.", name)
    gated = block is not None and cast(EvaBlock, tower.blocks[int(block[1])]).activation is swiglu
    return torch.cat(value.chunk(2)[::-1]) if gated and len(parts) == 1 else value  # timm packs gates before values


def _resized(name: str, value: Tensor, tower: EvaTower, resize: GridMethod | None) -> Tensor:
    """A table of positions or a kernel at this tower's size, if it can be; the kernel flat."""
    side, grid = tower.config.patch, tower.config.grid
    if name == "position" and resize is not None:
        old = math.isqrt(max(len(value) - 1, 0))
        if old and old**2 == len(value) - 1 != grid[0] * grid[1]:
            value = resize.table(value, old=(old, old), new=grid)
    if name == "patch.weight" and value.ndim == 4:
        if resize is not None and min(value.shape[2:]):
            value = resize.kernel_of(value, new=(side, side))
        value = value.flatten(1)
    return value
