"""Drawing what a text says, for a model: strokes, blobs, primitives or a field, with their SVG and film."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Le
from torch import nn

from tether.core.atomic_io import read_text, write_text
from tether.core.component import build, settings
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Whole, checked
from tether.generation.canvases import CANVASES, Canvas, FinerField, PrimitiveCanvas, StrokeCanvas
from tether.generation.canvases.svg import read_svg
from tether.generation.goals import ClipGoal, PlainView, RandomViews
from tether.generation.inversion.implicit import begin
from tether.generation.painting import Painting
from tether.workflows.drawing.beginning import Beginning, bank_goal, beginning
from tether.workflows.drawing.result import PaintedImage, nearness
from tether.workflows.drawing.state import check_state, painted, setback_remarks
from tether.workflows.methods import named
from tether.workflows.models import Data, Model, opened

_LEAST_SIDE, _MOST_SIDE = 32, 224
"""Of a canvas whose size is not given; between them it is the model's."""
_PATCHES = 7
"""Patches along a side of a canvas of primitives, about."""
_READ = 50 * 2**20
"""Bytes of an SVG file, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPrompt(PaintedImage):
    """What ``draw`` gives; see ``PaintedImage``.

    Attributes:
        prompt: what was asked for, and for sides of a canvas in space the other texts.
        judged: the similarity by another model, or None.
        svg: the drawing as lines, or None for a canvas without them.
    """

    prompt: tuple[str, ...]
    judged: float | None
    svg: str | None

    def save_svg(self, path: str | Path) -> Path:
        """Write the lines, atomically.

        Raises:
            InputError: a canvas without lines.
        """
        write_text(Path(path), self.painting.canvas.to_svg())
        return Path(path)

    def _title(self) -> str:
        return " · ".join(self.prompt)

    def _kind(self) -> str:
        return CANVASES.name_of(type(self.painting.canvas)).capitalize()

    def _told(self) -> list[tuple[str, str]]:
        told = [("similarity to the prompt, by the model that was drawn for", f"{self.similarity:.3f}")]
        if self.judged is not None:
            told.append(("by another model, which nothing was drawn for", f"{self.judged:.3f}"))
        if self.painting.canvas.elements:
            told.append(("strokes", f"{self.painting.canvas.elements:,}"))
        return told

    def _lines(self) -> str | None:
        return self.svg


@checked
def draw(
    prompt: str | Sequence[str],
    *,
    model: Model,
    canvas: str | Mapping[str, Any] | Canvas = "strokes",
    negatives: Sequence[str] = (),
    negative_weight: NonNegative = 0.3,
    steps: Annotated[int, Ge(1), Le(1_000_000)] = 500,
    views: Annotated[int, Ge(0), Le(256)] = 4,
    frames: Whole = 12,
    start: str | Path | None = None,
    bank: Data | None = None,
    judge: Model | None = None,
    state: Path | None = None,
    resume: bool = False,
    save_every: Count = 50,
    seed: Whole = 0,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> DrawnPrompt:
    """Draw what a text says: a canvas is moved until random views of it are near the text for the model.

    Args:
        prompt: what to draw; several texts for the sides of ``blobs``, each its part of the circle.
        model: loaded, or a name that ``tether.load`` takes.
        canvas: a name of ``generation.canvases.CANVASES``, with settings as ``strokes:n_strokes=64``, a mapping of
            them, or a canvas of your own.
        negatives: what not to show.
        negative_weight: of each, CLIPDraw's 0.3.
        steps: of the optimiser.
        views: random ones of each step; 0 looks at the whole canvas, as it is.
        frames: kept for the film, besides the start.
        start: for strokes an SVG of paths to start from, in place of random ones; for an implicit canvas an image.
        bank: images, best with texts, for an implicit canvas (``data.open_source``): it starts from the nearest of the
            first 2,000, and the text is turned to where images lie (``generation.invert``).
        judge: another model that says how near the drawing is to the prompt.
        state: file of the drawing on its way; it stays until ``DrawnPrompt.remove_state``, for after what you write.
        resume: go on from there, if there is one.
        save_every: steps between two writes of it.
        seed: of the start, views and dropout.
        random_weights: accept models without trained weights.
        device: where to load the models.
        on_progress: called with steps done and in all.
        should_stop: asked after each step; when true the state is written and ``StoppedError`` raised.

    Raises:
        InputError: a text without words, several for a flat canvas, an unknown canvas or setting, no strokes, an SVG
            that cannot be read, a state of another drawing, or one that is there without ``resume``.
        LockedError: another process draws to this state.
        NotFiniteError: a loss that stays without a number; the state holds the last good canvas.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.draw("a red circle", model=model, canvas="strokes:n_strokes=5", steps=3)
        >>> found.image.shape, found.svg.count("<path")
        (torch.Size([3, 32, 32]), 5)
    """
    texts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    for name, some in (("prompt", texts), ("--negative", negatives)):
        if not all(isinstance(text, str) and text.strip() for text in some) or (name == "prompt" and not some):
            raise InputError(f"{name}: expected a text with words, got {list(some)!r:.200}")
    check_state(state, resume=resume)
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    judging = None if judge is None else opened(judge, device=device, random_weights=random_weights)[0]
    check_canvas(canvas, svg=False, start=start, bank=bank is not None)
    painted_on, about = _canvas(canvas, encoder, start=start, seed=seed)
    if len(texts) > 1 and len(painted_on.looks(0, torch.Generator())) < 2:
        raise InputError(f"prompt: expected one text for a flat canvas, got {len(texts)}; blobs take one for each side")
    painted_on.to(encoder.logit_scale.device)
    begun = Beginning()
    if isinstance(painted_on, FinerField):
        begun = beginning(encoder, texts[0], bank=bank, start=start, size=painted_on.size)
    if begun.plan is None:
        goal = ClipGoal.of_prompts(
            encoder, texts, negatives=negatives, negative_weight=negative_weight,
            views=RandomViews(count=views) if views else PlainView(),
        )  # fmt: skip
    else:
        goal = bank_goal(encoder, begun.plan, negatives=negatives, negative_weight=negative_weight, views=views)
    made_of = {
        "prompt": list(texts), "negatives": list(negatives), "negative weight": negative_weight, "canvas": about,
        "steps": steps, "views": views, "frames": frames, "seed": seed, "model": model_digest(cast(nn.Module, encoder)),
        **begun.about,
    }  # fmt: skip
    image = begun.image
    painting = painted(
        painted_on, {"similarity": goal}, state=state, resume=resume, made_of=made_of, steps=steps, seed=seed,
        begin=None if image is None else lambda: begin(painted_on, image, seed=seed),
        frames=frames, save_every=save_every, on_progress=on_progress, should_stop=should_stop,
    )  # fmt: skip
    return _drawn(texts, painting, encoder=encoder, judge=judging, remarks=begun.remarks, state=state)


def check_canvas(
    canvas: str | Mapping[str, Any] | Canvas, *, svg: bool, start: str | Path | None, bank: bool = False
) -> None:
    """See that a canvas can be written as SVG, or started from a file or a bank, before any model is opened.

    Raises:
        InputError: an unknown canvas or setting, one without lines, or one that does not start so.
    """
    part = type(canvas) if isinstance(canvas, Canvas) else settings(named(canvas), CANVASES, where="--canvas")[0]
    name = CANVASES.name_of(part)
    if svg and not part.lines:
        raise InputError(f"--svg: {name} is not made of lines; write --out, or take strokes or primitives")
    if start is not None and not issubclass(part, (StrokeCanvas, FinerField)):
        raise InputError(f"--start: expected strokes or implicit to go on with, got {name}")
    if bank and not issubclass(part, FinerField):
        raise InputError(f"--bank: expected the canvas implicit, got {name}")


def _canvas(
    canvas: str | Mapping[str, Any] | Canvas, model: DualEncoder, *, start: str | Path | None, seed: int
) -> tuple[Canvas, Any]:
    """A new canvas of the model's size where none is said, and what it is, as plain values."""
    if isinstance(canvas, Canvas):
        if start is not None and not isinstance(canvas, FinerField):
            raise InputError("--start: expected the name of a canvas with it, got one that is made already")
        plain = {name: value for name, value in vars(canvas).items() if isinstance(value, (bool, int, float, str))}
        return canvas, {"name": CANVASES.name_of(type(canvas)), **plain}
    part, given = settings(named(canvas), CANVASES, where="--canvas")
    size = given.setdefault("size", min(max(*model.image_spec.size, _LEAST_SIDE), _MOST_SIDE))
    if part is PrimitiveCanvas and "patch" not in given:
        sides = (side for side in range(1, size + 1) if not size % side)
        given["patch"] = min(sides, key=lambda side: abs(side - size / _PATCHES))
    spec = {"name": CANVASES.name_of(part), **given}
    if start is None or part is FinerField:
        made = build(spec, CANVASES, where="--canvas", generator=torch.Generator().manual_seed(seed))
        return made, spec
    text = read_text(Path(start), limit=_READ)
    paths, (wide, high) = read_svg(text, where=str(start))
    other = given.keys() - {"size", "max_width", "samples", "tau", "reach"}
    if other:
        raise InputError(f"--canvas: {', '.join(sorted(other))}: the strokes of --start count; leave it out")
    scale = size / max(wide, high)
    points = torch.tensor([point for path in paths for point in path.points]) * scale
    counts = torch.tensor([len(path.points) for path in paths])
    width = torch.tensor([path.width / 2 * scale for path in paths])
    color = torch.tensor([[*path.rgb, path.opacity] for path in paths])
    made = StrokeCanvas.of(points, counts, width, color, **given)
    made.clamp_()
    return made, {**spec, "start": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def _drawn(
    texts: tuple[str, ...], painting: Painting, *, encoder: DualEncoder, judge: DualEncoder | None,
    remarks: list[str], state: Path | None,
) -> DrawnPrompt:  # fmt: skip
    canvas, remarks = painting.canvas, [*remarks, *setback_remarks(painting)]
    collapsed = int(canvas.collapsed.sum()) if isinstance(canvas, PrimitiveCanvas) else 0
    if collapsed:
        remarks.append(f"{collapsed} circles or semicircles have become lines")
    near = [None if model is None else nearness(model, texts[0], painting.image)[0] for model in (encoder, judge)]
    assert near[0] is not None
    return DrawnPrompt(
        prompt=texts, painting=painting, similarity=near[0], judged=near[1],
        svg=canvas.to_svg() if canvas.lines else None, remarks=remarks, state=state,
    )  # fmt: skip
