"""One image changed by words: restyled, or morphed from one text to another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.atomic_io import atomic_folder, atomic_path, write_text
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Whole, checked
from tether.data.dense_labels import read_png
from tether.data.images import decode
from tether.generate.draw import Canvas, PixelCanvas
from tether.generate.edit.morph import Morpher
from tether.generate.edit.style import SemanticStyler
from tether.generate.edit.style_goals import unit_images
from tether.generate.edit.style_net import StyleNetCanvas
from tether.generate.goals import Goal, RandomViews
from tether.generate.painting import Painting
from tether.models.embed import encode_texts
from tether.workflows.drawing.film import film_page, png_bytes, png_uri
from tether.workflows.drawing.kept import painted, setback_remarks
from tether.workflows.models import Model, opened

_LONGEST = 2
"""The longer side of what is worked on, in sides of the model's images, where no size is given."""
_STEPS = {"style": 400, "morph": 200}
_PIXELS_RATE = 0.01


@dataclass(frozen=True, slots=True)
class EditedImage:
    """What ``edit`` gives.

    Attributes:
        text: what was asked for.
        painting: the canvas, its image, losses and frames.
        similarity: cosine of the image and the text by the model that led; it rises by construction.
        before: the same of the image as it was.
        judged: the same two by another model, before and after, or None.
        change: mean absolute change of pixels, in steps of 255; with a mask, inside and outside of it.
        remarks: what else is worth knowing.
    """

    text: str
    painting: Painting
    similarity: float
    before: float
    judged: tuple[float, float] | None
    change: tuple[float, ...]
    remarks: list[str] = field(default_factory=list)

    @property
    def image(self) -> Float[Tensor, "3 h w"]:
        """In 0 to 1."""
        return self.painting.image

    def save_png(self, path: str | Path) -> Path:
        """Write the image, atomically."""
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(png_bytes(_bytes(self.image)))
        return Path(path)

    def save_frames(self, folder: str | Path) -> Path:
        """Write how the image looked on the way, one PNG a frame, named by its step; the whole folder at once.

        Raises:
            InputError: a folder that holds something.
        """
        check_frames(Path(folder))
        with atomic_folder(Path(folder)) as temporary:
            for frame in self.painting.frames:
                (temporary / f"{frame.step:06d}.png").write_bytes(png_bytes(frame.image))
        return Path(folder)

    def film(self, path: str | Path) -> Path:
        """Write one HTML page with the image, frames on the way and the losses, atomically."""
        told = [("similarity to the text, by the model that led", f"{self.before:.3f}, then {self.similarity:.3f}")]
        if self.judged is not None:
            told.append(("by another model, which led nothing", "{:.3f}, then {:.3f}".format(*self.judged)))
        told.append(("mean change of pixels", self.changed))
        told += [("remark", line) for line in self.remarks]
        frames = [(frame.step, frame.image) for frame in self.painting.frames]
        losses = self.painting.losses
        page = film_page(self.text, canvas="An image", frames=frames, losses=losses, told=told, svg=None)
        write_text(Path(path), page)
        return Path(path)

    @property
    def changed(self) -> str:
        """The change in words."""
        if len(self.change) == 1:
            return f"{self.change[0]:.1f} of 255"
        return "{:.1f} of 255 inside the mask, {:.1f} outside".format(*self.change)

    def _repr_html_(self) -> str:
        shown = f'<img src="{png_uri(_bytes(self.image))}" width="300" alt="">'
        return f"{shown}<p>{escape(self.text)}: {self.similarity:.3f}, before {self.before:.3f}</p>"


