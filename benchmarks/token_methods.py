"""A training step that sees fewer tokens, beside open_clip's with ``patch_dropout``: images a CPU second, by turns.

Command:  python benchmarks/token_methods.py [PARQUET] [--quick] [--json FILE]
Cost:     about 3 CPU minutes on one core, 5 more with PARQUET, labelled photos (``--quick``: a third).

Without PARQUET: drawings of 64 px in patches of 8 (the model ``small``), batch 256, names of emojis. With it also its
first images at 224 px in patches of 16, width 384, 12 blocks, batch 16, and "a photo of a LABEL" by a text tower of 77
tokens, width 384, 12 blocks. One thread, bf16 autocast, AdamW, gradients clipped to norm 1.

A step of ours is what ``tether train`` does with a batch, the choice of patches included, by the settings of the
recipe ``short-tokens``; the images stand ready in pixels, as its loader gives them. open_clip gets float images that
are normalised already and texts padded to its context, as its own loader gives them. Both begin at the same weights.

The last column is against open_clip with the same share of patches left out, the one before against ``patch_dropout
0.5``. Not all of the difference is tokens: "all patches" of ours says what else there is, "whole vocabulary" what of it
is the token table.

Measured last on two virtual cores of an AMD EPYC (AVX512_BF16) with other work beside it, five rounds: against
open_clip with the same share 2.8 (half) and 3.4 (quarter) at 64 px, 2.4 and 3.2 at 224 px; against ``patch_dropout
0.5`` a quarter reaches 4.5 and 4.0. The tables with their spread stand in docs/guides/train-for-less.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.data import open_source
from tether.data.in_order import ordered
from tether.losses import ClipLoss
from tether.methods.clipa.shorten import Shortened
from tether.models import create
from tether.models.towers.clip import Clip
from tether.optim import AdamW, parameter_groups
from tether.optim.clip import GlobalNorm
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import Constant
from tether.training.steps.module import StepModule
from tether.training.steps.presets import ContrastiveStep
from training_step import peer, race

BASE = "open_clip, half"
SHARES = {"all": 1.0, "half": 0.5, "quarter": 0.25}
GRID = {"name": "grid", "window": 2, "each": 1}
SHORT = 12


@dataclass(frozen=True)
class Data:
    """A model and what it learns from."""

    make: Callable[[], Clip]
    pixels: Tensor
    texts: Sequence[str]
    small: int


def first(make: Callable[[], Clip], spec: Any, *, batch: int, small: int) -> Data:
    """The first images of a source and what they show."""
    source = open_source(spec, where="benchmark")
    rows, pixels = next(ordered(source, image_spec=make().image_spec, batch_size=batch))
    texts = [row.texts[0] if row.texts else f"a photo of a {row.meta['label']}" for row in rows]
    return Data(make, pixels, texts, small)


def drawings() -> Data:
    return first(lambda: create("small", seed=0), {"name": "emoji", "split": "train", "size": 64}, batch=256, small=32)


def photos(path: Path) -> Data:
    width: dict[str, Any] = {"width": 384, "layers": 12, "heads": 6, "hidden": 1536}
    vision = {**width, "patch": 16}
    return first(lambda: create("base", seed=0, dim=384, vision=vision, text=width), str(path), batch=16, small=112)


def our_step(
    data: Data, *, whole: bool = False, small: bool = False, short: bool = False, **settings: Any
) -> Callable[[], object]:
    """One step of a run on one batch again and again.

    Args:
        data: of the run.
        whole: train the whole token table, not the rows in use alone.
        small: images and model of the small size.
        short: texts of the few words that tell most.
        **settings: of the step's image view.
    """
    model, pixels, texts = data.make(), data.pixels, list(data.texts)
    if small:
        model = model.resized(image_size=data.small)
        smaller = torch.nn.functional.interpolate(pixels.float(), (data.small, data.small), mode="area")
        pixels = smaller.round().to(torch.uint8)
    if short:
        texts = [Shortened(context=SHORT).shortened(text, generator=random.Random(0)) for text in texts]
    batch = Batch(pixels, model.tokenizer(texts))
    if not whole:
        model.prune_vocabulary_(batch.text)
    module = StepModule(model.train())
    optimizer = AdamW(parameter_groups(module, weight_decay=0.2), lr=1e-4)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    step = ContrastiveStep(ClipLoss(), steps=1000, seed=0, **settings)
    player = Player(step, optimizer, named, Constant(), GlobalNorm(max_norm=1.0))
    precision, turn = Precision(torch.device("cpu"), torch.bfloat16), itertools.count()

    def run() -> None:
        start = next(turn)
        fit(
            module,
            [player],
            itertools.repeat(batch),
            start=start,
            end=start + 1,
            steps=1000,
            accumulate=1,
            precision=precision,
            gather=LOCAL,
            on_step=lambda report: model.clamp_logit_scale_(),
        )

    return run


def their_step(data: Data, *, keep: float) -> Callable[[], object]:
    """open_clip's, with ``patch_dropout`` of what is not kept."""
    ours = data.make()
    theirs = peer(ours, patch_dropout=1 - keep).train()
    text = ours.tokenizer(list(data.texts))
    padded = torch.zeros(len(text), ours.config.text.context, dtype=torch.int64)
    padded[:, : text.shape[1]] = text
    floats = ours.image_spec.normalise(data.pixels)
    adam, criterion = torch.optim.AdamW(theirs.parameters(), lr=1e-4, weight_decay=0.2), open_clip.ClipLoss()

    def run() -> None:
        adam.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = criterion(*theirs(floats, padded))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adam.step()
        with torch.no_grad():
            theirs.logit_scale.clamp_(0, 4.6052)

    return run


