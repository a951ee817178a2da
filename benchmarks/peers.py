"""The README's chart: how many times faster, or smaller, than open_clip and clip_benchmark.

    python benchmarks/peers.py [--quick] [--json OUT] [--chart docs/images/peers.svg]     about 8 minutes of one core

One row each: a training step at 64 px (`training_step.py`) and of ViT-B/32 at 224 px, ViT-B/32's image and short-text
embeddings, recall from embeddings (`retrieval.py`), and the memory of the loss at 16,384 pairs (`infonce.py`). The two
libraries hold the same weights and see the same images and texts; bf16 but for the row that says float32, one thread,
CPU seconds, variants in turn. A row shows the median ratio and its range over rounds.

Last measured on one thread of a quiet 2-core AMD EPYC with AVX512_BF16, torch 2.13, five rounds: training step at 64 px
2.1 [1.9..2.2], of ViT-B/32 2.0 [1.8..2.1], image embedding 4.0 [3.9..4.4], short texts 17.7 [16.7..18.7], recall 10.1
[9.2..11.7], memory of the loss 53. Later and on the same kind of machine under load, seven rounds: image embedding in
float32 1.24 [1.15..1.27], in bf16 4.5 [3.7..4.6]. Products of matrices alone take 1.43 s of a float32 batch by MKL and
0.67 s of a bf16 one (196 GFLOP/s), of the 0.81 s that ours takes and the 3.4 to 3.8 s of open_clip's: the same products
leave room for a ratio of 5.1 to 5.7 in bf16, not more.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import open_clip
import torch
from torch import Tensor

import retrieval
import training_step
from tether.losses import clip_loss
from tether.models import create
from tether.models.convert.open_clip import rules
from tether.models.convert.rules import give
from tether.models.embed import encode_images, encode_texts

BATCH, IMAGES, TEXTS = 16, 16, 64
Ratios = dict[str, list[float]]


def vit_b_32() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """For each row of ViT-B/32 what open_clip does and what Tether does, from equal weights."""
    generator = torch.Generator().manual_seed(0)
    ours = create("base", seed=0)
    theirs = open_clip.create_model("ViT-B-32")
    theirs.load_state_dict(give(ours.state_dict(), rules(ours.config)))
    ours.eval()
    theirs.eval()
    tokenize, criterion = open_clip.get_tokenizer("ViT-B-32"), open_clip.ClipLoss()
    names = training_step.captions()
    texts = [names[int(row)] for row in torch.randperm(len(names), generator=generator)[:TEXTS]]
    pixels = torch.randint(0, 256, (IMAGES, 3, 224, 224), dtype=torch.uint8, generator=generator)
    floats = ours.image_spec.normalise(pixels)
    short, padded = ours.tokenizer(texts[:BATCH]), tokenize(texts[:BATCH])
    our_adam = torch.optim.AdamW(ours.parameters(), lr=1e-4, fused=True)
    their_adam = torch.optim.AdamW(theirs.parameters(), lr=1e-4)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def step(model: torch.nn.Module, adam: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
        model.train()
        adam.zero_grad()
        with autocast():
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        model.eval()

    def our_loss() -> Tensor:
        out = ours(pixels, short)
        return clip_loss(out.image.unit, out.text.unit, out.logit_scale)

    def their_images(*, low: bool) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            return theirs.encode_image(floats)

    def their_texts() -> Tensor:
        with torch.inference_mode(), autocast():
            return theirs.encode_text(tokenize(texts))

    return {
        "training step, ViT-B/32, 224 px": (
            lambda: step(theirs, their_adam, lambda: criterion(*theirs(floats, padded))),
            lambda: step(ours, our_adam, our_loss),
        ),
        "image embedding, ViT-B/32": (
            lambda: their_images(low=True),
            lambda: encode_images(ours, [pixels], precision="bfloat16"),
        ),
        "image embedding, ViT-B/32, float32": (lambda: their_images(low=False), lambda: encode_images(ours, [pixels])),
        "short texts, ViT-B/32": (their_texts, lambda: encode_texts(ours, texts, precision="bfloat16")),
    }


def ratios(peer: Callable[[], object], own: Callable[[], object], *, rounds: int) -> list[float]:
    """CPU seconds of the peer over ours, once a round, after a first call of each."""
    found = []
    for turn in range(-1, rounds):
        seconds = []
        for run in (peer, own) if turn % 2 else (own, peer):
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
        if turn >= 0:
            found.append(seconds[0] / seconds[1] if turn % 2 else seconds[1] / seconds[0])
    return found


def loss_memory(*, rounds: int) -> list[float]:
    """Peak memory of open_clip's loss over ours at 16,384 pairs.

    ``infonce.py`` is a small process between: a child's high-water mark begins at that of the process it came from.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "infonce.json"
        command = [sys.executable, str(Path(__file__).with_name("infonce.py")), "--batches", "16384"]
        subprocess.run([*command, "--rounds", str(rounds), "--json", str(out)], stdout=subprocess.DEVNULL, check=True)
        peak = {row["form"]: row["mib"] for row in json.loads(out.read_text(encoding="utf-8"))}
    return [peak["open_clip"] / peak["tiled"]]


