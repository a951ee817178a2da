"""An image changed as a text says, through an auto-encoder's codes, while what a mask or words name stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.atomic_io import atomic_folder, atomic_path
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import NonNegative, PositiveRate, Whole, checked
from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.images import decode, resize_and_crop
from tether.data.loader import ordered
from tether.generate.edit.guided_inversion import FICE_WEIGHTS, GuidedEdit, GuidedInversion
from tether.generate.edit.kept_parts import PartMaps
from tether.generate.edit.segmenter_parser import SegmenterParser
from tether.generate.goals import ClipGoal, PlainView, RandomViews
from tether.models.embed import encode_texts
from tether.models.latent.style import StyleCodec
from tether.models.load import chosen_device
from tether.tasks.segment import SEGMENTERS
from tether.tasks.segment.segmenter import DenseSegmenter
from tether.train.codec_training import train_codec
from tether.workflows.drawing.film import png_bytes, png_uri
from tether.workflows.learning_folder import claim
from tether.workflows.methods import by_tower
from tether.workflows.models import Data, Model, OnStage, opened

HELD_OUT = 20
"""One image in so many is not learnt from, and tells what codes can keep."""
SPREAD, DIVERGENCE = 0.01, 1e-3
"""Of an auto-encoder whose codes shall be moved; see ``StyleCodec``."""


@dataclass(frozen=True, slots=True)
class LearntCodes:
    """What was learnt.

    Attributes:
        path: of the auto-encoder's file.
        images: that it saw.
        bad: rows that could not be read.
        loss: mean absolute error of the last steps, in a half of the range of pixels; None where all was done before.
        psnr: of images that it did not learn from, made again, in dB; no edit can keep more.
    """

    path: Path
    images: int
    bad: int
    loss: float | None
    psnr: float


def learn_codes(
    source: Data,
    *,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    steps: int = 4000,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    limit: int = 50_000,
    seed: int = 0,
    workers: int = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    device: str = "auto",
    on_stage: OnStage | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LearntCodes:
    """Learn an auto-encoder with a code a layer from images alone, for ``edit_to``.

    What was done lies beside the file in a folder ``OUT.learning`` until all is: the same call goes on from there.

    Args:
        source: what ``data.open_source`` takes.
        out: the auto-encoder's file.
        settings: of ``models.latent.style.StyleCodec``, such as ``{"size": 128, "dim": 64}``.
        steps: of training.
        batch_size: images of a step.
        learning_rate: at its highest.
        limit: most images; all are held in memory.
        seed: of weights and draws.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        device: where to compute.
        on_stage: told the name of a stage, what is done and what there is in all.
        should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

    Raises:
        InputError: fewer than two images, settings that do not fit, or a folder of another learning.
        StoppedError: it was asked to stop.
    """
    rows, out = open_source(source, where="--learn"), Path(out)
    chosen = {"seed": seed, "spread": SPREAD, "divergence": DIVERGENCE, **(settings or {})}
    codec = cast(StyleCodec, build({"name": "style", **chosen}, {"style": StyleCodec}, where="codes"))
    place = out.with_name(f"{out.name}.learning")
    facts = {"data": rows.version, "settings": codec.settings, "steps": steps, "batch_size": batch_size}
    claim(place, {**facts, "learning_rate": learning_rate, "limit": limit})
    bad, found, count = BadRows.anew(rows.name, path=bad_rows, strict=strict), list[Tensor](), 0
    spec = ImageSpec((codec.size, codec.size))
    for _, shown in ordered(rows, image_spec=spec, batch_size=64, workers=workers, on_bad=bad, limit=limit):
        found.append(shown)
        count += len(shown)
        if on_stage is not None:
            on_stage("images", count, None)
    if count < 2:
        raise InputError(f"{rows.name}: expected at least two images to learn from, got {count}")
    pixels = torch.cat(found)
    apart = torch.arange(count) % HELD_OUT == 1
    codec.to(chosen_device(device))

    def told(step: int) -> None:
        if on_stage is not None:
            on_stage("codes", step + 1, steps)

    losses = train_codec(
        codec, pixels[~apart], steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        folder=place / "codec", on_step=lambda report: told(report.step), should_stop=should_stop,
    )  # fmt: skip
    codec.save(out)
    shutil.rmtree(place, ignore_errors=True)
    psnr = _rebuilt_psnr(codec, pixels[apart])
    last = losses[-50:]
    return LearntCodes(out, count - int(apart.sum()), bad.count, sum(last) / len(last) if last else None, psnr)


@torch.no_grad()
def _rebuilt_psnr(codec: StyleCodec, pixels: UInt8[Tensor, "n 3 h w"]) -> float:
    errors = []
    for some in pixels.split(64):
        on = some.to(codec.start.device)
        made = ((codec.decode(codec.encode(on)) + 1) / 2).clamp(0, 1)
        errors.append((made - on.float() / 255).square().mean(dim=(1, 2, 3)).cpu())
    return float(-10 * torch.cat(errors).clamp(min=1e-6).log10().mean())


@dataclass(frozen=True, slots=True)
class EditedByText:
    """What ``edit_to`` gives.

    Attributes:
        text: what was asked for.
        before: the image at the size of the codes, in 0 to 1.
        found: what came of it.
        similarity: cosine of the image and the text, by the model that led, before and after; it rises by construction.
        judged: the same by another model, or None.
        kept: PSNR of what should stay, in what was generated, in dB, before it was pasted back; None where all may
            change.
        best: the same of the image made again without an edit: the auto-encoder's own.
        remarks: what else is worth knowing.
    """

    text: str
    before: Float[Tensor, "3 h w"]
    found: GuidedEdit
    similarity: tuple[float, float]
    judged: tuple[float, float] | None
    kept: float | None
    best: float | None
    remarks: list[str] = field(default_factory=list)

    @property
    def image(self) -> Float[Tensor, "3 h w"]:
        """In 0 to 1, what is kept pasted back."""
        return self.found.image[0].clamp(0, 1)

    def save_png(self, path: str | Path) -> Path:
        """Write the image, atomically."""
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(png_bytes(_bytes(self.image)))
        return Path(path)

    def save_frames(self, folder: str | Path) -> Path:
        """Write a new folder with what was generated on the way, ``0000.png`` by the number of steps."""
        folder = Path(folder)
        with atomic_folder(folder) as place:
            for frame in self.found.frames:
                (place / f"{frame.step:04d}.png").write_bytes(png_bytes(frame.image[0]))
        return folder

    def _repr_html_(self) -> str:
        shown = [f'<img src="{png_uri(_bytes(one))}" width="200" alt="">' for one in (self.before, self.image)]
        return " ".join(shown)


@checked
def edit_to(
    image: str | Path,
    text: str,
    *,
    model: Model,
    codes: str | Path | StyleCodec,
    keep: str | Path | None = None,
    change: Sequence[str] = (),
    keep_words: Sequence[str] = (),
    rest: Sequence[str] = (),
    weights: Mapping[str, float] = FICE_WEIGHTS,
    steps: Annotated[int, Ge(1), Le(1_000_000)] = 500,
    rate: PositiveRate = 5e-2,
    views: Annotated[int, Ge(0), Le(256)] = 0,
    frames: Whole = 12,
    judge: Model | None = None,
    least_psnr: NonNegative = 20.0,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> EditedByText:
    """Change an image as a text says: its codes are moved until the model sees the text (FICE, arXiv 2301.02110).

    The image is cut to a square of the auto-encoder's size, and so is the result.

    Args:
        image: a file.
        text: what it shall show, the whole of it.
        model: leads; loaded, or a name that ``tether.load`` takes.
        codes: an auto-encoder of ``learn_codes`` that knows such images, or its file.
        keep: an image of the same size that is white where nothing may change and black where it may.
        change: words for what may change, in place of a mask or with one; the model finds it, also on the way, so that
            it stays where it was.
        keep_words: words for what is kept and pasted back.
        rest: words for all else, such as the ground, which stays but is not pasted back.
        weights: of the terms, see ``generate.FICE_WEIGHTS``.
        steps: of the optimiser.
        rate: its rate.
        views: random ones that the model sees at each step; 0 shows it the image as it is, as the paper does.
        frames: kept on the way, besides the start.
        judge: another model that says how near the image is to the text.
        least_psnr: of the image made again, in dB, below which it is remarked that the auto-encoder does not know it.
        random_weights: accept models without trained weights.
        device: where to compute.
        on_progress: called with steps done and in all.
        should_stop: asked after each step; when true ``StoppedError`` is raised.

    Raises:
        InputError: an image or mask that cannot be read or does not fit, a mask of all white, neither a mask nor words,
            an empty text, or codes of another kind.
        NotFiniteError: a loss that stays without a number.
        StoppedError: it was asked to stop.
    """
    if not text.strip():
        raise InputError(f"--to: expected a text with words, got {text!r}")
    if keep is None and not change:
        raise InputError("--keep, --change: expected a mask of what stays, or words for what may change")
    if (keep_words or rest) and not change:
        raise InputError("--change: expected words for what may change beside those for what stays")
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    judging = None if judge is None else opened(judge, device=device, random_weights=random_weights)[0]
    codec = codes if isinstance(codes, StyleCodec) else StyleCodec.load(codes)
    on = encoder.logit_scale.device
    codec = codec.to(on)
    pixels = decode(Path(image))
    spec = ImageSpec((codec.size, codec.size))
    before = resize_and_crop(pixels, spec).float().to(on)[None] / 255
    parser = _parser(encoder, change, keep_words, rest) if change else None
    with torch.no_grad():
        parts = None if parser is None else parser(before)
        if keep is not None:
            stays = _mask(keep, like=pixels, where=image, spec=spec).to(on)
            parts = PartMaps(1 - stays, stays, stays if parts is None else parts.pose)
        assert parts is not None
        again = ((codec.decode(codec.encode(before * 2 - 1)) + 1) / 2).clamp(0, 1)
    editor = GuidedInversion(
        codec, encoder, parser, weights=weights, steps=steps, lr=rate,
        views=RandomViews(count=views) if views else PlainView(),
    )  # fmt: skip
    found = editor.edit(
        before, text, parts=parts, frames=frames, on_progress=on_progress, should_stop=should_stop
    )  # fmt: skip
    looked = [None if one is None else _similarity(one, before, found.image, text) for one in (encoder, judging)]
    assert looked[0] is not None
    kept, best = (_kept_psnr(made, before, parts.body) for made in (found.generated.clamp(0, 1), again))
    remarks = []
    whole = _kept_psnr(again, before, torch.zeros_like(parts.body))
    if whole is not None and whole < least_psnr:
        remarks.append(
            f"the auto-encoder makes this image again with {whole:.1f} dB only; teach it on more images of the kind"
        )
    return EditedByText(text, before[0].cpu(), found, looked[0], looked[1], kept, best, remarks)


def _parser(model: DualEncoder, change: Sequence[str], keep: Sequence[str], rest: Sequence[str]) -> SegmenterParser:
    segmenter = SEGMENTERS[by_tower(model, transformer="values", other="tokens")]()
    assert isinstance(segmenter, DenseSegmenter)
    segmenter.prepare(model, [*change, *keep, *rest])
    return SegmenterParser(segmenter, model, body=change, head=keep)


def _mask(path: str | Path, *, like: Tensor, where: str | Path, spec: ImageSpec) -> Float[Tensor, "1 1 h w"]:
    shown = decode(Path(path))
    if shown.shape != like.shape:
        size, wanted = (f"{one.shape[2]} x {one.shape[1]}" for one in (shown, like))
        raise InputError(f"--keep: {path}: expected the size of {where}, {wanted}, got {size}")
    stays = resize_and_crop(shown, spec).float().mean(dim=0)[None, None] / 255
    if bool((stays > 0.99).all()):
        raise InputError(f"--keep: {path}: is white all over, so nothing may change; black is where a text may")
    return stays.clamp(0, 1)


@torch.no_grad()
def _similarity(model: DualEncoder, before: Tensor, after: Tensor, text: str) -> tuple[float, float]:
    goal = ClipGoal.of_prompts(model, text, views=PlainView())
    rows = goal.rows(torch.cat([before, after.clamp(0, 1)]).to(model.logit_scale.device))
    cosines = F.cosine_similarity(rows, encode_texts(model, [text]).to(rows))
    return float(cosines[0]), float(cosines[1])


def _kept_psnr(made: Tensor, real: Tensor, body: Tensor) -> float | None:
    outside = 1 - body
    if float(outside.sum()) < 1:
        return None
    error = ((made - real).square() * outside).sum() / (3 * outside.sum())
    return float(-10 * error.clamp(min=1e-6).log10())


def _bytes(image: Tensor) -> Tensor:
    return image.detach().cpu().mul(255).round().to(torch.uint8)
