"""How one of our tensors is made of another library's, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tether.models.config_check import other_architecture

Shape = Literal["same", "transposed", "patch", "scalar"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One tensor of ours.

    Attributes:
        ours: its name in ``Clip``'s state dict.
        theirs: names of the tensors that it stacks on axis 0.
        shape: ``transposed`` if theirs is (in, out), ``patch`` if theirs is a convolution (out, 3, p, p), ``scalar``
            if theirs may be (1,) where ours is ().
    """

    ours: str
    theirs: tuple[str, ...]
    shape: Shape = "same"


def both(ours: str, theirs: str, *, shape: Shape = "same") -> Iterator[Rule]:
    """Rules for a layer's weight and bias."""
    yield Rule(f"{ours}.weight", (f"{theirs}.weight",), shape)
    yield Rule(f"{ours}.bias", (f"{theirs}.bias",))


def take(state: Mapping[str, Tensor], rules: Iterable[Rule], *, where: str) -> dict[str, Tensor]:
    """Another library's tensors under our names."""
    ours: dict[str, Tensor] = {}
    rules = list(rules)
    wanted = {name for rule in rules for name in rule.theirs}
    missing = sorted(wanted - set(state))
    extra = sorted(set(state) - wanted)
    if missing or extra:
        said = [f"missing {name}" for name in missing] + [f"unexpected {name}" for name in extra]
        raise other_architecture(said, where=where)
    for rule in rules:
        parts = [state[name] for name in rule.theirs]
        try:
            ours[rule.ours] = _shaped(parts, rule.shape)
        except (RuntimeError, IndexError) as error:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise other_architecture([f"{rule.theirs[0]} is {shapes}"], where=where) from error
    return ours


def _shaped(parts: list[Tensor], shape: Shape) -> Tensor:
    value = parts[0] if len(parts) == 1 else torch.cat(parts)
    if shape == "transposed":
        value = value.T if value.ndim == 2 else value
    elif shape == "patch":
        value = value.flatten(1)
    elif shape == "scalar":
        value = value.reshape(())
    return value.contiguous()


def give(state: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Our tensors under another library's names; the inverse of ``take``."""
    theirs: dict[str, Tensor] = {}
    for rule in rules:
        value = state[rule.ours].detach().cpu()
        if rule.shape == "transposed":
            value = value.T
        elif rule.shape == "patch":
            side = round((value.shape[1] / 3) ** 0.5)
            value = value.unflatten(1, (3, side, side))
        for name, part in zip(rule.theirs, value.chunk(len(rule.theirs)) if value.ndim else (value,), strict=True):
            theirs[name] = part.contiguous().clone()
    return theirs
