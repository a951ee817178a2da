"""The teacher of DCLIP: the regions of a source embedded, a teacher fitted on them, and what it makes of each pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.ranges import Count, PositiveRate, Rate, checked
from tether.data.bad_rows import BadRows
from tether.data.in_order import ordered
from tether.data.regions import RegionColumns
from tether.losses import clip_loss
from tether.methods.dclip.cross_modal import CrossModalTeacher
from tether.methods.dclip.region_crops import RegionCropper
from tether.models.composed.cached import CachedEncoder
from tether.models.convert.seeded import seeded
from tether.models.embed import encode_texts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.dense import dense_text
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode
from tether.optim import AdamW, parameter_groups
from tether.training.schedules import Cosine

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01  # not published
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class RegionPairs:
    """What an encoder makes of the regions of n images, and their m captions.

    Attributes:
        keys: of the images.
        regions: (n, r, d) embeddings of each image's parts, the whole image first, 0 where there is none.
        mask: (n, r) True for what is a part.
        texts: m captions.
        owner: (m,) the image that each belongs to.
    """

    keys: Sequence[str]
    regions: Float[Tensor, "n r d"]
    mask: Bool[Tensor, "n r"]
    texts: Sequence[str]
    owner: Int[Tensor, " m"]


def region_pairs(
    model: Clip | WrappedEncoder,
    source: Source,
    *,
    columns: RegionColumns | None,
    workers: int = 0,
    on_bad: Path | BadRows | None = None,
    strict: bool = False,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> RegionPairs:
    """Embed the regions of every captioned image of a source; what was embedded before is read from the cache.

    Args:
        model: any encoder of ``tether.load``.
        source: rows with an image, captions and, where ``columns`` are given, boxes.
        columns: see ``RegionCropper``; None for data without boxes.
        workers: threads that decode.
        on_bad: log of rows whose image cannot be opened, see ``data.in_order.ordered``.
        strict: stop at the first of them.
        on_progress: called with (images done, None).

    Raises:
        InputError: no row with a caption, or boxes that are none; it names the row.
    """
    cropper, kept = RegionCropper(columns, spec=model.image_spec), CachedEncoder(model, sides=("image",))
    device, keys = model.logit_scale.device, list[str]()
    found, texts, owner = list[Tensor](), list[str](), list[int]()
    reading = ordered(
        source, image_spec=model.image_spec, batch_size=_AT_ONCE, workers=workers, strict=strict, on_bad=on_bad
    )
    for rows, _ in reading:
        crops = []
        for row in rows:
            captions = [text for text in row.texts if text.strip()]
            if captions:
                crops.append(cropper(row))
                texts += captions
                owner += [len(keys)] * len(captions)
                keys.append(row.key)
        if crops:
            parts = torch.cat(crops).split(_AT_ONCE)
            with torch.no_grad():
                encoded = [kept.encode_image(part.to(device)).pooled.float().cpu() for part in parts]
            found += torch.cat(encoded).split([len(one) for one in crops])
        if on_progress is not None:
            on_progress(len(keys), None)
    if not keys:
        raise InputError(f"{source.name}: expected images with a caption, got none")
    mask = torch.zeros(len(keys), max(map(len, found)), dtype=torch.bool)
    for place, rows in enumerate(found):
        mask[place, : len(rows)] = True
    regions = nn.utils.rnn.pad_sequence(found, batch_first=True)
    return RegionPairs(keys, regions, mask, texts, torch.tensor(owner))


@checked
def fit_region_teacher(
    model: Clip | WrappedEncoder,
    pairs: RegionPairs,
    *,
    steps: Count,
    batch_size: Count = 64,
    heads: Count = 8,
    depth: Count = 1,
    looks_at: Literal["other", "own"] = "other",
    readout: Literal["beside", "alone"] = "beside",
    learning_rate: PositiveRate = LEARNING_RATE,
    weight_decay: Rate = WEIGHT_DECAY,
    generator: torch.Generator,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> tuple[CrossModalTeacher, tuple[float, ...]]:
    """A teacher that tells its pairs apart by CLIP's loss, at the model's scale; the encoder rests.

    Captions of one image are positives of each other.

    Args:
        model: that made ``pairs``; its text tower must show its tokens (``models.features.dense.dense_text``).
        pairs: what ``region_pairs`` gave.
        steps: of AdamW, the rate falling to 0 as a cosine.
        batch_size: captions in a step; at most as many as there are.
        heads: see ``CrossModalTeacher``; so are ``depth``, ``looks_at`` and ``readout``.
        depth: of the teacher.
        looks_at: ``own`` makes the control that does not see captions.
        readout: of the teacher.
        learning_rate: at the start.
        weight_decay: on matrices.
        generator: draws the weights and the batches.
        on_progress: called with (steps done, steps).

    Returns:
        The teacher in eval mode, without gradient, and the loss of every step.

    Raises:
        InputError: rows of another width, or heads that do not divide it.
        UnsupportedModelError: a text tower that shows no tokens.
    """
    if pairs.regions.shape[2] != model.dim:
        raise InputError(f"pairs: rows of {pairs.regions.shape[2]}, the model has {model.dim}: they are of another")
    device, scale = model.logit_scale.device, model.logit_scale.detach()
    with seeded():
        teacher = CrossModalTeacher(
            model.dim, heads=heads, depth=depth, looks_at=looks_at, readout=readout, generator=generator
        )
    teacher.to(device).train()
    optimizer = AdamW(parameter_groups(teacher, weight_decay=weight_decay), lr=learning_rate)
    schedule = Cosine()
    losses: list[Tensor] = []
    for step in range(steps):
        drawn = torch.randperm(len(pairs.texts), generator=generator)[:batch_size]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule.factor(step, steps=steps)
        image, text = _look(model, teacher, pairs, drawn)
        loss = clip_loss(image, text, scale, labels=pairs.owner[drawn].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if on_progress is not None:
            on_progress(step + 1, steps)
    optimizer.zero_grad(set_to_none=True)
    return teacher.eval().requires_grad_(False), tuple(torch.stack(losses).tolist())


def _look(
    model: Clip | WrappedEncoder, teacher: CrossModalTeacher, pairs: RegionPairs, drawn: Int[Tensor, " b"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
    """What a teacher makes of some captions and their images; a text's own embedding goes before its words."""
    device, owner = model.logit_scale.device, pairs.owner[drawn]
    with torch.no_grad(), eval_mode(model):
        ids = model.tokenizer([pairs.texts[number] for number in drawn.tolist()]).to(device)
        words = dense_text(model, ids)
    assert words.tokens is not None
    assert words.mask is not None
    tokens = torch.cat([words.pooled[:, None], words.tokens], dim=1).float()
    return teacher(
        pairs.regions[owner].to(device), pairs.mask[owner].to(device), tokens, F.pad(words.mask, (1, 0), value=True)
    )


@dataclass(frozen=True, slots=True)
class RegionTargets:
    """What a student is to learn, by an image's key and a caption.

    Attributes:
        place: row of each pair.
        text: (m, d) what the frozen text tower gives.
        image: (m, d) what the teacher makes of the image, with the caption before it.
    """

    place: Mapping[tuple[str, str], int]
    text: Float[Tensor, "m d"]
    image: Float[Tensor, "m d"]


@torch.no_grad()
def region_targets(model: Clip | WrappedEncoder, teacher: CrossModalTeacher, pairs: RegionPairs) -> RegionTargets:
    """Ask the teacher once for every pair, and the text tower once for every caption."""
    parts = [_look(model, teacher, pairs, some)[0] for some in torch.arange(len(pairs.texts)).split(_AT_ONCE)]
    owners = [pairs.keys[number] for number in pairs.owner.tolist()]
    place = {pair: row for row, pair in enumerate(zip(owners, pairs.texts, strict=True))}
    device = model.logit_scale.device
    return RegionTargets(place, encode_texts(model, pairs.texts).to(device), torch.cat(parts))
