"""A canvas of lines, circles and semicircles that only linear maps may move: CLIPDrawX's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, Positive, Share, Whole, checked
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.canvases.stroke_raster import Reach, Samples, render_strokes
from tether.generation.canvases.strokes import PUBLISHED_SIDE, CanvasSide, Widest, slowing
from tether.generation.canvases.svg import SvgPath, svg_text

if TYPE_CHECKING:
    from tether.generation.painting import Frame

Primitive = Literal["line", "circle", "semicircle"]
_HANDLE = 4 * (2**0.5 - 1) / 3
"""Length of a handle with which a cubic curve is nearly a quarter of a circle."""
_START = 0.25
"""Half the length of a line, and radius of a circle, at the start, as a share of the patch."""
_THIN = 0.05
"""Of the two lengths that a map gives to a circle, the shorter over the longer; below it is a line."""


def base_points(kind: Primitive, *, dtype: torch.dtype = torch.float32) -> Float[Tensor, "points 2"]:
    """Control points of a primitive in its own coordinates: a line from -1 to 1, a circle of radius 1, or half of it.

    Example:
        >>> from tether.generation.canvases.primitives import base_points
        >>> [len(base_points(kind)) for kind in ("line", "semicircle", "circle")]
        [4, 7, 13]
    """
    if kind not in get_args(Primitive):
        raise InputError(f"kind: expected one of {', '.join(get_args(Primitive))}, got {kind!r:.100}")
    if kind == "line":
        return torch.tensor([[-1, 0], [-1 / 3, 0], [1 / 3, 0], [1, 0]], dtype=dtype)
    quarter = torch.tensor([[1, 0], [1, _HANDLE], [_HANDLE, 1]], dtype=dtype)
    turn = torch.tensor([[0, 1], [-1, 0]], dtype=dtype)
    parts = [quarter]
    for _ in range(3 if kind == "circle" else 1):
        parts.append(parts[-1] @ turn)
    return torch.cat([*parts, parts[-1][:1] @ turn])


def patch_order(
    attention: Float[Tensor, "h w"], patch: int
) -> tuple[Int[Tensor, " patches"], Float[Tensor, "patches 2"]]:
    """Patches of a map, the one with the highest mean first, of equals the one that comes first row by row.

    Args:
        attention: of every pixel.
        patch: side in pixels.

    Returns:
        Numbers of the patches, row by row, and x, y of their middles in pixels.

    Raises:
        InputError: sides that are no multiple of the patch, or numbers that are not finite.

    Example:
        >>> import torch
        >>> from tether.generation.canvases.primitives import patch_order
        >>> numbers, middles = patch_order(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), 1)
        >>> numbers.tolist(), middles[0].tolist()
        ([2, 1, 0, 3], [0.5, 1.5])
    """
    if attention.ndim != 2 or patch < 1 or any(side % patch or not side for side in attention.shape):
        raise InputError(f"attention: expected (h, w), multiples of {patch}, got {tuple(attention.shape)}")
    if not bool(attention.isfinite().all()):
        raise InputError("attention: expected finite numbers")
    attention = attention if attention.is_floating_point() else attention.float()
    means = attention.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).mean(dim=(1, 3))
    order = torch.argsort(means.flatten(), descending=True, stable=True)
    columns = means.shape[1]
    middles = torch.stack([order % columns, order // columns], dim=1).to(attention) * patch + patch / 2
    return order, middles


class PrimitiveCanvas(Canvas):
    """Lines, circles and semicircles, each moved by a linear map and a shift alone (CLIPDrawX, arXiv 2312.02345).

    Stroke i is ``A[i] @ base + b[i]`` of its primitive at every step, so the frames of a painting tell where it came
    from: see ``traces``. Strokes start faint, in the patches with the most attention, and at each step of the loop
    some are left out, so that none can rely on the others. A map may become singular, which makes a line of a circle:
    see ``collapsed``.

    There is no public code; how a primitive starts, its rates and dropout are ours, as far as the paper does not say.
    Colours are learnt here, since prompts name them; ``color="black"`` leaves 8 numbers a stroke in place of 11.

    Attributes:
        A: (n, 2, 2) in pixels.
        b: (n, 2) in pixels.
        opacity: (n,) 0 to 1.
        width: (n,) half of the thickness in pixels.
        color: (n, 3) 0 to 1.
        kinds: of each stroke.

    Example:
        >>> import torch
        >>> from tether.generation.canvases import PrimitiveCanvas
        >>> canvas = PrimitiveCanvas(patches=2, patch=8, size=32, generator=torch.Generator().manual_seed(0))
        >>> canvas.render().shape, canvas.elements, canvas.kinds[:4]
        (torch.Size([3, 32, 32]), 18, ('line', 'line', 'line', 'circle'))
    """

    traced: ClassVar[bool] = True
    lines: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        kinds: Mapping[Primitive, Whole] | None = None,
        patches: Count = 10,
        patch: Annotated[int, Ge(1), Le(2_048)] = 32,
        size: CanvasSide = 224,
        opacity: Share = 0.3,
        dropout: Decay = 0.1,
        *,
        max_width: Widest = 50.0,
        color: Literal["learnt", "black"] = "learnt",
        samples: Samples = 16,
        tau: Positive = 0.5,
        reach: Reach | None = None,
        attention: Float[Tensor, "h w"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the start.

        Args:
            kinds: how many of each primitive a patch gets; default: three lines, circles and semicircles.
            patches: that get them, those with the most attention.
            patch: side of a patch in pixels.
            size: side of the image in pixels, a multiple of it.
            opacity: at the start.
            dropout: share of the strokes that a step leaves out.
            max_width: greatest half-width in pixels.
            color: ``learnt``, or all black.
            samples: see ``render_strokes``.
            tau: see ``render_strokes``.
            reach: see ``render_strokes``.
            attention: of every pixel, such as how much the patches of an image have to do with a text; None prefers
                the middle.
            generator: of the start, on the CPU; None takes seed 0.

        Raises:
            InputError: an unknown primitive or none at all, a size that is no multiple of the patch, more patches than
                there are, or attention of another size.
        """
        super().__init__()
        wanted: dict[Primitive, int] = {"line": 3, "circle": 3, "semicircle": 3} if kinds is None else dict(kinds)
        bases = {kind: base_points(kind) for kind in wanted}
        row = tuple(kind for kind, many in wanted.items() for _ in range(many))
        if not row:
            raise InputError("kinds: expected at least one primitive, got none")
        if size % patch:
            raise InputError(f"size: expected a multiple of the patch of {patch}, got {size}")
        if attention is not None and tuple(attention.shape) != (size, size):
            raise InputError(f"attention: expected ({size}, {size}), got {tuple(attention.shape)}")
        _, middles = patch_order(_middle(size) if attention is None else attention.float().cpu(), patch)
        if patches > len(middles):
            raise InputError(f"patches: expected at most the {len(middles)} that there are, got {patches}")
        draws = generator or torch.Generator().manual_seed(0)
        self.kinds = row * patches
        many = self.elements = len(self.kinds)
        places = middles[:patches].repeat_interleave(len(row), dim=0)
        angle = 2 * torch.pi * torch.rand(many, generator=draws)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(many, 2, 2)
        self.A = nn.Parameter(_START * patch * turn)
        self.b = nn.Parameter(places + patch * (torch.rand(many, 2, generator=draws) - 0.5))
        self.opacity = nn.Parameter(torch.full((many,), opacity))
        self.width = nn.Parameter(torch.ones(many))
        shown = torch.rand(many, 3, generator=draws) if color == "learnt" else torch.zeros(many, 3)
        self.color = nn.Parameter(shown, requires_grad=color == "learnt")
        self.base: Tensor
        self.counts: Tensor
        self.register_buffer("base", torch.cat([bases[kind] for kind in self.kinds]))
        self.register_buffer("counts", torch.tensor([len(bases[kind]) for kind in self.kinds]))
        self.size, self.max_width, self._samples, self._tau, self._reach = size, max_width, samples, tau, reach
        self.dropout, self._learnt = dropout, color == "learnt"
        self.rates = {"linear": size / PUBLISHED_SIDE, "opacity": 0.01, "width": 0.1}
        if self._learnt:
            self.rates = {**self.rates, "color": 0.01}

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        roles = {"linear": (self.A, self.b), "opacity": (self.opacity,), "width": (self.width,)}
        return {**roles, "color": (self.color,)} if self._learnt else roles

    def pace(self, role: str, step: int, steps: int) -> float:
        """See Canvas."""
        return slowing(step, steps) if role == "linear" else 1.0

    def points(self) -> Float[Tensor, "points 2"]:
        """Control points of all strokes, stroke after stroke."""
        owner = torch.repeat_interleave(torch.arange(self.elements, device=self.counts.device), self.counts)
        return torch.einsum("pij,pj->pi", self.A[owner], self.base.to(self.A)) + self.b[owner]

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "3 size size"]:
        """See Canvas."""
        return render_strokes(
            self.points(), self.counts, self.width, torch.cat([self.color, self.opacity[:, None]], dim=1),
            size=(self.size, self.size), samples=self._samples, tau=self._tau, reach=self._reach, keep=keep,
        )  # fmt: skip

    @torch.no_grad()
    def clamp_(self) -> None:
        """See Canvas."""
        self.width.clamp_(1.0, self.max_width)
        self.opacity.clamp_(0.0, 1.0)
        self.color.clamp_(0.0, 1.0)

    @property
    def collapsed(self) -> Bool[Tensor, " n"]:
        """Circles and semicircles that their map has flattened to lines."""
        lengths = torch.linalg.svdvals(self.A.detach())
        round_ = torch.tensor([kind != "line" for kind in self.kinds], device=lengths.device)
        return round_ & (lengths[:, 1] < _THIN * lengths[:, 0])

    @torch.no_grad()
    def to_svg(self) -> str:
        """See Canvas; ``stroke-width`` is twice the half-width."""
        chains = self.points().split(self.counts.tolist())
        shown = zip(chains, self.width.tolist(), self.color.tolist(), self.opacity.tolist(), strict=True)
        paths = [
            SvgPath([(x, y) for x, y in chain.tolist()], 2 * wide, (red, green, blue), opacity)
            for chain, wide, (red, green, blue), opacity in shown
        ]
        return svg_text(paths, width=self.size, height=self.size)


def traces(frames: Sequence[Frame]) -> tuple[list[int], Float[Tensor, "frames n 2 2"], Float[Tensor, "frames n 2"]]:
    """How each primitive came to where it is: steps, and its A and b at each of them.

    Args:
        frames: of a painting on a ``PrimitiveCanvas``.

    Raises:
        InputError: frames of another canvas.
    """
    if not frames or any("linear" not in frame.parameters for frame in frames):
        raise InputError("frames: expected those of a painting on a canvas of primitives")
    maps, shifts = (torch.stack([frame.parameters["linear"][place] for frame in frames]) for place in (0, 1))
    return [frame.step for frame in frames], maps, shifts


def _middle(size: int) -> Float[Tensor, "size size"]:
    """Attention that is highest in the middle."""
    away = torch.arange(size) + 0.5 - size / 2
    return -(away[:, None] ** 2 + away**2)
