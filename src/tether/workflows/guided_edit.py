"""An image changed as a text says, through an auto-encoder's codes, while what a mask or words name stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tether.core.component import build
from tether.core.device import chosen_device
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Whole, checked
from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.images import decode, resize_and_crop
from tether.generation.edit.guided_inversion import FICE_WEIGHTS, GuidedInversion
from tether.generation.edit.kept_parts import PartMaps, pasted
from tether.generation.edit.segmenter_parser import SegmenterParser
from tether.generation.goals import PlainView, RandomViews
from tether.models.latent.style import StyleCodec
from tether.tasks.segment import SEGMENTERS
from tether.tasks.segment.segmenter import DenseSegmenter
from tether.training.codec_training import train_codec
from tether.workflows.drawing.mask import check_part, read_mask
from tether.workflows.drawing.state import check_state, painted
from tether.workflows.edit import EditedImage, edited
from tether.workflows.learning_folder import learning, mean_of_last, read_images
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
    rows, out = open_source(source, where="IMAGE"), Path(out)
    chosen = {"seed": seed, "spread": SPREAD, "divergence": DIVERGENCE, **(settings or {})}
    codec = cast(StyleCodec, build({"name": "style", **chosen}, {"style": StyleCodec}, where="--set"))
    facts = {"data": rows.version, "settings": codec.settings, "steps": steps, "batch_size": batch_size}
    with learning(out, {**facts, "learning_rate": learning_rate, "limit": limit}, purpose="learn codes") as place:
        pixels, _, bad = read_images(
            rows, (codec.size, codec.size), with_texts=False, limit=limit, workers=workers, strict=strict,
            bad_rows=bad_rows, on_stage=on_stage,
        )  # fmt: skip
        if len(pixels) < 2:
            raise InputError(f"{rows.name}: expected at least two images to learn from, got {len(pixels)}")
        apart = torch.arange(len(pixels)) % HELD_OUT == 1
        codec.to(chosen_device(device))

        def told(step: int) -> None:
            if on_stage is not None:
                on_stage("codes", step + 1, steps)

        losses = train_codec(
            codec, pixels[~apart], steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
            folder=place / "codec", on_step=lambda report: told(report.step), should_stop=should_stop,
        )  # fmt: skip
        codec.save(out)
    return LearntCodes(out, int((~apart).sum()), bad, mean_of_last(losses), _rebuilt_psnr(codec, pixels[apart]))


@torch.no_grad()
def _rebuilt_psnr(codec: StyleCodec, pixels: UInt8[Tensor, "n 3 h w"]) -> float:
    errors = []
    for some in pixels.split(64):
        on = some.to(codec.start.device)
        made = ((codec.decode(codec.encode(on)) + 1) / 2).clamp(0, 1)
        errors.append((made - on.float() / 255).square().mean(dim=(1, 2, 3)).cpu())
    return float(-10 * torch.cat(errors).clamp(min=1e-6).log10().mean())


@checked
def edit_to(
    image: str | Path,
    text: str,
    *,
    model: Model,
    codes: str | Path | StyleCodec,
    mask: str | Path | Bool[Tensor, "h w"] | None = None,
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
    state: Path | None = None,
    resume: bool = False,
    save_every: Count = 50,
    seed: Whole = 0,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> EditedImage:
    """Change an image as a text says: its codes are moved until the model sees the text (FICE, arXiv 2301.02110).

    The image is cut to a square of the auto-encoder's size, and so is the result.

    Args:
        image: a file.
        text: what it shall show, the whole of it.
        model: leads; loaded, or a name that ``tether.load`` takes.
        codes: an auto-encoder of ``learn_codes`` that knows such images, or its file.
        mask: a PNG of the same size, white (or anything but black) where the image may change, or booleans.
        change: words for what may change, in place of a mask or with one; the model finds it, also on the way, so that
            it stays where it was.
        keep_words: words for what is kept and pasted back.
        rest: words for all else, such as the ground, which stays but is not pasted back.
        weights: of the terms, see ``generation.FICE_WEIGHTS``.
        steps: of the optimiser.
        rate: its rate.
        views: random ones that the model sees at each step; 0 shows it the image as it is, as the paper does.
        frames: kept on the way, besides the start; of what is generated, before anything is pasted back.
        judge: another model that says how near the image is to the text.
        least_psnr: of the image made again, in dB, below which it is remarked that the auto-encoder does not know it.
        state: file of the edit on its way; it stays until ``EditedImage.remove_state``, for after what you write.
        resume: go on from there, if there is one.
        save_every: steps between two writes of it.
        seed: of views.
        random_weights: accept models without trained weights.
        device: where to compute.
        on_progress: called with steps done and in all.
        should_stop: asked after each step; when true the state is written and ``StoppedError`` raised.

    Raises:
        InputError: an image or mask that cannot be read or does not fit, a mask of all or of nothing, neither a mask
            nor words, an empty text, codes of another kind, a state of another edit, or one that is there without
            ``resume``.
        LockedError: another process edits to this state.
        NotFiniteError: a loss that stays without a number.
        StoppedError: it was asked to stop.

    Example:
        >>> import tempfile, tether
        >>> from PIL import Image
        >>> from tether.models.latent.style import StyleCodec
        >>> from tether.workflows.guided_edit import edit_to
        >>> model, codes = tether.load("tiny", random_weights=True), StyleCodec(size=16, dim=8, width=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30), "red").save(f"{folder}/image.png")
        ...     words = {"change": ["a dress"], "rest": ["a wall"]}
        ...     edit_to(f"{folder}/image.png", "a blue dress", model=model, codes=codes, steps=2, **words).image.shape
        torch.Size([3, 16, 16])
    """
    if not text.strip():
        raise InputError(f"--to: expected a text with words, got {text!r}")
    check_parts(mask=mask, change=change, others=(*keep_words, *rest))
    check_state(state, resume=resume)
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
        if mask is not None:
            changes = _may_change(mask, like=pixels, spec=spec).to(on)
            parts = PartMaps(changes, 1 - changes, 1 - changes if parts is None else parts.pose)
        again = ((codec.decode(codec.encode(before * 2 - 1)) + 1) / 2).clamp(0, 1)
    editor = GuidedInversion(
        codec, encoder, parser, weights=weights, steps=steps, lr=rate,
        views=RandomViews(count=views) if views else PlainView(),
    )  # fmt: skip
    canvas, goals, parts = editor.begun(before, text, parts=parts)
    facts = {
        "to": text, "weights": editor.weights, "steps": steps, "rate": rate, "views": views, "frames": frames,
        "seed": seed, "model": _digest(encoder), "codes": _digest(codec),
        "image": _digest_of(before), "parts": _digest_of(parts.body, parts.head, parts.pose),
    }  # fmt: skip
    painting = painted(
        canvas, goals, state=state, resume=resume, made_of=facts, steps=steps, seed=seed, frames=frames,
        save_every=save_every, on_progress=on_progress, should_stop=should_stop,
    )  # fmt: skip
    image_ = pasted(painting.image, before, parts.head)[0]
    single = replace(
        painting, image=image_, frames=tuple(replace(frame, image=frame.image[0]) for frame in painting.frames)
    )
    return edited(
        text, single, before[0], parts.body[0, 0].cpu() >= 0.5, encoder=encoder, judge=judging, state=state,
        remarks=_remarks(painting.image, again, before, parts, least=least_psnr),
    )  # fmt: skip


def check_parts(*, mask: object, change: Sequence[str], others: Sequence[str]) -> None:
    """See that something says what may change, before any model is opened.

    Raises:
        InputError: neither a mask nor words, or words for the rest alone.
    """
    if mask is None and not change:
        raise InputError("--mask, --change: expected a mask of what may change, or words for it")
    if others and not change:
        raise InputError("--change: expected words for what may change beside those for what stays")


def _remarks(made: Tensor, again: Tensor, before: Tensor, parts: PartMaps, *, least: float) -> list[str]:
    remarks = []
    kept, best = (_kept_psnr(one, before, parts.body) for one in (made, again))
    if kept is not None and best is not None:
        remarks.append(
            f"what should stay was kept with {kept:.1f} dB before anything was pasted back; the auto-encoder makes it "
            f"with {best:.1f} dB at best"
        )
    whole = _kept_psnr(again, before, torch.zeros_like(parts.body))
    if whole is not None and whole < least:
        remarks.append(
            f"the auto-encoder makes this image again with {whole:.1f} dB only; teach it on more images of the kind"
        )
    return remarks


def _digest(model: Any) -> str:
    return model_digest(cast(nn.Module, model))


def _digest_of(*values: Tensor) -> str:
    return hashlib.sha256(b"".join(value.detach().cpu().numpy().tobytes() for value in values)).hexdigest()


def _parser(model: DualEncoder, change: Sequence[str], keep: Sequence[str], rest: Sequence[str]) -> SegmenterParser:
    segmenter = SEGMENTERS[by_tower(model, transformer="values", other="tokens")]()
    assert isinstance(segmenter, DenseSegmenter)
    segmenter.prepare(model, [*change, *keep, *rest])
    return SegmenterParser(segmenter, model, body=change, head=keep)


def _may_change(mask: str | Path | Tensor, *, like: Tensor, spec: ImageSpec) -> Float[Tensor, "1 1 h w"]:
    """A mask of an image, cut as the image is."""
    marked = read_mask(mask, size=(like.shape[1], like.shape[2]))
    cut = resize_and_crop(marked.to(torch.uint8).mul(255).expand(3, -1, -1).contiguous(), spec)[:1]
    check_part(cut >= 128, where=f"once the image is cut to {spec.size[0]} x {spec.size[1]}")
    return cut[None].float() / 255


def _kept_psnr(made: Tensor, real: Tensor, body: Tensor) -> float | None:
    outside = 1 - body
    if float(outside.sum()) < 1:
        return None
    error = ((made - real).square() * outside).sum() / (3 * outside.sum())
    return float(-10 * error.clamp(min=1e-6).log10())
