"""Images out of a CLIP at rest: a field begun at the nearest image of a bank, led to the text as an image would lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, Share, Whole, checked
from tether.core.warps import homography_grid, warped
from tether.generation.canvases.canvas import Canvas
from tether.generation.canvases.implicit import FinerField
from tether.generation.goals import ClipGoal, Moment, ViewMaker
from tether.generation.inversion.bank import ImageBank, blended, local_procrustes
from tether.generation.inversion.field_fit import Blur, fit_field
from tether.generation.painting import Painting, PaintingProgress, paint
from tether.models.embed import encode_texts

GAMMA, BLUR, FIT_STEPS = 0.01, 0.04, 200
"""Of a start: share of weights' lengths, blur as a share of the side, and steps. Ours."""


class ColorViews:
    """Random views of images in colour, scale and shear, drawn from a generator; what lies beyond is mirrored.

    Source: the augmentations that Implicit Inversion names (arXiv 2505.23161); their amounts are ours.

    Example:
        >>> import torch
        >>> from tether.generation import ColorViews
        >>> ColorViews(count=3)(torch.rand(1, 3, 32, 32), draws=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 3, 32, 32])
    """

    @checked
    def __init__(
        self, *, count: Count = 8, color: Share = 0.1, zoom: NonNegative = 0.2, shear: NonNegative = 0.2
    ) -> None:
        """Take the settings.

        Args:
            count: views of each image.
            color: most that each channel is strengthened or weakened by, as a share, and brightened or darkened.
            zoom: most of the logarithm of how much of the image a side of the view shows.
            shear: most that a row is moved by, in its distance from the middle.
        """
        self.count, self._color, self._zoom, self._shear = count, color, zoom, shear

    def __call__(self, image: Float[Tensor, "b 3 h w"], *, draws: torch.Generator) -> Float[Tensor, "views 3 h w"]:
        """The first view of each image, then the second of each, and so on; each with a draw of its own."""
        many = self.count * len(image)
        zoom, shear = (2 * torch.rand(2, many, generator=draws) - 1).unbind()
        gain, shift = (self._color * (2 * torch.rand(2, many, 3, 1, 1, generator=draws) - 1)).to(image).unbind()
        maps = torch.eye(3).repeat(many, 1, 1)
        maps[:, 0, 0] = maps[:, 1, 1] = (self._zoom * zoom).exp()
        maps[:, 0, 1] = self._shear * shear
        grid = homography_grid(maps.to(image), size=(image.shape[2], image.shape[3]))
        return (warped(image.repeat(self.count, 1, 1, 1), grid) * (1 + gain) + shift).clamp(0, 1)


class InversionAim:
    """How far the mean of an image's views lies from a target, and from what a bank holds near it.

    1 - cos(e, target) + beta (1 - cos(e, blend)), where e is the mean of the views' unit rows, at length 1.

    Source: Implicit Inversion (arXiv 2505.23161); ``beta`` is ours.

    Example:
        >>> import torch
        >>> from tether.generation import InversionAim, Moment
        >>> aim = InversionAim(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), beta=0.5)
        >>> round(aim(torch.eye(2), Moment()).item(), 3)  # 1.5 (1 - cos(45 degrees))
        0.439
    """

    @checked
    def __init__(
        self, target: Float[Tensor, " d"], blend: Float[Tensor, " d"] | None = None, *, beta: NonNegative = 0.5
    ) -> None:
        """Take the targets.

        Args:
            target: the text's embedding among images, or an image's.
            blend: mean of the embeddings of images near it; None leaves it out.
            beta: its weight.

        Raises:
            InputError: a row that is no direction, or two of different width.
        """
        for row in (target,) if blend is None else (target, blend):
            if row.shape != target.shape or row.ndim != 1 or not bool(row.isfinite().all()) or not bool(row.any()):
                raise InputError(f"target, blend: expected finite rows (d,), not of zeros, got {tuple(row.shape)}")
        self.target = F.normalize(target, dim=0)
        self.blend = None if blend is None else F.normalize(blend, dim=0)
        self.beta = beta

    def __call__(self, rows: Float[Tensor, "n d"], moment: Moment) -> Float[Tensor, ""]:
        """See Aim; all rows are views of one image."""
        mean = mean_row(rows)
        away = 1 - mean @ self.target.to(mean)
        return away if self.blend is None else away + self.beta * (1 - mean @ self.blend.to(mean))


