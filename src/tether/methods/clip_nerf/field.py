"""A radiance field with a code for shape and one for colours, and maps from a CLIP's rows to changes of codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.methods.clip_nerf.volume import positional_encoding

Width = Annotated[int, Ge(1), Le(4096)]
Few = Annotated[int, Ge(1), Le(64)]
_FIRST_DENSITY, _LAST_LAYER = 1.0, 0.1
"""Density everywhere at first, above 0, where the relu has a gradient; what some last layers are multiplied by."""


@dataclass(frozen=True, slots=True)
class Codes:
    """What a scene is.

    Attributes:
        shape: its shape's code.
        appearance: its colours' code.
    """

    shape: Float[Tensor, "*n s"]
    appearance: Float[Tensor, "*n a"]


class ConditionalField(nn.Module):
    """Density and colour of places in a scene that two codes describe.

    The shape's code bends the encoding of a place, ``g(x) + tanh(T(g(x), z_s))``, from which come density and a
    feature; the appearance's code enters only after them, beside the direction one looks in, so that it cannot move a
    surface.

    Source: CLIP-NeRF (arXiv 2112.05139, section 3.1); that network is not public.

    Attributes:
        deformation: T.
        rgb: the last layer of colours.

    Example:
        >>> import torch
        >>> from tether.methods.clip_nerf import ConditionalField
        >>> field = ConditionalField(4, 2, generator=torch.Generator().manual_seed(0))
        >>> density, feature = field.density_feature(torch.zeros(5, 3), torch.zeros(4))
        >>> density.shape, field.color(feature, torch.ones(5, 3), torch.zeros(2)).shape
        (torch.Size([5]), torch.Size([5, 3]))
    """

    @checked
    def __init__(
        self,
        shape_dim: Width = 16,
        appearance_dim: Width = 16,
        freqs: Few = 6,
        width: Width = 64,
        depth: Few = 4,
        *,
        view_freqs: Annotated[int, Ge(0), Le(64)] = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            shape_dim: numbers of the shape's code.
            appearance_dim: of the appearance's.
            freqs: of the encoding of places, which has no raw input.
            width: of the layers.
            depth: of them before density.
            view_freqs: of the encoding of directions, with raw input.
            generator: of the weights, on the CPU; None takes seed 0.
        """
        super().__init__()
        self.settings = {
            "shape_dim": shape_dim, "appearance_dim": appearance_dim, "freqs": freqs, "width": width, "depth": depth,
            "view_freqs": view_freqs,
        }  # fmt: skip
        self.shape_dim, self.appearance_dim, self.freqs, self.view_freqs = shape_dim, appearance_dim, freqs, view_freqs
        place, way = 6 * freqs, 3 + 6 * view_freqs
        last = nn.Linear(width, place)
        self.deformation = nn.Sequential(nn.Linear(place + shape_dim, width), nn.ReLU(), last)
        self.trunk = nn.ModuleList(nn.Linear(width if layer else place, width) for layer in range(depth))
        self.density, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
        self.view, self.rgb = nn.Linear(width + way + appearance_dim, (width + 1) // 2), nn.Linear((width + 1) // 2, 3)
        _initialise_(self, generator, small=(last, self.rgb))
        nn.init.constant_(self.density.bias, _FIRST_DENSITY)

    def deformed(self, x: Float[Tensor, "*n 3"], z_s: Float[Tensor, "*m s"]) -> Float[Tensor, "*n e"]:
        """The encoding of places, bent by the shape's code."""
        encoded = positional_encoding(x, self.freqs, include_input=False)
        first, *rest = self.deformation
        hidden = beside(cast(nn.Linear, first), encoded, _code(z_s, self.shape_dim, "z_s"))
        for part in rest:
            hidden = part(hidden)
        return encoded + torch.tanh(hidden)

    def density_feature(
        self, x: Float[Tensor, "*n 3"], z_s: Float[Tensor, "*m s"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n w"]]:
        """Density before its relu, and what colour is made of.

        Args:
            x: places.
            z_s: one code, or codes whose leading shape goes with that of the places.

        Raises:
            InputError: a code of another width.
        """
        hidden = self.deformed(x, z_s)
        for layer in self.trunk:
            hidden = layer(hidden).relu()
        return self.density(hidden)[..., 0], self.feature(hidden)

    def color(
        self, feature: Float[Tensor, "*n w"], view: Float[Tensor, "*m 3"], z_a: Float[Tensor, "*k a"]
    ) -> Float[Tensor, "*n 3"]:
        """Colour before its sigmoid.

        Args:
            feature: of ``density_feature``.
            view: directions one looks in, of any length above 0.
            z_a: as ``z_s``.

        Raises:
            InputError: a code of another width, or a direction of length 0.
        """
        length = torch.linalg.vector_norm(view, dim=-1, keepdim=True)
        if not bool((length > 0).all()):
            raise InputError("view: expected directions of a length above 0, got 0")
        way = positional_encoding(view / length, self.view_freqs)
        z_a = _code(z_a, self.appearance_dim, "z_a")
        way, z_a = (value.expand(*torch.broadcast_shapes(way.shape[:-1], z_a.shape[:-1]), -1) for value in (way, z_a))
        return self.rgb(beside(self.view, feature, torch.cat([way, z_a], dim=-1)).relu())

    def forward(self, x: Float[Tensor, "*n 3"], view: Float[Tensor, "*m 3"], codes: Codes) -> Float[Tensor, "*n 4"]:
        """Colour and density as ``volume_render`` takes them."""
        density, feature = self.density_feature(x, codes.shape)
        return torch.cat([self.color(feature, view, codes.appearance), density[..., None]], dim=-1)


def beside(layer: nn.Linear, first: Tensor, second: Tensor) -> Tensor:
    """A layer of two things side by side, of which the second may be the same for many of the first."""
    wide = first.shape[-1]
    return F.linear(first, layer.weight[:, :wide], layer.bias) + F.linear(second, layer.weight[:, wide:])


@torch.no_grad()
def _initialise_(module: nn.Module, generator: torch.Generator | None, *, small: Sequence[nn.Linear]) -> None:
    draws = generator or torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_uniform_(part.weight, nonlinearity="relu", generator=draws)
            nn.init.zeros_(part.bias)
    for part in small:
        part.weight.mul_(_LAST_LAYER)


def _code(code: Tensor, width: int, name: str) -> Tensor:
    if code.shape[-1:] != (width,):
        raise InputError(f"{name}: expected (..., {width}) numbers, got {tuple(code.shape)}")
    return code


class CodeMapper(nn.Module):
    """From a row of a CLIP to a code changed by it: ``z + M(e)``, M having one hidden layer.

    Source: CLIP-NeRF (arXiv 2112.05139, section 3.2).

    Example:
        >>> import torch
        >>> from tether.methods.clip_nerf import CodeMapper
        >>> CodeMapper(8, 4, generator=torch.Generator().manual_seed(0))(torch.ones(8), torch.zeros(4)).shape
        torch.Size([4])
    """

    @checked
    def __init__(
        self, clip_dim: Count, code_dim: Width, *, width: Width = 64, generator: torch.Generator | None = None
    ) -> None:
        """Draw the weights.

        Args:
            clip_dim: numbers of a row.
            code_dim: of a code.
            width: of the hidden layer.
            generator: of the weights, on the CPU; None takes seed 0.
        """
        super().__init__()
        self.clip_dim, self.code_dim, last = clip_dim, code_dim, nn.Linear(width, code_dim)
        self.layers = nn.Sequential(nn.Linear(clip_dim, width), nn.ReLU(), last)
        _initialise_(self, generator, small=(last,))

    def forward(self, row: Float[Tensor, "*m d"], code: Float[Tensor, "*n c"]) -> Float[Tensor, "*k c"]:
        """The code, changed by what the row says."""
        return _code(code, self.code_dim, "code") + self.layers(_code(row, self.clip_dim, "row"))
