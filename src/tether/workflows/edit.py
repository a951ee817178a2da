"""One image changed by words: restyled, or morphed from one text to another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.atomic_io import atomic_folder
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Whole, checked
from tether.data.images import decode
from tether.generation.canvases import Canvas, PixelCanvas
from tether.generation.edit.frames import png_bytes
from tether.generation.edit.morph import Morpher
from tether.generation.edit.style import SemanticStyler
from tether.generation.edit.style_net import StyleNetCanvas
from tether.generation.goals import Goal, PlainView, RandomViews
from tether.generation.painting import Painting
from tether.workflows.drawing.mask import check_part, read_mask
from tether.workflows.drawing.result import PaintedImage, as_bytes, nearness
from tether.workflows.drawing.state import check_state, painted, setback_remarks
from tether.workflows.models import Model, opened

_LONGEST = 2
"""The longer side of what is worked on, in sides of the model's images, where no size is given."""
_STEPS = {"style": 400, "morph": 200}
_PIXELS_RATE = 0.01
_FELL = "the similarity to the text fell, so nothing was gained; more --steps or another --rate may help"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedImage(PaintedImage):
    """What ``edit`` gives; see ``PaintedImage``.

    Attributes:
        text: what was asked for.
        before: the similarity of the image as it was.
        judged: both by another model, before and after, or None.
        change: mean absolute change of pixels, in steps of 255; with a mask, inside and outside of it.
    """

    text: str
    before: float
    judged: tuple[float, float] | None
    change: tuple[float, ...]

    def save_frames(self, folder: str | Path) -> Path:
        """Write how the image looked on the way, one PNG a frame, named by its step; the whole folder at once.

        Raises:
            InputError: a folder that holds something.
            WriteError: as on a full disk.
        """
        with atomic_folder(Path(folder)) as temporary:
            for frame in self.painting.frames:
                (temporary / f"{frame.step:06d}.png").write_bytes(png_bytes(frame.image))
        return Path(folder)

    @property
    def changed(self) -> str:
        """The change in words."""
        if len(self.change) == 1:
            return f"{self.change[0]:.1f} of 255"
        return "{:.1f} of 255 inside the mask, {:.1f} outside".format(*self.change)

    def _title(self) -> str:
        return self.text

    def _kind(self) -> str:
        return "An image"

    def _verb(self) -> str:
        return "edit"

    def _told(self) -> list[tuple[str, str]]:
        told = [("similarity to the text, by the model that led", f"{self.before:.3f}, then {self.similarity:.3f}")]
        if self.judged is not None:
            told.append(("by another model, which led nothing", "{:.3f}, then {:.3f}".format(*self.judged)))
        return [*told, ("mean change of pixels", self.changed)]


Way = tuple[Canvas, Mapping[str, Goal], Mapping[str, Any], Mapping[str, float] | None]
"""What moves, towards what, what says so in a state, and the rates of roles where they are not the canvas's own."""


