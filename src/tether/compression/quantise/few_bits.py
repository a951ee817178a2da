"""An edit that rounds weights to few bits: q, k, v, o, feed-forward nets and norms of any block, place by place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, cast, final

import torch
from annotated_types import Ge, Le, MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.compression.quantise.levels import FakeQuant, Gradient
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.core.types import Batch
from tether.models.encoders.tower_parts import SIDES, Side
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.linear_maps import PARTS_OF, Depth, MapKind, chosen_layers, linear_maps
from tether.models.features.lm_blocks import stack_linears, stack_norms, stack_of
from tether.models.features.parametrization import Of, WeightPlace, exchanged, merge_, norms, replace
from tether.models.towers.clip import Clip

Scale = Literal["octav", "max", "spread"]
Share = Literal["tensor", "channel", "group"]
Rounded = MapKind | Literal["norm"]
FewBitsOf = Annotated[int, Ge(2), Le(8)]
ROUNDED: tuple[Rounded, ...] = ("q", "k", "v", "o", "mlp", "other", "map")


class RoundedRows(nn.Module):
    """Rows of weights on a grid, with one clip value for all, one a row, or one a run of a row.

    Attributes:
        quant: the grid.
        group: of a row, elements that share a clip value; None of whole rows.
        active: whether it rounds, or gives the rows as they are.
    """

    active = True

    def __init__(self, quant: FakeQuant, *, group: int | None = None) -> None:
        """Take both."""
        super().__init__()
        self.quant, self.group = quant, group

    def forward(self, rows: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The rows on their grid."""
        if not self.active:
            return rows
        return self.quant(rows if self.group is None else rows.unflatten(-1, (-1, self.group))).view(rows.shape)


@final
class Octav:
    """Rounds weights to 2 to 8 bits while the model computes and learns; ``merge_`` leaves them on the grid.

    Each linear map has its own clip values, q, k and v too where one matrix holds them: OCTAV's, which err least in
    squares, or the largest magnitude. Weights are kept and learned in full precision meanwhile. Embeddings and
    positions are not rounded, nor norms unless asked. The model computes in floats before and after and is no faster
    (``tether export --int8`` is); what few bits save is storage.

    Least squared error is not least loss: after training, at 2 bits, ``scale: max`` may cost less.

    Attributes:
        applied: the places that were rounded last.

    Source: arXiv 2206.06501; see ``octav_clip`` and ``round_to_levels``.

    Example:
        >>> from tether.compression.quantise import Octav
        >>> from tether.models import create
        >>> model = create("tiny").eval()
        >>> edit = Octav(bits=3, share="tensor")
        >>> _ = edit.merge_(edit.apply_(model))
        >>> len(model.visual.blocks[0].proj.weight.unique())
        8
    """

    @checked
    def __init__(
        self,
        *,
        bits: FewBitsOf = 4,
        scale: Scale = "octav",
        share: Share = "channel",
        group: Count = 64,
        gradient: Gradient = "mad",
        include: Annotated[Sequence[Rounded], MinLen(1)] = ROUNDED,
        layers: Depth | Annotated[Sequence[int], MinLen(1)] = "all",
        towers: Annotated[Sequence[Side], MinLen(1)] = SIDES,
    ) -> None:
        """Take the settings.

        Args:
            bits: of a weight, 2 to 8.
            scale: ``octav`` or ``max`` with signed levels; ``spread`` with levels from the least to the largest weight.
            share: a ``tensor``, a ``channel`` (row) or a ``group`` of a row has one clip value.
            group: consecutive weights of a row with one clip value; must divide the rows.
            gradient: of clipped weights in training: ``mad``, ``pwl`` or ``ste``, see ``round_to_levels``.
            include: kinds of linear maps, see ``models.features.linear_maps``, and ``norm``, the weights of norms in
                blocks.
            layers: ``all``, the ``top``, ``middle`` or ``bottom`` third, or indices from either end.
            towers: of an encoder.
        """
        self.bits, self.scale, self.share, self.group, self.gradient = bits, scale, share, group, gradient
        self.include, self.layers, self.towers = tuple(include), layers, tuple(towers)
        self.applied: tuple[WeightPlace, ...] = ()

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Put the grids in; nothing is calibrated, and every weight goes on learning.

        Args:
            model: an encoder of ``tether.load``, or one that ``models.features.lm_blocks.stack_of`` knows.
            calibration: not looked at.

        Raises:
            InputError: nothing is chosen, a place is exchanged already, weights that are not finite, or a group that
                does not divide a row.
            UnsupportedModelError: its blocks are not known.
        """
        del calibration
        places = self.places(model)
        held = [place.held("weight") for place in places]
        own = {id(one.module): dict(one.module.named_parameters(recurse=False)) for one in held}
        learning = [value for some in own.values() for value in some.values() if value.requires_grad]
        replace(places, self._rows)
        for value in learning:
            value.requires_grad_(True)
        self.applied = places
        return model

    def merge_(self, model: nn.Module) -> nn.Module:
        """Leave the rounded weights.

        Raises:
            InputError: nothing was rounded.
        """
        if not any(isinstance(one, RoundedRows) for one in exchanged(model).values()):
            raise InputError(f"{type(model).__name__} has no rounded weights in place; apply_ comes first")
        return merge_(model)

    def places(self, model: nn.Module) -> tuple[WeightPlace, ...]:
        """The weights of a model that are rounded; errors as for ``apply_``."""
        maps = [kind for kind in self.include if kind != "norm"]
        found = list[WeightPlace]()
        if isinstance(model, Clip | WrappedEncoder):
            encoder = cast(DualEncoder, model)
            if maps:
                found += linear_maps(encoder, towers=self.towers, include=maps, layers=self.layers)
            if "norm" in self.include:
                found += [place for side in self.towers for place in norms(encoder, side=side)]
            return tuple(found)
        blocks = chosen_layers(self.layers, len(stack_of(model)))
        parts = [part for kind in maps for part in PARTS_OF.get(kind, ())]
        found += stack_linears(model, parts=parts, blocks=blocks)
        if "norm" in self.include:
            found += [place for place in stack_norms(model) if place.block in blocks]
        if not found:
            raise InputError(f"include: no weight of the model is one of {', '.join(self.include)}")
        return tuple(found)

    def _rows(self, place: WeightPlace, *, of: Of = "weight") -> RoundedRows:
        rows: Any = place.held(of).read()
        group = self.group if self.share == "group" else None
        if group is not None and rows.shape[-1] % group:
            raise InputError(f"{place.name}: group: expected a divisor of its {rows.shape[-1]} columns, got {group}")
        dim = -1 if self.share != "tensor" and rows.ndim == 2 else None
        if not bool(torch.isfinite(rows).all()):
            raise InputError(f"{place.name}: holds weights that are NaN or infinite; expected finite ones")
        return RoundedRows(FakeQuant(self.bits, dim=dim, grad=self.gradient, observer=self.scale), group=group)
