"""Edits by a text of what a generator with a code a layer can make, while pose, head and ground stay: FICE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import PositiveRate, Whole, checked
from tether.core.runtime_protocol import ByAttributes
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.edit.kept_parts import (
    Parser,
    PartMaps,
    changed_maps,
    changed_outside,
    code_spread,
    pasted,
    text_gap,
)
from tether.generation.goals import ClipGoal, Goal, Moment, PlainView, RandomViews
from tether.generation.painting import Frame, paint
from tether.models.embed import encode_texts

FICE_WEIGHTS: Mapping[str, float] = {"clip": 1.0, "img": 30.0, "shape": 10.0, "head_shape": 1.0, "w_delta": 1.0}
"""Of each term; those of FICE (arXiv 2301.02110, its code)."""


@runtime_checkable
class StyleGenerator(Protocol, metaclass=ByAttributes):
    """Images as codes, one a layer, and back; ``models.latent.style.StyleCodec`` is one."""

    def encode(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) floats in -1 to 1 to (b, n, d) codes."""
        ...

    def decode(self, w: Tensor) -> Tensor:
        """(b, n, d) codes to (b, 3, h, w) floats about -1 to 1, with gradient."""
        ...


class CodeCanvas(Canvas):
    """What a generator makes of codes, and the codes are what moves.

    Example:
        >>> import torch
        >>> from tether.generation.edit.guided_inversion import CodeCanvas
        >>> from tether.models.latent.style import StyleCodec
        >>> codec = StyleCodec(size=16, dim=8, width=8)
        >>> CodeCanvas(codec, torch.zeros(2, 3, 8)).render().shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, generator: StyleGenerator, w: Float[Tensor, "b n d"], *, lr: float = 5e-2) -> None:
        """Take the codes to begin with.

        Args:
            generator: at rest; it is not moved.
            w: a code a layer, of each image.
            lr: rate of the codes.

        Raises:
            InputError: codes of another shape, or that are not finite.
        """
        super().__init__()
        if w.ndim != 3 or not len(w) or not bool(w.isfinite().all()):
            raise InputError(f"w: expected (b, n, d) finite codes, got {tuple(w.shape)}")
        self._make: Callable[[Tensor], Tensor] = generator.decode  # no module of its own: its weights are not painted
        self.codes = nn.Parameter(w.detach().clone())
        self.rates = {"codes": lr}

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        return {"codes": (self.codes,)}

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """About 0 to 1, as the generator gives it."""
        return (self._make(self.codes) + 1) / 2


@dataclass(frozen=True, slots=True)
class GuidedEdit:
    """Images after an edit.

    Attributes:
        image: about 0 to 1, the kept part pasted back.
        generated: the same before that; measure what was kept here.
        w: the codes that ``generated`` was made of.
        losses: each term, before its weight, added over images: at the start and after each step.
        frames: what was generated on the way.
    """

    image: Float[Tensor, "b 3 h w"]
    generated: Float[Tensor, "b 3 h w"]
    w: Float[Tensor, "b n d"]
    losses: Mapping[str, list[float]]
    frames: tuple[Frame, ...]


class GuidedInversion:
    """Moves the codes of an image until a CLIP sees a text in it and parts, ground and head are where they were.

    The release makes one step more than it is asked for, 501, and shows what it made before the last; so ``steps`` is
    the number of steps that show, and the losses have one entry more. Images do not touch each other: each has the
    result that it would have alone.

    Source: arXiv 2301.02110, section 3; github.com/MartinPernus/FICE, ``trainer.py`` at 7354216.

    Example:
        >>> import torch
        >>> from tether.generation import GuidedInversion, PartMaps
        >>> from tether.models import create
        >>> from tether.models.latent.style import StyleCodec
        >>> def parser(image):
        ...     bright = image.mean(dim=1, keepdim=True).clamp(0, 1)
        ...     return PartMaps(body=bright, head=1 - bright, pose=bright)
        >>> editor = GuidedInversion(StyleCodec(size=16, dim=8, width=8), create("tiny").eval(), parser, steps=2)
        >>> found = editor.edit(torch.rand(1, 3, 16, 16), "a red dress")
        >>> found.image.shape, found.w.shape, len(found.losses["clip"])
        (torch.Size([1, 3, 16, 16]), torch.Size([1, 3, 8]), 3)
    """

    @checked
    def __init__(
        self,
        generator: StyleGenerator,
        model: DualEncoder,
        parser: Parser | None,
        *,
        weights: Mapping[str, float] = FICE_WEIGHTS,
        steps: Annotated[int, Ge(1), Le(1_000_000)] = 500,
        lr: PositiveRate = 5e-2,
        views: RandomViews | PlainView | None = None,
    ) -> None:
        """Take the parts, all at rest.

        Args:
            generator: makes images of codes, and finds the codes of an image.
            model: any encoder of ``tether.load``, which leads.
            parser: finds what may change, what is kept and the pose, of images in 0 to 1. Without one ``edit`` is given
                them, and ``shape`` and ``head_shape`` are left out.
            weights: of the terms of ``FICE_WEIGHTS``; one that is missing is 0, and such terms are not computed.
            steps: of Adam.
            lr: its rate.
            views: that the model sees; None shows it the image as it is, as the paper does.

        Raises:
            InputError: no generator, an unknown term, a weight below 0, or all of them 0.
        """
        if not isinstance(generator, StyleGenerator):
            raise InputError(f"generator: expected one that encodes and decodes, got {type(generator).__name__}")
        for name, value in weights.items():
            if name not in FICE_WEIGHTS:
                raise InputError(f"weights: expected some of {', '.join(FICE_WEIGHTS)}, got {name!r}")
            if not 0 <= value < float("inf"):
                raise InputError(f"weights: {name}: expected a finite number of at least 0, got {value}")
        idle = ("shape", "head_shape") if parser is None else ()
        self.weights = {name: weights[name] for name in FICE_WEIGHTS if weights.get(name) and name not in idle}
        if not self.weights:
            raise InputError("weights: expected one above 0, got none")
        self.generator, self.model, self.parser = generator, model, parser
        self.steps, self.lr, self.views = steps, lr, PlainView() if views is None else views

    def edit(
        self,
        image: Float[Tensor, "b 3 h w"],
        text: str | Sequence[str],
        *,
        parts: PartMaps | None = None,
        w: Float[Tensor, "b n d"] | None = None,
        frames: Whole = 0,
        on_progress: Callable[[int, int | None], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> GuidedEdit:
        """Edit images.

        Args:
            image: in 0 to 1, of the generator's size.
            text: what to show, one for all or one each.
            parts: of the images, in place of what the parser says of them.
            w: codes to begin with, in place of the generator's own of the images.
            frames: kept on the way, besides the start.
            on_progress: called with steps done and in all.
            should_stop: asked after each step.

        Raises:
            InputError: images, maps or codes of another shape or range, one code alone with ``w_delta``, no parts, or
                an empty text or another number of them.
            NotFiniteError: a loss that stays without a number.
            StoppedError: ``should_stop`` said so.
        """
        canvas, goals, parts = self.begun(image, text, parts=parts, w=w)
        painting = paint(
            canvas, goals, steps=self.steps, frames=frames, on_progress=on_progress, should_stop=should_stop
        )
        with torch.no_grad():
            made = canvas.render()
            last = {name: float(goal(made, Moment(self.steps, self.steps))) for name, goal in goals.items()}
        losses = {name: [loss / self.weights[name] for loss in [*painting.losses[name], last[name]]] for name in goals}
        return GuidedEdit(pasted(made, image, parts.head), made, canvas.codes.detach().clone(), losses, painting.frames)

    def begun(
        self,
        image: Float[Tensor, "b 3 h w"],
        text: str | Sequence[str],
        *,
        parts: PartMaps | None = None,
        w: Float[Tensor, "b n d"] | None = None,
    ) -> tuple[CodeCanvas, dict[str, Goal], PartMaps]:
        """What ``edit`` paints: the canvas, its goals with their weights, and the parts; for a loop of one's own.

        Args:
            image: see ``edit``.
            text: see ``edit``.
            parts: see ``edit``.
            w: see ``edit``.

        Raises:
            InputError: see ``edit``.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not len(image):
            raise InputError(f"image: expected (b, 3, h, w), at least one, got {tuple(image.shape)}")
        if not image.is_floating_point() or not bool(((image >= 0) & (image <= 1)).all()):
            raise InputError(f"image: expected floats from 0 to 1, got {image.dtype} from {image.min()} to "
                             f"{image.max()}")  # fmt: skip
        with torch.no_grad():
            parts = self._parts(image) if parts is None else parts
            codes = self.generator.encode(image * 2 - 1) if w is None else w
        wanted = (len(image), *image.shape[2:])
        if (len(parts.body), *parts.size) != wanted:
            raise InputError(f"parts: expected maps of {wanted[0]} images of {wanted[1:]}, got {len(parts.body)} of "
                             f"{parts.size}")  # fmt: skip
        canvas = CodeCanvas(self.generator, codes, lr=self.lr)
        if len(codes) != len(image):
            raise InputError(f"w: expected codes of {len(image)} images, got {len(codes)}")
        if "w_delta" in self.weights:
            code_spread(codes)  # which refuses one code alone
        with torch.no_grad():
            start = canvas.render()
        if start.shape != image.shape:
            raise InputError(f"image: expected what the generator makes, {tuple(start.shape)}, got "
                             f"{tuple(image.shape)}")  # fmt: skip
        terms = self._terms(image, text, parts, canvas)
        return canvas, {name: _weighted(terms[name], weight) for name, weight in self.weights.items()}, parts

    def _parts(self, image: Tensor) -> PartMaps:
        if self.parser is None:
            raise InputError("parts: expected the parts of the images, as there is no parser; got none")
        return self.parser(image)

    def _terms(self, real: Tensor, text: str | Sequence[str], parts: PartMaps, canvas: CodeCanvas) -> dict[str, Goal]:
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(one, str) and one.strip() for one in texts) or len(texts) not in (1, len(real)):
            raise InputError(f"text: expected one with words for all or each of {len(real)} images, got "
                             f"{texts!r:.200}")  # fmt: skip
        with torch.no_grad():
            rows = encode_texts(self.model, texts)
        seen: list[tuple[Tensor, PartMaps]] = []

        def parsed(made: Tensor) -> PartMaps:  # once for both terms that ask for it
            if not seen or seen[0][0] is not made:
                seen[:] = [(made, self._parts(made))]
            return seen[0][1]

        return {
            "clip": ClipGoal(self.model, [_TextGap(rows, count=len(real))], views=self.views),
            "img": lambda image, moment: changed_outside(image, real, parts.body),
            "shape": lambda image, moment: changed_maps(parsed(image).pose, parts.pose),
            "head_shape": lambda image, moment: changed_maps(parsed(image).head, parts.head),
            "w_delta": lambda image, moment: code_spread(canvas.codes),
        }


class _TextGap:
    """An aim: what each image lacks of its text, the mean over its views."""

    def __init__(self, rows: Tensor, *, count: int) -> None:
        self._rows, self._count = F.normalize(rows, dim=1).expand(count, -1), count

    def __call__(self, rows: Tensor, moment: Moment) -> Tensor:
        views = rows.unflatten(0, (-1, self._count))
        return text_gap((views * self._rows.to(rows)).sum(dim=2).mean(dim=0))


def _weighted(term: Goal, weight: float) -> Goal:
    return lambda image, moment: weight * term(image, moment)
