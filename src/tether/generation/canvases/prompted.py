"""CLIPDraw in one call: a canvas drawn for a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from annotated_types import Ge, Le

from tether.core.protocols import DualEncoder
from tether.core.ranges import NonNegative, Whole, checked
from tether.generation.canvases.canvas import Canvas
from tether.generation.goals import ClipGoal, PlainView, RandomViews
from tether.generation.painting import Painting, paint


@checked
def draw(
    canvas: Canvas,
    model: DualEncoder,
    prompt: str | Sequence[str],
    *,
    negatives: Sequence[str] = (),
    negative_weight: NonNegative = 0.3,
    steps: Annotated[int, Ge(1), Le(10_000_000)] = 1_000,
    n_augment: Annotated[int, Ge(0), Le(256)] = 4,
    callback: Callable[[int, int | None], None] | None = None,
    seed: Whole = 0,
    frames: Whole = 12,
) -> Painting:
    """Draw a text; ``paint`` has more settings, ``tether.draw`` is the verb.

    Args:
        canvas: moved in place.
        model: any encoder of ``tether.load``, in evaluation mode.
        prompt: the text; several for the parts of the circle around a canvas in space.
        negatives: what not to show.
        negative_weight: of each.
        steps: of Adam.
        n_augment: random views of each step; 0 looks at the canvas as it is.
        callback: called with steps done and in all.
        seed: of the views.
        frames: kept, besides the start.

    Raises:
        InputError: a text without words.
        NotFiniteError: a loss that is not finite again and again; it names the step.

    Source: CLIPDraw (arXiv 2106.14843).

    Example:
        >>> from tether import generation
        >>> from tether.generation.canvases import StrokeCanvas
        >>> from tether.models import create
        >>> drawn = generation.draw(StrokeCanvas(3, 32), create("tiny").eval(), "a red circle", steps=2, n_augment=1)
        >>> drawn.image.shape, [frame.step for frame in drawn.frames]
        (torch.Size([3, 32, 32]), [0, 1, 2])
    """
    views = RandomViews(count=n_augment) if n_augment else PlainView()
    goal = ClipGoal.of_prompts(model, prompt, negatives=negatives, negative_weight=negative_weight, views=views)
    return paint(canvas, goal, steps=steps, seed=seed, frames=frames, on_progress=callback)
