"""Singular values of a model's linear maps, trained while their directions rest (arXiv 2509.03740)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast, final

import torch
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Part, checked
from tether.core.types import Batch
from tether.models.composed.towers import TowerSide
from tether.models.encoders.tower_parts import SIDES, Side
from tether.models.features.linear_maps import MAP_KINDS, Depth, MapKind, linear_maps
from tether.models.features.parametrization import (
    LinearPlace,
    WeightPlace,
    exchanged,
    linears,
    merge_,
    replace,
    save_exchanged,
)

Rest = Literal["kept", "dropped"]


class SingularRows(nn.Module):
    """Rows of weights whose singular values learn: ``rows + U diag(s - s at first) V'``, the rows to the bit at first.

    Attributes:
        s: (r,) singular values; no sign is forced on them.
        u: (out, r) left directions, which rest, as do
        vh: (r, in) the right ones. A checkpoint has neither: they come from the plain weights beside it.
        start: (r,) singular values at first.
        rest: what becomes of the directions beyond rank r.
    """

    u: Tensor
    vh: Tensor
    start: Tensor

    def __init__(self, rows: Float[Tensor, "out in"], *, ratio: float = 1.0, rest: Rest = "kept") -> None:
        """Decompose the rows, in float32 or wider."""
        super().__init__()
        wide = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
        u, s, vh = torch.linalg.svd(wide, full_matrices=False)
        rank, self.rest = singular_rank(len(s), ratio=ratio), rest
        self.register_buffer("u", u[:, :rank].contiguous(), persistent=False)
        self.register_buffer("vh", vh[:rank].contiguous(), persistent=False)
        self.register_buffer("start", s[:rank].clone(), persistent=False)
        self.s = nn.Parameter(s[:rank].clone())

    def forward(self, rows: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The rows with the singular values as they are now, in the rows' own precision."""
        if self.rest == "dropped":
            return ((self.u * self.s) @ self.vh).to(rows.dtype)
        return (rows.to(self.u.dtype) + (self.u * (self.s - self.start)) @ self.vh).to(rows.dtype)