@dataclass(frozen=True, slots=True)
class EditPlan:
    """One way to edit: what moves towards what.

    Attributes:
        text: what is asked for, all of it.
        canvas: that shows the image.
        goals: by name.
        steps: where none are given.
        rates: of roles, where they are not the canvas's own.
        facts: that say what is painted, besides image and model.
    """

    text: str
    canvas: Canvas
    goals: Mapping[str, Goal]
    steps: int
    facts: Mapping[str, Any]
    rates: Mapping[str, float] | None = None


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
    views: Count = 4,
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
        mask: a PNG of the image's size, or booleans; what is not 0 is the object.
        morph: what the image shall show (Geodesic CLIP, arXiv 2401.10526).
        source: what it shows now.
        similarity: of a morph.
        stability: weight of keeping the image's embedding, of a morph.
        canvas: of a morph: a small network that changes the image, or its pixels, which become noise more easily.
        steps: of the optimiser; 400 for a style, 200 for a morph.
        rate: of the optimiser, in place of the canvas's own.
        crops: of each step, of a style.
        views: of each step, of a morph.
        size: longer side of what is worked on, at most the image's own; default: twice the model's side.
        frames: kept for the film, besides the start.
        judge: another model that says how near the image is to the text.
        state: file of the edit on its way, removed when it is done.
        resume: go on from there, if there is one.
        save_every: steps between two writes of it.
        seed: of crops, views and network.
        random_weights: accept models without trained weights.
        device: where to load the models.
        on_progress: called with steps done and in all.
        should_stop: asked after each step; when true the state is written and ``StoppedError`` raised.

    Raises:
        InputError: no way or several, a text without words or that is its source, an image that cannot be read, a mask
            of another size, of all or of nothing, or a state of another edit.
        NotFiniteError: a loss that stays without a number; the state holds the last good canvas.

    Example:
        >>> import torch, tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> pixels = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
        >>> found = tether.edit(pixels, model=model, style="a red cat", crops=4, steps=2)
        >>> found.image.shape
        torch.Size([3, 40, 60])
    """
    check_ways(style=style, morph=morph, ground=ground, mask=mask)
    shown = image if isinstance(image, Tensor) else decode(Path(image))
    if shown.dtype != torch.uint8 or shown.ndim != 3 or len(shown) != 3:
        raise InputError(f"image: expected uint8 (3, h, w), got {shown.dtype} {tuple(shown.shape)}")
    marked = None if mask is None else _mask(mask, size=(shown.shape[1], shown.shape[2]))
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    judging = None if judge is None else opened(judge, device=device, random_weights=random_weights)[0]
    most = _LONGEST * max(encoder.image_spec.size) if size is None else size
    start, marked, reduced = _sized(shown, marked, most=most)
    start = start.to(encoder.logit_scale.device)
    if style is not None:
        plan = _styled(
            start, encoder, style=style, ground=ground, mask=marked, source=source, crops=crops, rate=rate,
            steps=_STEPS["style"] if steps is None else steps, seed=seed,
        )  # fmt: skip
    else:
        assert morph is not None  # check_ways saw to it
        plan = _morphed(
            start, encoder, morph=morph, source=source, similarity=similarity, stability=stability, canvas=canvas,
            rate=rate, views=views, steps=_STEPS["morph"] if steps is None else steps, seed=seed,
        )  # fmt: skip
    digest = hashlib.sha256(_bytes(start).numpy().tobytes()).hexdigest()
    facts = {"model": model_digest(cast(nn.Module, encoder)), "image": digest, "frames": frames, "seed": seed}
    painting = painted(
        plan.canvas.to(start.device), plan.goals, state=state, resume=resume,
        made_of={**facts, "steps": plan.steps, **plan.facts}, steps=plan.steps, rates=plan.rates, seed=seed,
        frames=frames, save_every=save_every, on_progress=on_progress, should_stop=should_stop,
    )  # fmt: skip
    return edited(plan.text, painting, start, marked, encoder=encoder, judge=judging, reduced=reduced)


def check_ways(*, ground: str | None, mask: object, **ways: str | None) -> None:
    """See that one way is asked for, before any model is opened.

    Raises:
        InputError: none, several, or what belongs to another.
    """
    given = [name for name, text in ways.items() if text is not None]
    if len(given) != 1:
        names = ", ".join(f"--{name}" for name in ways)
        raise InputError(f"{names}: expected one of them, got {' and '.join(given) or 'none'}")
    for name, value in (("--ground", ground), ("--mask", mask)):
        if value is not None and given != ["style"]:
            raise InputError(f"{name}: expected with --style alone, got it with --{given[0]}")


def check_frames(folder: Path) -> None:
    """See that a folder of frames can be written.

    Raises:
        InputError: a file, or a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--frames: {folder} is there already; expected a new folder, or an empty one")