def variants(data: Data) -> dict[str, tuple[str, Callable[[], object]]]:
    """By name the share of patches, and the step."""
    return {
        **{f"open_clip, {name}": (name, their_step(data, keep=share)) for name, share in SHARES.items()},
        "all, whole vocabulary": ("all", our_step(data, whole=True)),
        "all": ("all", our_step(data)),
        "random half": ("half", our_step(data, keep_patches=0.5)),
        "random quarter": ("quarter", our_step(data, keep_patches=0.25)),
        "grid, 1 of 2 x 2": ("quarter", our_step(data, patches=GRID)),
        "short-tokens, first stage": ("quarter", our_step(data, patches=GRID, short=True)),
        f"small images, {data.small} px": ("quarter", our_step(data, small=True)),
    }


def spread(peers: Sequence[float], own: Sequence[float]) -> list[float]:
    """Median, least and largest of how many times faster."""
    ratios = [theirs / ours for theirs, ours in zip(peers, own, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def measure(data: Data, *, rounds: int) -> dict[str, dict[str, Any]]:
    """Race all variants and print the table."""
    steps = variants(data)
    seconds = race({name: run for name, (_, run) in steps.items()}, rounds=rounds)  # pyrefly: ignore
    found = {}
    print(
        f"| step | patches | images a CPU second | times {BASE} | times open_clip, same share |\n" + "| --- " * 5 + "|"
    )
    for name, (share, _) in steps.items():
        speed = len(data.pixels) / statistics.median(seconds[name])
        ratios = [spread(seconds[base], seconds[name]) for base in (BASE, f"open_clip, {share}")]
        found[name] = {"share": share, "images_per_second": speed, "half": ratios[0], "same": ratios[1]}
        cells = [f"{middle:.2f} ({least:.2f} to {most:.2f})" for middle, least, most in ratios]
        print(f"| {name} | {share} | {speed:.1f} | {cells[0]} | {cells[1]} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parquet", nargs="?", type=Path, help="labelled photos, for the steps at 224 px")
    parser.add_argument("--quick", action="store_true", help="one round, whose spread means nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 1 if given.quick else 5
    found = {"64 px": measure(drawings(), rounds=rounds)}
    if given.parquet:
        found["224 px"] = measure(photos(given.parquet), rounds=rounds)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