@final
class Svd:
    """Trains the singular values of linear maps and nothing else: about 0.04 % of a CLIP's parameters.

    Each weight ``U diag(s) V'`` keeps its directions, which are re-scaled; q, k and v are taken apart where one matrix
    holds them. All other parameters rest, the logit scale among them. Nothing is added at inference: ``merge_``
    multiplies the factors back. ``save_exchanged`` writes s alone, with the digest of the plain weights, and
    ``load_exchanged_`` refuses others than these.

    In ``optim.parameter_groups`` singular values have no weight decay; the paper's decay of 0.01 pulls them to 0, not
    to where they began. It trains with AdamW at 5e-4 or so, on all layers of both towers.

    Source: arXiv 2509.03740, section 3, and its released code. It differs in that a rank of 1.0 is the whole rank
    whatever its divisors, a third of the depth is chosen where it has other than 12 layers, and composed encoders
    adapt their maps as well.

    Example:
        >>> import torch
        >>> from tether.methods.clip_svd import Svd, singular_values
        >>> from tether.models import create
        >>> model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        >>> before = model.encode_image(image).pooled
        >>> edit = Svd(include=("v", "o"), layers="top")
        >>> _ = edit.apply_(model)
        >>> torch.equal(model.encode_image(image).pooled, before)
        True
        >>> list(singular_values(model))[:2]
        ['image.blocks.1.v', 'image.blocks.1.o']
        >>> sum(one.numel() for one in model.parameters() if one.requires_grad)  # 2 of 64 values in each tower
        256
        >>> _ = edit.merge_(model)
    """

    @checked
    def __init__(
        self,
        *,
        include: Annotated[Sequence[MapKind], MinLen(1)] = MAP_KINDS,
        layers: Depth | Annotated[Sequence[int], MinLen(1)] = "all",
        towers: Annotated[Sequence[Side], MinLen(1)] = SIDES,
        rank_ratio: Part = 1.0,
        rest: Rest = "kept",
        values: str | None = None,
    ) -> None:
        """Take the settings.

        Args:
            include: kinds of maps, see ``linear_maps``.
            layers: ``all``, the ``top``, ``middle`` or ``bottom`` third, or indices from either end.
            towers: that take part.
            rank_ratio: share of the singular values that is trained, the largest first; below 1 their number is a
                multiple of 4, as released.
            rest: the others are ``kept`` as they are, or ``dropped``, as released, which changes outputs at once.
            values: file into which ``merge_`` first writes the singular values, see ``save_exchanged``.
        """
        self.include, self.layers, self.towers = tuple(include), layers, tuple(towers)
        self.rank_ratio, self.rest, self.values = rank_ratio, rest, None if values is None else Path(values)
        self._rested: list[str] = []

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Put singular values in, and let all else rest; outputs are unchanged unless some are dropped.

        Raises:
            InputError: nothing is chosen, or something is exchanged at a place already.
            UnsupportedModelError: no encoder of ``tether.load``, or layers of another edit.
        """
        del calibration
        places = self.places(cast(DualEncoder, model))
        learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        replace(places, self._rows)
        self._rested = [name for name in learning if name in dict(model.named_parameters())]
        for name in self._rested:
            model.get_parameter(name).requires_grad_(False)
        for tower in model.modules():
            if isinstance(tower, TowerSide) and tower.locked and _singular(tower):
                tower.locked = False
        return model

    def merge_(self, model: nn.Module) -> nn.Module:
        """Multiply the factors back into plain weights.

        Raises:
            InputError: there are no singular values in the model.
        """
        if not _singular(model):
            raise InputError(f"{type(model).__name__} has no singular values in place; apply_ comes first")
        if self.values is not None:
            save_exchanged(model, self.values)
        merge_(model)
        for name in self._rested:
            model.get_parameter(name).requires_grad_(True)
        return model

    def places(self, model: DualEncoder) -> tuple[LinearPlace, ...]:
        """The linear maps of a model that take part; errors as for ``apply_``."""
        return linear_maps(model, towers=self.towers, include=self.include, layers=self.layers)

    def _rows(self, place: WeightPlace) -> SingularRows:
        return SingularRows(place.weight, ratio=self.rank_ratio, rest=self.rest)


def singular_rank(full: int, *, ratio: float, match_official: bool = False) -> int:
    """How many of ``full`` singular values a share of them is: a multiple of 4 below it, at least 1, or all.

    Args:
        full: how many there are.
        ratio: above 0, up to 1, which is all of them.
        match_official: also with 1 the multiple of 4 below, as the released code has it.
    """
    if ratio == 1 and not match_official:
        return full
    return min(full, max(1, int(full * ratio) // 4 * 4))


def singular_values(model: nn.Module) -> dict[str, Float[Tensor, " r"]]:
    """Copies of the singular values that ``Svd`` has put in a model, by the name of their place."""
    return {name: rows.s.detach().clone() for name, rows in _singular(model).items()}


def _singular(model: nn.Module) -> dict[str, SingularRows]:
    found = exchanged(model).items()
    return {name.removesuffix(".weight"): rows for name, rows in found if isinstance(rows, SingularRows)}


@dataclass(frozen=True, slots=True)
class AttentionChange:
    """How much a training changed one band, or one head, of a block's attention.

    Attributes:
        block: its index.
        index: of the band, largest singular values first, or of the head.
        value: signed change of the values' map: the length of the change, with the sign of its mean.
        output: the same of the output's map.
        score: sum of both without their signs.
    """

    block: int
    index: int
    value: float
    output: float
    score: float


@checked
@torch.no_grad()
def rank_changes(
    before: DualEncoder, after: DualEncoder, *, side: Side = "image", by: Literal["band", "head"] = "band"
) -> tuple[AttentionChange, ...]:
    """Where a training changed a tower's attention most, by singular values of the values' and the output's maps.

    The change of a singular value is how much its direction of the model before was re-scaled, whatever training moved
    the weights. The paper groups the values of a whole map in order of size into as many **bands** as there are heads
    and calls them heads; a band is not a head. ``head`` decomposes each head's own rows instead.

    Args:
        before: the model before.
        after: the same after; singular values may be in place or merged.
        side: tower.
        by: ``band`` or ``head``.

    Returns:
        Bands or heads of all blocks, most changed first.

    Raises:
        InputError: the models have other blocks.
        UnsupportedModelError: the tower's blocks are not known.
    """
    old, new = (linears(model, side=side, parts=("v", "o")) for model in (before, after))
    if [(place.name, place.weight.shape) for place in old] != [(place.name, place.weight.shape) for place in new]:
        raise InputError("before, after: expected the same tower twice, got blocks of other names or shapes")
    signed: dict[tuple[int, str], Tensor] = {}
    for first, second in zip(old, new, strict=True):
        heads = None if by == "head" else 1
        was, now = (place.by_head(heads).double() for place in (first, second))
        u, s, vh = torch.linalg.svd(was, full_matrices=False)
        change = torch.einsum("hor,hoi,hri->hr", u, now, vh) - s
        groups = change.reshape(first.heads, -1)
        signed[first.block, first.part] = groups.norm(dim=1) * groups.mean(dim=1).sign()
    found = list[AttentionChange]()
    for block in sorted({block for block, _ in signed}):
        output = signed[block, "o"]
        value = signed[block, "v"].repeat_interleave(len(output) // len(signed[block, "v"]))  # where heads share them
        for index, (v, o) in enumerate(zip(value.tolist(), output.tolist(), strict=True)):
            found.append(AttentionChange(block, index, v, o, abs(v) + abs(o)))
    return tuple(sorted(found, key=lambda change: -change.score))
