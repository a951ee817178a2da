"""The one block against torch's encoder layer and timm's block, and its presets against its default.

    python benchmarks/blocks.py [--quick] [--only WORDS] [--json OUT]     about 6 minutes of one core (--quick: 2)

A pass is forward and backward of one block; all three have the same weights and give the same values, which is checked
first. Variants take turns pass by pass; a round's figure is the median of its passes. In bf16 all run under autocast.
``--only "fp32 CLIP text"`` races the peers on the lines that begin so, ``--only presets`` the presets alone.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.blocks.options import BlockConfig
from tether.models.towers.blocks.presets import BLOCK_PRESETS, block_preset
from tether.models.towers.vision.tower import initialise_block_


@dataclass(frozen=True)
class Shape:
    """One stream of tokens and the block that reads it."""

    name: str
    batch: int
    tokens: int
    width: int
    heads: int
    causal: bool


SHAPES = (
    Shape("small picture", 32, 65, 192, 6, False),
    Shape("ViT-Ti", 8, 197, 192, 3, False),
    Shape("ViT-B/32", 16, 50, 768, 12, False),
    Shape("ViT-B/16", 8, 197, 768, 12, False),
    Shape("short text", 32, 24, 192, 6, True),
    Shape("CLIP text", 8, 77, 512, 8, True),
)


def blocks(shape: Shape) -> dict[str, Callable[[Tensor], Tensor]]:
    """The three with equal weights, each as a function of the stream."""
    ours = TransformerBlock(shape.width, heads=shape.heads, hidden=4 * shape.width, config=BlockConfig())
    for value in ours.parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=shape.width**-0.5)
    for layer in (ours.qkv, ours.proj, ours.up, ours.down):
        nn.init.zeros_(layer.bias)
    torch_layer = nn.TransformerEncoderLayer(
        shape.width, shape.heads, 4 * shape.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    timm_block = Block(shape.width, shape.heads, qkv_bias=True, norm_layer=nn.LayerNorm)
    pairs = {
        "qkv": ("self_attn.in_proj", "attn.qkv"),
        "proj": ("self_attn.out_proj", "attn.proj"),
        "up": ("linear1", "mlp.fc1"),
        "down": ("linear2", "mlp.fc2"),
        "attn_pre": ("norm1", "norm1"),
        "ffn_pre": ("norm2", "norm2"),
    }
    state = ours.state_dict()
    for place, other in enumerate((torch_layer, timm_block)):
        theirs = {}
        for mine, names in pairs.items():
            for kind in ("weight", "bias"):
                mark = "_" if names[place].endswith("in_proj") else "."
                theirs[f"{names[place]}{mark}{kind}"] = state[f"{mine}.{kind}"]
        other.load_state_dict(theirs)
    mask = nn.Transformer.generate_square_subsequent_mask(shape.tokens) if shape.causal else None
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "tether": lambda x: ours(x, causal=shape.causal),
        "torch": lambda x: torch_layer(x, src_mask=mask, is_causal=shape.causal),
    }
    if not shape.causal:
        variants["timm"] = timm_block
    else:
        variants["timm"] = lambda x: timm_block(x, attn_mask=mask)
    return variants


def presets(shape: Shape) -> dict[str, Callable[[Tensor], Tensor]]:
    """One block of each arrangement; of hybridnorm* the first, as the others are hybridnorm's."""
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    for name in BLOCK_PRESETS:
        config = block_preset(name, layer=0, layers=4)
        if config.needs_grid:
            continue
        block = TransformerBlock(shape.width, heads=shape.heads, hidden=4 * shape.width, config=config)
        initialise_block_(block, layers=4, generator=torch.Generator().manual_seed(0))
        runs[name] = functools.partial(block, causal=shape.causal)
    return runs


def race(
    variants: dict[str, Callable[[Tensor], Tensor]], shape: Shape, *, low: bool, quick: bool, equal: bool
) -> dict[str, list[float]]:
    """CPU seconds of a pass, the median of each round."""
    x = torch.randn(shape.batch, shape.tokens, shape.width, generator=torch.Generator().manual_seed(0))
    probe = torch.randn_like(x)
    outputs = {}

    def once(name: str) -> None:
        stream = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            out = variants[name](stream)
        out.backward(probe.to(out.dtype))
        outputs[name] = out.detach().float()

    for name in variants:
        once(name)
    order = list(variants)
    want = outputs[order[0]]
    for name in order if equal else ():
        apart = float((outputs[name] - want).abs().max() / want.abs().max())
        if apart > (0.05 if low else 1e-5):
            raise SystemExit(f"{name} computes something else on {shape}: {apart:.1e}")
    start = time.process_time()
    once(order[1])
    once(order[1])
    rounds, seconds = (3, 0.2) if quick else (5, 1.5)
    repeats = len(order) * max(1, round(2 * seconds / (time.process_time() - start) / len(order)))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        passes: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(repeats):
            shift = turn % len(order)
            for name in order[shift:] + order[:shift]:
                start = time.process_time()
                once(name)
                passes[name].append(time.process_time() - start)
        for name, each in passes.items():
            times[name].append(statistics.median(each))
    return times


def ratios(mine: list[float], theirs: list[float]) -> tuple[str, dict[str, float]]:
    """Time of the first divided by that of the second: median and range over rounds."""
    each = [a / b for a, b in zip(mine, theirs, strict=True)]
    middle, least, most = statistics.median(each), min(each), max(each)
    return f"{middle:.2f} [{least:.2f}..{most:.2f}]", {"ratio": middle, "least": least, "most": most}


def title(shape: Shape, precision: str, seconds: list[float]) -> str:
    causal = "causal" if shape.causal else ""
    size = f"{shape.batch} x {shape.tokens} x {shape.width}"
    return f"{precision} {shape.name:14} {size:14} {causal:6} {statistics.median(seconds) * 1e3:7.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", default="", help="how the lines wanted begin, or presets")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    print("tether's block, and its time divided by the other's: median [least..most] of the rounds")
    for precision, shape in itertools.product(("fp32", "bf16"), SHAPES):
        if not f"{precision} {shape.name}".startswith(options.only):
            continue
        times = race(blocks(shape), shape, low=precision == "bf16", quick=options.quick, equal=True)
        line = title(shape, precision, times["tether"])
        for name in ("torch", "timm"):
            text, figures[f"{precision} {shape.name} {name}"] = ratios(times["tether"], times[name])
            line += f"   {name} {text}"
        print(line, flush=True)
    if "presets".startswith(options.only):
        print("presets, and their time divided by the default block's")
        for precision, shape in itertools.product(("fp32", "bf16"), (SHAPES[0], SHAPES[2])):
            times = race(presets(shape), shape, low=precision == "bf16", quick=options.quick, equal=False)
            print(title(shape, precision, times["prenorm"]))
            for name in times:
                if name != "prenorm":
                    text, figures[f"{precision} {shape.name} {name}"] = ratios(times[name], times["prenorm"])
                    print(f"    {name:12} {text}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
