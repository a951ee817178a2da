"""Ways to let a small CLIP read past its context, those of three papers and simple ones, on the same images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tether.adaptation.finetune.kept_positions import KeptPositions
from tether.core.atomic_io import read_json, write_json
from tether.core.protocols import DualEncoder
from tether.losses import clip_loss, long_clip_loss
from tether.methods.fix_clip import GroupHeads, fix_clip_loss
from tether.methods.fix_clip.region_prompts import RegionPromptEncoder, text_layer_states
from tether.models import create
from tether.models.texts.text_windows import SlidingTextEncoder
from tether.models.tokenizer import TextCutWarning, lengths
from tether.models.towers.clip import Clip
from tether.models.towers.vision.masked_patches import hidden_patches, mask_patches_, unmask_patches_
from tether.optim import parameter_groups
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip, cached_model
from tether_lab.worlds.in_memory import BETAS, draws
from tether_lab.worlds.long_descriptions import (
    CONTEXT,
    KEEP,
    LONG,
    POOL,
    RATIO,
    SCENES,
    SIDE,
    Descriptions,
    LongRecall,
    measure,
    training_scenes,
)

PATCH, BATCH = 16, 64
BASE_STEPS, BASE_RATE = 2_000, 2e-3
STEPS, RATE = 250, 1e-3
DECAY, WARM = 0.01, 0.1
COMPONENTS, SMOOTHING = 8, 0.1
"""Of Long-CLIP's loss: principal components of the 64 images, where the paper has 32 of each process's 256."""
PROMPTS, GROUPS, FIRST_GROUP, OMEGA = 4, 2, 2, 0.1
"""Of FIX-CLIP, whose paper does not give them."""

Arm = Literal[
    "untuned",
    "untuned_windows",
    "cut",
    "crop",
    "windows",
    "linear",
    "linear_both",
    "rotary",
    "stretch",
    "stretch_both",
    "stretch_both_smoothed",
    "long_clip",
    "dual",
    "fix_clip",
]
STRETCH = {"name": "stretch", "keep": KEEP, "ratio": RATIO}
POSITIONS: dict[Arm, Any] = {
    "linear": "linear",
    "linear_both": "linear",
    "rotary": "rotary",
    "stretch": STRETCH,
    "stretch_both": STRETCH,
    "stretch_both_smoothed": STRETCH,
    "long_clip": STRETCH,
    "dual": STRETCH,
    "fix_clip": STRETCH,
}
"""How those that have more positions get them; the others keep their context."""
LONGER: tuple[Arm, ...] = ("cut", "crop")
"""Those that have twice the steps, since theirs cost half as much."""
BOTH: tuple[Arm, ...] = ("linear_both", "stretch_both", "stretch_both_smoothed")
"""Those that have both captions for whole images."""
KEPT: tuple[Arm, ...] = ("stretch_both", "stretch_both_smoothed", "long_clip", "dual", "fix_clip")
"""Those whose first positions rest."""


def found(lab: Lab, arms: Sequence[Arm]) -> dict[Arm, LongRecall]:
    """What every arm finds; trained and measured at a seed's first call, then read from the user's cache.

    ``untuned`` is a CLIP that was taught captions which fit into its context; each other begins as a copy of it. The
    same batches of images are seen in the same order, for as many steps or, by ``LONGER``, for twice as many:

    - ``cut``, ``windows``, ``linear``, ``rotary`` and ``stretch`` with long captions, which the first cuts;
    - ``crop`` with captions that fit, drawn anew, as before;
    - ``linear_both`` and ``stretch_both`` with long captions and with first sentences, weighing the same;
    - ``stretch_both_smoothed`` as ``stretch_both`` with the smoothed targets of Long-CLIP's loss;
    - ``long_clip``, ``dual`` (FIX-CLIP's two branches) and ``fix_clip`` (prompts and groups, too) as in their papers.

    Args:
        lab: seed and budget.
        arms: which.
    """
    return {arm: _found(lab, arm) for arm in arms}


def _found(lab: Lab, arm: Arm) -> LongRecall:
    known, facts = Path(__file__), [lab.seed, lab.smoke]

    def make(folder: Path) -> None:
        reader = tuned(lab, cached_clip("long-base", partial(base, lab), made_by=known, facts=facts), arm)
        write_json(folder / "found.json", asdict(measure(reader, seed=lab.seed, count=lab.steps(POOL, 16))))

    return LongRecall(
        **read_json(cached_model("long-arm", made_by=known, facts=[*facts, arm], make=make) / "found.json")
    )


def notes(found: Mapping[Arm, LongRecall]) -> dict[str, float]:
    """Figures of all arms by name: ``long_ARM``, ``images_ARM`` and ``short_ARM``."""
    kinds = {"long": "long", "images": "long_images", "short": "short"}
    return {f"{kind}_{arm}": getattr(one, field) for arm, one in found.items() for kind, field in kinds.items()}


def base(lab: Lab) -> Clip:
    """The CLIP that all begin as."""
    told = _told(lab)
    model = create("tiny", seed=lab.seed, image_size=SIDE, patch=PATCH, context=CONTEXT)
    tokens = _crops(model, told)
    model.prune_vocabulary_(tokens)
    generator = lab.generator("crops")

    def loss(rows: Tensor) -> Tensor:
        said = tokens[rows, torch.randint(tokens.shape[1], rows.shape, generator=generator)]
        image, text = model.encode_image(told.pixels[rows]).unit, model.encode_text(said).unit
        return clip_loss(image, text, model.logit_scale)

    return _fit(lab, model, [], loss, steps=lab.steps(BASE_STEPS), rate=BASE_RATE)


def tuned(lab: Lab, model: Clip, arm: Arm) -> DualEncoder:
    """One arm, made of the base, which it may change."""
    if arm == "untuned":
        return model
    if arm == "untuned_windows":
        return SlidingTextEncoder(model)
    told = _told(lab)
    if arm in POSITIONS:
        model = model.resized(context=LONG, how=POSITIONS[arm])
    windows = SlidingTextEncoder(model) if arm == "windows" else None
    reader: Any = model if windows is None else windows
    long, short, crops = _tokens(reader, told.long), _tokens(model, told.short), _crops(model, told)
    model.prune_vocabulary_(torch.cat([part.flatten() for part in (long, short, crops)]))
    chance = lab.generator("tuning")
    kept, heads = KeptPositions(keep=KEEP) if arm in KEPT else None, list[nn.Module]()
    if kept is not None:
        kept.apply_(model)
    if arm in ("dual", "fix_clip"):
        masked = mask_patches_(model)
    if arm == "fix_clip":
        reader = RegionPromptEncoder(model, count=PROMPTS, generator=chance)
        heads = [GroupHeads(width=width, dim=model.dim, groups=GROUPS, generator=chance) for width in _widths(model)]

    def seen(rows: Tensor) -> Tensor:
        """Images of which most patches are hidden."""
        with masked.hiding(hidden_patches(len(rows), patches=(SIDE // PATCH) ** 2, generator=chance)):
            return reader.encode_image(told.pixels[rows]).unit

    def loss(rows: Tensor) -> Tensor:
        pixels, scale = told.pixels[rows], model.logit_scale
        said = long[rows]
        if arm == "crop":
            said = crops[rows, torch.randint(crops.shape[1], rows.shape, generator=chance)]
        image, text = reader.encode_image(pixels).unit, reader.encode_text(said).unit
        if arm not in (*KEPT, *BOTH):
            return clip_loss(image, text, scale)
        brief = reader.encode_text(short[rows]).unit
        if arm in BOTH:
            smoothing = SMOOTHING if arm == "stretch_both_smoothed" else 0.0
            one, other = (clip_loss(image, told_so, scale, label_smoothing=smoothing) for told_so in (text, brief))
            return one + other
        if arm == "long_clip":
            return long_clip_loss(image, text, brief, scale, k=COMPONENTS, label_smoothing=SMOOTHING).total
        if arm == "dual":
            return fix_clip_loss(image, seen(rows), text, brief, scale).total
        states = (reader.layer_states(pixels), text_layer_states(model, said))
        groups = [head(layers) for head, layers in zip(heads, states, strict=True)]
        more = {"img_groups": groups[0], "txt_groups": groups[1], "first_group": FIRST_GROUP, "omega": OMEGA}
        return fix_clip_loss(image, seen(rows), text, brief, scale, **more).total

    trained = [*heads, reader] if arm == "fix_clip" else heads
    _fit(lab, model, trained, loss, steps=lab.steps(2 * STEPS if arm in LONGER else STEPS), rate=RATE)
    if kept is not None:
        kept.merge_(model)
    if arm in ("dual", "fix_clip"):
        unmask_patches_(model)
    return reader.eval()


def _told(lab: Lab) -> Descriptions:
    return training_scenes(lab.seed, lab.steps(SCENES, 64))


def _tokens(model: DualEncoder, texts: Sequence[str]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)
        ids = model.tokenizer(list(texts))
    return ids[:, : int(lengths(ids).max())]


def _crops(model: Clip, told: Descriptions) -> Tensor:
    """(n, CROPS, l)."""
    return _tokens(model, [text for texts in told.crops for text in texts]).unflatten(0, (len(told.crops), -1))


def _widths(model: Clip) -> tuple[int, int]:
    return model.config.vision.width, model.config.text.width


def _fit(
    lab: Lab, model: Clip, more: Sequence[nn.Module], loss: Callable[[Tensor], Tensor], *, steps: int, rate: float
) -> Clip:
    """Train a model and further modules in place, batches of the seed; it comes back whole and in evaluation mode."""
    parts = nn.ModuleList([model, *more]).train()
    optimizer = torch.optim.AdamW(parameter_groups(parts, weight_decay=DECAY), lr=rate, betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=max(steps, 2), pct_start=WARM, cycle_momentum=False
    )
    count = lab.steps(SCENES, 64)
    batches = draws(count, size=BATCH, generator=lab.generator("batches"))
    for _ in range(steps):
        optimizer.zero_grad()
        loss(next(batches)).backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale_()
    model.restore_vocabulary_()
    parts.eval()
    return model