def _styled(
    start: Tensor, model: DualEncoder, *, style: str, ground: str | None, mask: Tensor | None, source: str,
    crops: int, rate: float | None, steps: int, seed: int,
) -> EditPlan:  # fmt: skip
    given: dict[str, Any] = {"crops": crops, "steps": steps, **({} if rate is None else {"rate": rate})}
    styler = SemanticStyler(
        model, object_text=style, ground_text=ground, source_text=source, mask=mask, seed=seed, **given
    )
    marks = None if mask is None else hashlib.sha256(mask.numpy().tobytes()).hexdigest()
    facts = {"style": style, "ground": ground, "source": source, "mask": marks, **given}
    return EditPlan(style, styler.canvas(start), styler.goals(start), steps, facts)


def _morphed(
    start: Tensor, model: DualEncoder, *, morph: str, source: str, similarity: Literal["geodesic", "cosine"],
    stability: float, canvas: str, rate: float | None, views: int, steps: int, seed: int,
) -> EditPlan:  # fmt: skip
    morpher = Morpher(
        model, text=morph, source_text=source, similarity=similarity, stability=stability,
        views=RandomViews(count=views, fill=None), steps=steps, seed=seed,
    )  # fmt: skip
    moved: Canvas = PixelCanvas.of(start) if canvas == "pixels" else StyleNetCanvas(start, seed=seed)
    (role,) = moved.rates
    own = _PIXELS_RATE if canvas == "pixels" else moved.rates[role]
    taken = own if rate is None else rate
    facts: dict[str, Any]
    facts = {"morph": morph, "source": source, "similarity": similarity, "stability": stability, "canvas": canvas}
    facts |= {"rate": taken, "views": views}
    return EditPlan(morph, moved, {"morph": morpher.goal(start[None])}, steps, facts, {role: taken})


def _mask(mask: str | Path | Tensor, *, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    if isinstance(mask, Tensor):
        marked, where = mask.detach().cpu(), "mask"
    else:
        values, where = torch.from_numpy(read_png(Path(mask)).copy()), str(mask)
        marked = values != 0 if values.ndim == 2 else (values[..., :3] != 0).any(dim=2)
    if marked.dtype != torch.bool or tuple(marked.shape) != size:
        got = f"{marked.dtype} {tuple(marked.shape)}"
        raise InputError(f"--mask: {where}: expected the image's {size[0]} x {size[1]} pixels (h x w), got {got}")
    if bool(marked.all()) or not bool(marked.any()):
        part = "all" if bool(marked.all()) else "nothing"
        raise InputError(f"--mask: {where}: expected some of the image, but not all, to be marked, got {part}")
    return marked


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
        if bool(mask.all()) or not bool(mask.any()):
            raise InputError(f"--mask: marks all or nothing once the image is {size[0]} x {size[1]}; give a --size")
    return image, mask, f"the image was reduced from {high} x {wide} to {size[0]} x {size[1]} pixels; --size says more"


@torch.no_grad()
def edited(
    text: str, painting: Painting, start: Tensor, mask: Tensor | None, *, encoder: DualEncoder,
    judge: DualEncoder | None, reduced: str | None = None,
) -> EditedImage:  # fmt: skip
    """What came of an edit.

    Args:
        text: what was asked for.
        painting: with one image of three dimensions.
        start: (3, h, w) the image as it was, in 0 to 1.
        mask: (h, w) where it might change; a part without pixels is left out.
        encoder: that led.
        judge: another, or None.
        reduced: a remark on the size.
    """
    off = 255 * (painting.image.cpu() - start.cpu()).abs().mean(dim=0)
    parts = [off] if mask is None or mask.all() or not mask.any() else [off[mask], off[~mask]]
    near = [None if one is None else _near(one, start, painting.image, text) for one in (encoder, judge)]
    assert near[0] is not None
    remarks = [*([] if reduced is None else [reduced]), *setback_remarks(painting)]
    change = tuple(float(part.mean()) for part in parts)
    return EditedImage(text, painting, near[0][1], near[0][0], near[1], change, remarks)


def _near(model: DualEncoder, before: Tensor, after: Tensor, text: str) -> tuple[float, float]:
    rows = unit_images(model, torch.stack([before, after]).to(model.logit_scale.device))
    first, second = F.cosine_similarity(rows, encode_texts(model, [text]).to(rows)).tolist()
    return first, second


def _bytes(image: Tensor) -> Tensor:
    return image.detach().cpu().mul(255).round().to(torch.uint8)