def measure(*, quick: bool) -> Ratios:
    """Every row of the chart."""
    rounds = 2 if quick else 5
    variants, _ = training_step.steps("bf16")
    data = retrieval.pairs(200 if quick else 1000, captions=5)
    own = {
        "training step, 64 px": (variants["open_clip"], variants["tether"]),
        **vit_b_32(),
        "recall@1, 5, 10 (clip_benchmark)": (lambda: retrieval.clip_benchmark(*data), lambda: retrieval.tether(*data)),
    }
    found: Ratios = {}
    for name, (peer, ours) in own.items():
        found[name] = ratios(peer, ours, rounds=rounds)
        print(shown(name, found[name]), flush=True)
    name = "memory of the loss, 16,384 pairs"
    found[name] = loss_memory(rounds=1 if quick else 3)
    print(shown(name, found[name]))
    return found


def shown(name: str, values: Sequence[float]) -> str:
    """One row in words."""
    return f"{name:36s} x{statistics.median(values):6.2f}  [{min(values):.2f}..{max(values):.2f}]"


def chart(found: Ratios) -> str:
    """Bars of the medians with their ranges, on a logarithmic axis from 1; readable on light and dark pages."""
    left, wide, row, top = 250, 400, 34, 44
    most = max(max(values) for values in found.values())
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick <= most * 1.3]

    def at(value: float) -> float:
        return left + wide * math.log(max(value, 1.0)) / math.log(max(most * 1.1, 2))

    bottom = top + row * len(found)
    parts = [
        f'<text x="{left}" y="18" font-weight="600">times faster than open_clip (or smaller), bf16, one thread</text>'
    ]
    for tick in ticks:
        x = at(tick)
        parts.append(f'<path d="M{x:.0f} {top - 8}V{bottom}" stroke="#8886" fill="none"/>')
        parts.append(f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{tick}</text>')
    for place, (name, values) in enumerate(found.items()):
        y, middle = top + row * place, statistics.median(values)
        parts += [
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{at(middle) - left:.0f}" height="20" rx="3" fill="#3b82c4"/>',
            f'<path d="M{at(min(values)):.0f} {y + 10}H{at(max(values)):.0f}" stroke="#888" stroke-width="2"/>',
            f'<text x="{at(max(values)) + 8:.0f}" y="{y + 15}">{middle:.1f}</text>',
        ]
    box = f"0 0 {left + wide + 60} {bottom + 28}"
    style = 'font-family="sans-serif" font-size="13" fill="#7a7a7a"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {style}>', *parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds, smaller loss")
    parser.add_argument("--json", type=Path, help="write the ratios here")
    parser.add_argument("--chart", type=Path, help="draw them here, as SVG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.chart:
        options.chart.write_text(chart(found), encoding="utf-8")


if __name__ == "__main__":
    main()
