"""Where a drawing on an implicit canvas begins, and what a bank of images says of its text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.images import load
from tether.data.in_order import ordered
from tether.generation.goals import ClipGoal, PlainView, TextAim
from tether.generation.inversion.bank import ImageBank
from tether.generation.inversion.implicit import ColorViews, InversionPlan, plan_inversion, start_image
from tether.models.embed import encode_texts
from tether.workflows.models import Data

BANK_ROWS, NEIGHBOURS = 2_000, 32
"""First good rows of a source that make its bank, and those near the text, fewer where the bank has fewer."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a drawing begins from.

    Attributes:
        image: that the canvas is fitted to first, in 0 to 1; None for a canvas as it was drawn.
        plan: of a bank; None without one.
        about: what it is made of, as plain values.
        remarks: for whoever asked.
    """

    image: Float[Tensor, "3 h w"] | None = None
    plan: InversionPlan | None = None
    about: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def beginning(model: DualEncoder, prompt: str, *, bank: Data | None, start: str | Path | None, size: int) -> Beginning:
    """Open the image or the bank.

    Args:
        model: that is drawn for.
        prompt: the text.
        bank: images, with texts or without, what ``data.open_source`` takes.
        start: an image file; it counts in place of the bank's nearest image.
        size: side of the canvas.

    Raises:
        InputError: an image that cannot be opened, or a source without a good row.
    """
    image, plan, about, remarks = None, None, {}, list[str]()
    if bank is not None:
        held, about["bank"] = open_bank(bank, model)
        plan = plan_inversion(model, prompt, bank=held, k=min(NEIGHBOURS, len(held.ids)))
        image = start_image(plan, held)
        remarks.append(
            f"began from {held.ids[plan.near[0]]}, the nearest of {len(held.ids):,} images of the bank; one that "
            "shows the very thing says little of the model"
        )
        if not plan.aligned:
            remarks.append("the bank has no texts, so the text's embedding was not turned to where images lie")
    if start is not None:
        shown = load(Path(start), ImageSpec((size, size)), name=str(start))
        image, about["start"] = (
            shown.float() / 255,
            hashlib.blake2b(shown.numpy().tobytes(), digest_size=16).hexdigest(),
        )
        remarks = [line for line in remarks if not line.startswith("began")]
    return Beginning(image, plan, about, remarks)


def open_bank(source: Data, model: DualEncoder) -> tuple[ImageBank, list[Any]]:
    """A bank of the first good rows of a source, those with a text if any has one, and what it is, as plain values."""
    rows = open_source(source, where="--bank")
    pixels, texts, ids = list[Tensor](), list[str](), list[str]()
    for some, shown in ordered(rows, image_spec=model.image_spec.fixed(), batch_size=64, limit=BANK_ROWS):
        pixels += shown.unbind()
        ids += [row.key for row in some]
        texts += [next((text for text in row.texts if text.strip()), "") for row in some]
    kept = [place for place, text in enumerate(texts) if text] or list(range(len(texts)))
    told = [texts[place] for place in kept] if any(texts) else None
    images = torch.stack([pixels[place] for place in kept])
    return ImageBank.of(model, images, told, ids=[ids[place] for place in kept]), [rows.name, rows.version, len(kept)]


def bank_goal(
    model: DualEncoder, plan: InversionPlan, *, negatives: Sequence[str], negative_weight: float, views: int
) -> ClipGoal:
    """Towards where an image of the text lies, and away from texts."""
    with torch.no_grad():
        rows = encode_texts(model, list(negatives))
    away = [TextAim(row[None], weight=-negative_weight, reduction="mean") for row in rows]
    return ClipGoal(model, [plan.aim, *away], views=ColorViews(count=views) if views else PlainView())
