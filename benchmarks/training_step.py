"""One training step against open_clip 3.3: same architecture, batch, captions, precision and loss.

    python benchmarks/training_step.py [--quick] [--json OUT]        about 3 minutes of one core (--quick: 1)

Architecture: pictures of 64 px in patches of 8, width 192, 6 blocks; texts of 24 tokens, width 192, 4 blocks; batch
256; captions are names of emojis (about 7 tokens). A step is zero_grad, forward, loss, backward, clipping, AdamW.
open_clip gets float pictures that are normalised already and texts padded to its context, as its loader gives them;
ours gets raw pixels and trimmed texts. First it prints how far any gradient is from open_clip's at the same weights.

Last measured, one thread of a shared 2-core AMD EPYC with AVX512_BF16, torch 2.13, seven rounds, median [range] against
open_clip: bf16 2.92 [2.76..3.87], half of the patches 6.17 [5.35..6.83], a quarter 9.48 [8.45..10.02]; float32 1.52
[1.42..1.58], 3.07 [2.97..3.39], 5.73 [5.36..6.02]. Largest difference of a gradient: float32 5e-7, bf16 4e-3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import emoji
import open_clip
import torch
from torch import Tensor

from tether.losses import clip_loss
from tether.models import create
from tether.models.convert.open_clip import rules
from tether.models.convert.rules import give, take
from tether.models.towers.clip import Clip

BATCH, CONTEXT, PATCHES = 256, 24, 64


def captions() -> list[str]:
    return sorted({entry["en"].strip(":").replace("_", " ") for entry in emoji.EMOJI_DATA.values()})


def peer(model: Clip, *, patch_dropout: float = 0.0) -> open_clip.CLIP:
    """open_clip's model with the same weights, which leaves out that share of the patches in training."""
    image, words = model.config.vision, model.config.text
    vision = {
        "image_size": image.image.size[0],
        "layers": image.layers,
        "width": image.width,
        "head_width": image.width // image.heads,
        "patch_size": image.patch,
        "patch_dropout": patch_dropout,
    }
    text = {
        "context_length": words.context,
        "vocab_size": words.vocabulary,
        "width": words.width,
        "heads": words.heads,
        "layers": words.layers,
    }
    theirs = open_clip.CLIP(model.dim, vision, text)
    theirs.load_state_dict(give(model.state_dict(), rules(model.config)))
    return theirs


def steps(precision: str) -> tuple[dict[str, Callable[[], Tensor]], float]:
    """The variants to time by name, and the largest difference of any gradient before the first step."""
    generator = torch.Generator().manual_seed(0)
    ours = create("small", seed=0)
    theirs = peer(ours)
    names = captions()
    some = [names[int(row)] for row in torch.randperm(len(names), generator=generator)[:BATCH]]
    text = ours.tokenizer(some)
    padded = torch.zeros(BATCH, CONTEXT, dtype=torch.int64)
    padded[:, : text.shape[1]] = text
    pixels = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8, generator=generator)
    floats = ours.image_spec.normalise(pixels)
    criterion = open_clip.ClipLoss()
    low = precision == "bf16"

    def their_loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            return criterion(*theirs(floats, padded))

    def our_loss(patches: int) -> Tensor:
        keep = None
        if patches < PATCHES:
            keep = torch.rand(BATCH, PATCHES, generator=generator).argsort(1)[:, :patches]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            out = ours(pixels, text, keep=keep)
            return clip_loss(out.image.unit, out.text.unit, out.logit_scale)

    their_loss().backward()
    our_loss(PATCHES).backward()
    their_grads = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    want = take(their_grads, rules(ours.config), where="open_clip")
    apart = max(float((want[name] - value.grad).abs().max()) for name, value in ours.named_parameters())

    ours.prune_vocabulary_(ours.tokenizer(names))
    trained = [value for value in ours.parameters() if value.requires_grad]
    our_adam = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    their_adam = torch.optim.AdamW(theirs.parameters(), lr=1e-4)

    def their_step() -> Tensor:
        their_adam.zero_grad()
        loss = their_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        their_adam.step()
        return loss

    def our_step(patches: int) -> Callable[[], Tensor]:
        def step() -> Tensor:
            our_adam.zero_grad()
            loss = our_loss(patches)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            our_adam.step()
            ours.clamp_logit_scale_()
            return loss

        return step

    variants = {
        "open_clip": their_step,
        "tether": our_step(PATCHES),
        "tether, half of the patches": our_step(PATCHES // 2),
        "tether, a quarter": our_step(PATCHES // 4),
    }
    return variants, apart


def race(variants: dict[str, Callable[[], Tensor]], *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round, the order rotated."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.process_time()
            variants[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of seven")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for precision in ("bf16", "fp32"):
        variants, apart = steps(precision)
        print(f"{precision}: largest difference of any gradient at the same weights {apart:.1e}")
        seconds = race(variants, rounds=3 if options.quick else 7)
        for name, times in seconds.items():
            ratios = [base / mine for base, mine in zip(seconds["open_clip"], times, strict=True)]
            middle = statistics.median(times)
            figures[f"{precision} {name}"] = {
                "seconds": middle,
                "images_per_second": BATCH / middle,
                "ratio": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
            }
            print(
                f"  {name:30s} {middle:6.3f} s {BATCH / middle:6.0f} img/s"
                f"   x{statistics.median(ratios):5.2f}  [{min(ratios):.2f}..{max(ratios):.2f}]"
            )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
