"""What the painting loop paints on: parameters in roles, a render with gradient to them, and limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.generation.canvases.blob_raster import Camera


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """One way to look at a canvas.

    Attributes:
        camera: where from; None where a canvas is flat.
        share: of the way around it, 0 to 1, for canvases that show something else on each side.
    """

    camera: Camera | None = None
    share: float = 0.0


FRONT = Viewpoint()


class Canvas(nn.Module, ABC):
    """Parameters that make an image, for ``generation.paint``.

    A canvas says which of its parameters play which role (``points``, ``width``), how fast each role moves by default,
    and where they must stay. It may be made of elements that a render can leave out, may be looked at from several
    sides, and may be written as SVG. The state of one is its ``state_dict``.

    Attributes:
        rates: Adam's learning rate of each role.
        elements: parts that ``render`` can leave out; 0 for none.
        dropout: share of the elements that is left out at each step, of a canvas that wants it.
        traced: whether its parameters are few and mean something, so that the loop keeps them with each frame.
        lines: whether there is an SVG of it.
    """

    rates: Mapping[str, float]
    elements: int = 0
    dropout: float = 0.0
    traced: ClassVar[bool] = False
    lines: ClassVar[bool] = False

    @abstractmethod
    def parameters_by_role(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """All that moves."""

    @abstractmethod
    def render(self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None) -> Float[Tensor, ...]:
        """(3, h, w) in 0 to 1, or (b, 3, h, w) where there are several images.

        Args:
            look: from where.
            keep: elements that are drawn; None draws all.
        """

    def looks(self, step: int, draws: torch.Generator) -> Sequence[Viewpoint]:
        """What a step looks at, each with a loss of its own; their gradients add up."""
        return (FRONT,)

    def pace(self, role: str, step: int, steps: int) -> float:
        """What a role's rate is multiplied by at a step."""
        return 1.0

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring parameters back to where they must stay, after a step."""

    def to_svg(self) -> str:
        """The drawing as a text of SVG.

        Raises:
            InputError: a canvas without lines.
        """
        raise InputError(f"{type(self).__name__}: is not made of lines, so there is no SVG of it; write the image")


def drop_mask(u: Float[Tensor, "... n"], p: float) -> Bool[Tensor, "... n"]:
    """Which of n elements stay: those whose number is at least ``p``, and the first where none would.

    Args:
        u: numbers from 0 to 1, drawn evenly.
        p: share that is left out, in [0, 1).

    Raises:
        InputError: another share, or no elements.

    Example:
        >>> import torch
        >>> from tether.generation.canvases import drop_mask
        >>> drop_mask(torch.tensor([[0.05, 0.5], [0.01, 0.02]]), 0.1).tolist()
        [[False, True], [True, False]]
    """
    if not 0 <= p < 1:
        raise InputError(f"p: expected a share from 0 to below 1, got {p}")
    if not u.shape[-1]:
        raise InputError("u: expected a number for each of at least one element, got none")
    keep = u >= p
    none = ~keep.any(dim=-1)
    keep[..., 0] |= none
    return keep