def mean_row(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The mean of rows that are brought to length 1 first, at length 1."""
    return F.normalize(F.normalize(rows, dim=1).mean(dim=0), dim=0)


@dataclass(frozen=True, slots=True, eq=False)
class InversionPlan:
    """What an inversion is led to, and where it begins.

    Attributes:
        aim: the loss of the views.
        near: numbers of the bank's images that were found, the nearest first; none without a bank.
        aligned: whether the text was turned to where images lie.
    """

    aim: InversionAim
    near: tuple[int, ...] = ()
    aligned: bool = False


@checked
def plan_inversion(
    model: DualEncoder,
    prompt: str | Tensor,
    *,
    bank: ImageBank | None = None,
    beta: NonNegative = 0.5,
    k: Count = 32,
    tau: Positive = 0.1,
    rotate: bool = True,
) -> InversionPlan:
    """Where an image of a prompt must lie for a model.

    The ``k`` images of the bank that are nearest to the prompt are found. A text is turned by the rotation that brings
    their texts to them (``local_procrustes``). A second target is their mean, each weighted by how near it is to the
    first (``blended``).

    Args:
        model: any encoder of ``tether.load``, in evaluation mode.
        prompt: a text, or the (d,) embedding of an image, which is a target as it is.
        bank: of the same model; None leads straight to the text's embedding.
        beta: weight of the second target; 0 leaves it out.
        k: pairs, at most as many as the bank has.
        tau: temperature of their weights.
        rotate: turn the text, where the bank has texts.

    Raises:
        InputError: a text without words, a row of another width or not finite, a bank of another width, or too few
            images for ``k``.

    Source: Implicit Inversion (arXiv 2505.23161); ``beta``, ``k`` and ``tau`` are ours.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError("prompt: expected a text with words, got none")
        with torch.no_grad():
            row = encode_texts(model, [prompt])[0]
    else:
        row = prompt.detach().float().cpu()
        if row.shape != (model.dim,) or not bool(row.isfinite().all()) or not bool(row.any()):
            raise InputError(
                f"prompt: expected a finite embedding ({model.dim},), not of zeros, got {tuple(row.shape)}"
            )
    row = F.normalize(row, dim=0)
    if bank is None:
        return InversionPlan(InversionAim(row))
    near = bank.nearest(row, k=k)
    aligned = rotate and isinstance(prompt, str) and bank.text_rows is not None
    if aligned:
        assert bank.text_rows is not None
        row = F.normalize(local_procrustes(bank.text_rows[near], bank.image_rows[near]).to(row) @ row, dim=0)
    _, blend = blended(row, bank.image_rows[near].to(row), tau=tau)
    return InversionPlan(InversionAim(row, blend if beta else None, beta=beta), tuple(near), aligned)


@dataclass(frozen=True, slots=True)
class Inversion:
    """What came of it.

    Attributes:
        painting: the field, its image, losses and frames.
        plan: what it was led to.
        start: id of the bank's image that it began from, or None.
        bank: images that were searched, 0 without a bank.
        left_out: images that were kept out of the bank on purpose.
    """

    painting: Painting
    plan: InversionPlan
    start: str | None
    bank: int = 0
    left_out: int = 0

    @property
    def image(self) -> Float[Tensor, "3 h w"]:
        """In 0 to 1."""
        return self.painting.image


@checked
def invert(
    model: DualEncoder,
    prompt: str | Tensor,
    *,
    bank: ImageBank | None = None,
    start: Float[Tensor, "3 h w"] | None = None,
    canvas: Canvas | None = None,
    steps: Annotated[int, Ge(1), Le(10_000_000)] = 400,
    beta: NonNegative = 0.5,
    k: Count = 32,
    tau: Positive = 0.1,
    rotate: bool = True,
    views: ViewMaker | None = None,
    gamma: NonNegative = GAMMA,
    fit_steps: Count = FIT_STEPS,
    blur: Blur | None = None,
    seed: Whole = 0,
    frames: Whole = 12,
    progress: PaintingProgress | None = None,
    save: Callable[[PaintingProgress], None] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Inversion:
    """An image of a text, or of an image's embedding, from a CLIP that was never taught to make any.

    A field (``FinerField``) is fitted to a blurred image, the bank's nearest, and then painted by ``paint`` towards
    the target, coarse before fine. With an image's embedding this is reconstruction; with ``start`` an edit.

    Args:
        model: any encoder of ``tether.load``, in evaluation mode; its weights rest.
        prompt: a text, or the (d,) embedding of an image.
        bank: where to begin, and how texts lie beside images; without one a new field begins as it is. It must not
            hold what is to be made: ``ImageBank.of(..., exclude=...)``.
        start: an image in 0 to 1 to begin from in place of the bank's.
        canvas: moved in place; None takes a ``FinerField`` of the model's size. Any canvas will do without a start.
        steps: of the painting.
        beta: see ``plan_inversion``.
        k: see ``plan_inversion``.
        tau: see ``plan_inversion``.
        rotate: see ``plan_inversion``.
        views: of each step; default: ``ColorViews``.
        gamma: see ``fit_field``.
        fit_steps: see ``fit_field``.
        blur: of the image that the start is fitted to, in its pixels; None takes 0.04 of its side.
        seed: of the field, the places and the views.
        frames: see ``paint``.
        progress: see ``paint``; the canvas must be as it was then, and no start is fitted.
        save: see ``paint``.
        on_progress: see ``paint``.
        should_stop: see ``paint``.

    Raises:
        InputError: as ``plan_inversion`` and ``paint``, or a start on a canvas that is no field.
        NotFiniteError: as ``paint``.
        StoppedError: as ``paint``.

    Source: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161, sections as named in the parts).

    Example:
        >>> import torch
        >>> from tether.generation import ImageBank
        >>> from tether.generation.inversion.implicit import invert
        >>> from tether.generation.canvases import FinerField
        >>> from tether.models import create
        >>> model = create("tiny").eval()
        >>> bank = ImageBank.of(model, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ["a", "b"], ids=["x", "y"])
        >>> field = FinerField(size=32, width=8, layers=2)
        >>> found = invert(model, "a red circle", bank=bank, canvas=field, k=2, steps=2, fit_steps=2)
        >>> found.image.shape, found.bank, found.start in bank.ids
        (torch.Size([3, 32, 32]), 2, True)
    """
    plan = plan_inversion(model, prompt, bank=bank, beta=beta, k=k, tau=tau, rotate=rotate)
    if canvas is None:
        canvas = FinerField(size=max(model.image_spec.size), generator=torch.Generator().manual_seed(seed))
    canvas.to(model.logit_scale.device)
    began = bank.ids[plan.near[0]] if bank is not None and start is None else None
    if progress is None:
        shown = start_image(plan, bank) if start is None else start
        if shown is not None:
            begin(canvas, shown, gamma=gamma, steps=fit_steps, blur=blur, seed=seed)
    goal = ClipGoal(model, [plan.aim], views=ColorViews() if views is None else views)
    painting = paint(
        canvas, goal, steps=steps, seed=seed, frames=frames, progress=progress, save=save, on_progress=on_progress,
        should_stop=should_stop,
    )  # fmt: skip
    held, out = (0, 0) if bank is None else (len(bank.ids), bank.left_out)
    return Inversion(painting, plan, began, held, out)


def start_image(plan: InversionPlan, bank: ImageBank | None) -> Float[Tensor, "3 h w"] | None:
    """The bank's image that is nearest to the prompt, in 0 to 1."""
    return None if bank is None else bank.images[plan.near[0]].float() / 255


def begin(
    canvas: Canvas,
    image: Float[Tensor, "3 h w"],
    *,
    gamma: NonNegative = GAMMA,
    steps: Count = FIT_STEPS,
    blur: Blur | None = None,
    seed: Whole = 0,
) -> None:
    """Fit a field to a blurred image to begin from; see ``fit_field``.

    Raises:
        InputError: a canvas that is no field.
    """
    if not isinstance(canvas, FinerField):
        raise InputError(f"canvas: expected an implicit one to begin from an image, got {type(canvas).__name__}")
    wide = BLUR * image.shape[-1] if blur is None else blur
    fit_field(image, field=canvas, gamma=gamma, steps=steps, blur=wide, seed=seed)