@checked
def edit(
    image: str | Path | Tensor,
    *,
    model: Model,
    style: str | None = None,
    ground: str | None = None,
    mask: str | Path | Bool[Tensor, "h w"] | None = None,
    morph: str | None = None,
    source: str = "a photo",
    similarity: Literal["geodesic", "cosine"] = "geodesic",
    stability: NonNegative = 0.03,
    canvas: Literal["network", "pixels"] = "network",
    steps: Annotated[int, Ge(1), Le(1_000_000)] | None = None,
    rate: PositiveRate | None = None,
    crops: Count = 64,
    views: Annotated[int, Ge(0), Le(256)] = 4,
    size: Annotated[int, Ge(16), Le(2_048)] | None = None,
    frames: Whole = 12,
    judge: Model | None = None,
    state: Path | None = None,
    resume: bool = False,
    save_every: Count = 50,
    seed: Whole = 0,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> EditedImage:
    """Change one image as words say, for a model: ``style`` restyles it, ``morph`` moves it from a text to another.

    Args:
        image: a file, or uint8 pixels (3, h, w).
        model: loaded, or a name that ``tether.load`` takes.
        style: what it, or with a mask the object, shall look like (Sem-CS, arXiv 2307.05934).
        ground: what lies outside the mask shall look like; None holds it.
        mask: of the object: a PNG of the image's size, white (or anything but black) where it is, or booleans.
        morph: what the image shall show (Geodesic CLIP, arXiv 2401.10526).
        source: what it shows now.
        similarity: of a morph.
        stability: weight of keeping the image's embedding, of a morph.
        canvas: of a morph: a small network that changes the image, or its pixels, which become noise more easily.
        steps: of the optimiser; 400 for a style, 200 for a morph.
        rate: of the optimiser, in place of the canvas's own.
        crops: of each step, of a style.
        views: random ones of each step, of a morph; 0 looks at the image as it is.
        size: longer side of what is worked on, at most the image's own; default: twice the model's side.
        frames: kept for the film, besides the start.
        judge: another model that says how near the image is to the text.
        state: file of the edit on its way; it stays until ``EditedImage.remove_state``, for after what you write.
        resume: go on from there, if there is one.
        save_every: steps between two writes of it.
        seed: of crops, views and network.
        random_weights: accept models without trained weights.
        device: where to load the models.
        on_progress: called with steps done and in all.
        should_stop: asked after each step; when true the state is written and ``StoppedError`` raised.

    Raises:
        InputError: no way or several, a text without words or that is its source, an image that cannot be read, a mask
            of another size, of all or of nothing, a state of another edit, or one that is there without ``resume``.
        LockedError: another process edits to this state.
        NotFiniteError: a loss that stays without a number; the state holds the last good canvas.

    Example:
        >>> import torch, tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> pixels = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
        >>> found = tether.edit(pixels, model=model, style="a red cat", crops=4, steps=2)
        >>> found.image.shape
        torch.Size([3, 40, 60])
    """
    check_ways(style=style, morph=morph)
    for name, value in (("--ground", ground), ("--mask", mask)):
        if value is not None and style is None:
            raise InputError(f"{name}: expected with --style, got it with --morph")
    for name, value in (("--style", style), ("--ground", ground), ("--morph", morph)):
        if value is not None and value.split() == source.split():
            raise InputError(f"{name}: expected another text than --source, {source!r:.200}; the two give no direction")
    if ground is not None and mask is None:
        raise InputError("--ground: expected --mask with it, that says where the object is")
    check_state(state, resume=resume)
    shown = image if isinstance(image, Tensor) else decode(Path(image))
    if shown.dtype != torch.uint8 or shown.ndim != 3 or len(shown) != 3:
        raise InputError(f"image: expected uint8 (3, h, w), got {shown.dtype} {tuple(shown.shape)}")
    marked = None if mask is None else read_mask(mask, size=(shown.shape[1], shown.shape[2]))
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    judging = None if judge is None else opened(judge, device=device, random_weights=random_weights)[0]
    most = _LONGEST * max(encoder.image_spec.size) if size is None else size
    start, marked, reduced = _sized(shown, marked, most=most)
    start = start.to(encoder.logit_scale.device)
    if style is not None:
        steps = _STEPS["style"] if steps is None else steps
        way = _styled(
            start, encoder, style=style, ground=ground, mask=marked, source=source, crops=crops, rate=rate, steps=steps,
            seed=seed,
        )  # fmt: skip
    else:
        assert morph is not None  # check_ways saw to it
        steps = _STEPS["morph"] if steps is None else steps
        way = _morphed(
            start, encoder, morph=morph, source=source, similarity=similarity, stability=stability, canvas=canvas,
            rate=rate, views=views, steps=steps, seed=seed,
        )  # fmt: skip
    moved, goals, about, rates = way
    digest = hashlib.sha256(as_bytes(start).numpy().tobytes()).hexdigest()
    facts = {"model": model_digest(cast(nn.Module, encoder)), "image": digest, "frames": frames, "seed": seed}
    painting = painted(
        moved.to(start.device), goals, state=state, resume=resume, made_of={**facts, "steps": steps, **about},
        steps=steps, rates=rates, seed=seed, frames=frames, save_every=save_every, on_progress=on_progress,
        should_stop=should_stop,
    )  # fmt: skip
    said = [] if reduced is None else [reduced]
    return edited(
        style or morph or "", painting, start, marked, encoder=encoder, judge=judging, remarks=said, state=state
    )


def check_ways(**ways: str | None) -> None:
    """See that one way is asked for, before any model is opened.

    Raises:
        InputError: none, or several.
    """
    given = [name for name, text in ways.items() if text is not None]
    if len(given) != 1:
        names = ", ".join(f"--{name}" for name in ways)
        raise InputError(f"{names}: expected one of them, got {' and '.join(given) or 'none'}")


def _styled(
    start: Tensor, model: DualEncoder, *, style: str, ground: str | None, mask: Tensor | None, source: str,
    crops: int, rate: float | None, steps: int, seed: int,
) -> Way:  # fmt: skip
    given: dict[str, Any] = {"crops": crops, "steps": steps, **({} if rate is None else {"rate": rate})}
    styler = SemanticStyler(
        model, object_text=style, ground_text=ground, source_text=source, mask=mask, seed=seed, **given
    )
    marks = None if mask is None else hashlib.sha256(mask.numpy().tobytes()).hexdigest()
    facts = {"style": style, "ground": ground, "source": source, "mask": marks, **given}
    return styler.canvas(start), styler.goals(start), facts, None


def _morphed(
    start: Tensor, model: DualEncoder, *, morph: str, source: str, similarity: Literal["geodesic", "cosine"],
    stability: float, canvas: str, rate: float | None, views: int, steps: int, seed: int,
) -> Way:  # fmt: skip
    morpher = Morpher(
        model, text=morph, source_text=source, similarity=similarity, stability=stability,
        views=RandomViews(count=views, fill=None) if views else PlainView(), steps=steps, seed=seed,
    )  # fmt: skip
    moved: Canvas = PixelCanvas.of(start) if canvas == "pixels" else StyleNetCanvas(start, seed=seed)
    (role,) = moved.rates
    own = _PIXELS_RATE if canvas == "pixels" else moved.rates[role]
    taken = own if rate is None else rate
    facts: dict[str, Any]
    facts = {"morph": morph, "source": source, "similarity": similarity, "stability": stability, "canvas": canvas}
    facts |= {"rate": taken, "views": views}
    return moved, {"morph": morpher.goal(start[None])}, facts, {role: taken}


def _sized(
    pixels: Tensor, mask: Tensor | None, *, most: int
) -> tuple[Float[Tensor, "3 h w"], Bool[Tensor, "h w"] | None, str | None]:
    """Image in 0 to 1 and mask, reduced to a longer side, and what there is to say of it."""
    high, wide = pixels.shape[1:]
    image = pixels.float() / 255
    if max(high, wide) <= most:
        return image, mask, None
    size = max(2, round(high * most / max(high, wide))), max(2, round(wide * most / max(high, wide)))
    image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    if mask is not None:
        mask = F.interpolate(mask[None, None].float(), size=size, mode="bilinear", antialias=True)[0, 0] >= 0.5
        check_part(mask, where=f"once the image is {size[0]} x {size[1]}")
    to = f"{size[0]} x {size[1]}"
    return image, mask, f"the image was reduced from {high} x {wide} to {to} pixels (height x width); --size says more"


@torch.no_grad()
def edited(
    text: str, painting: Painting, start: Tensor, mask: Tensor | None, *, encoder: DualEncoder,
    judge: DualEncoder | None, remarks: Sequence[str] = (), state: Path | None = None,
) -> EditedImage:  # fmt: skip
    """What came of an edit.

    Args:
        text: what was asked for.
        painting: with one image of three dimensions.
        start: (3, h, w) the image as it was, in 0 to 1.
        mask: (h, w) where it might change; a part without pixels is left out.
        encoder: that led.
        judge: another, or None.
        remarks: what there is to say.
        state: file of the edit.
    """
    off = 255 * (painting.image.cpu() - start.cpu()).abs().mean(dim=0)
    parts = [off] if mask is None or mask.all() or not mask.any() else [off[mask], off[~mask]]
    before, after = nearness(encoder, text, start, painting.image)
    judged = None if judge is None else nearness(judge, text, start, painting.image)
    fell = [] if after >= before else [_FELL]
    return EditedImage(
        text=text, painting=painting, similarity=after, before=before,
        judged=None if judged is None else (judged[0], judged[1]), change=tuple(float(part.mean()) for part in parts),
        remarks=[*setback_remarks(painting), *fell, *remarks], state=state,
    )  # fmt: skip
