"""NaLaFormer: linear attention in which the length of a query decides how sharply it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether.papers.reproduction.lab import Lab

HEADS, TOKENS, WIDTH = 4, 64, 16
LENGTHS = (0.1, 0.3, 1.0, 3.0)
"""What queries are multiplied by."""
VIT_WIDTH, VIT_LAYERS, VIT_HEADS, VIT_STEPS, VIT_BATCH, VIT_RATE = 48, 3, 3, 300, 64, 2e-3
TEST_SHARE = 0.25

CARD = Card(
    slug="nalaformer",
    title="Norm x Direction: Restoring the Missing Query Norm in Vision Linear Attention",
    year=2025,
    arxiv="2506.21137",
    code="ZacharyMeng/NaLaFormer",
    package="models",
    parts=(
        "tether.models.blocks.linear_attention.linear_attention",
        "tether.models.blocks.rope.grid_rope",
        "tether.models.blocks.grid.GridConv",
    ),
    needs=("pairs", "images of many patches"),
    gives="Attention whose cost grows with the number of tokens, not its square, and that still becomes sharper for "
    "longer queries.",
    claim=Claim(
        says="The longer a query, the more sharply NaLa looks; in linear attention with relu features length cancels.",
        metric=f"fall of the attention weights' entropy from queries {LENGTHS[0]:g} to {LENGTHS[-1]:g} long, nats",
        better="higher",
        margin=0.25,
        baseline="linear attention with relu features on the same queries and keys",
        scale=f"random directions, {HEADS} heads, {TOKENS} keys of {WIDTH} channels",
    ),
    differences=(
        "A query of length zero gives zero; the released code gives NaN.",
        "Hidden keys are left out of the means, and a causal form exists; the released code has neither.",
        "The class token stands at the origin of the rotary grid and takes no part in convolutions; the released "
        "model has none, but averages over patches, in four stages of falling resolution.",
        "The cosine form of the paper's text is not in its released code, which is followed here.",
        "The trained comparison, in the notes, is on eight by eight digits, not on ImageNet.",
    ),
    minutes=3.0,
    guide="architectures.md",
    authors=("Meng", "Luo", "Huo", "Wang", "Li", "Zhang"),
)


def reproduce(lab: Lab) -> Trial:
    """Measure entropies on random queries, and for the notes train the same small transformer on each core."""
    import itertools

    import torch

    draw = lab.generator("queries and keys")
    q, k = (torch.randn(1, HEADS, TOKENS, WIDTH, generator=draw) for _ in range(2))
    unit = q / q.norm(dim=-1, keepdim=True)
    notes: dict[str, float] = {}
    fall: dict[str, float] = {}
    for core in ("nala", "relu", "softmax"):
        levels = [entropy(length * unit, k, core=core) for length in LENGTHS]
        notes |= {f"entropy_{core}_{length:g}": level for length, level in zip(LENGTHS, levels, strict=True)}
        notes[f"falls_throughout_{core}"] = float(all(a > b for a, b in itertools.pairwise(levels)))
        fall[core] = levels[0] - levels[-1]
    gaussian = [entropy(length * q, k, core="nala") for length in (LENGTHS[0], LENGTHS[-1])]
    notes |= {"fall_softmax": fall["softmax"], "fall_nala_gaussian_queries": gaussian[0] - gaussian[1]}
    notes |= {f"digits_accuracy_{core}": digits_accuracy(lab, core=core) for core in ("nala", "relu", "softmax")}
    return Trial(baseline=fall["relu"], ours=fall["nala"], notes=notes)


def entropy(q: Tensor, k: Tensor, *, core: str) -> float:
    """Mean entropy of the attention weights, in nats."""
    import torch

    from tether.models.blocks.attention import ATTENTION

    weights = ATTENTION[core].weights(q, k, bias=None)
    return float(-torch.xlogy(weights, weights).sum(-1).mean())


def digits_accuracy(lab: Lab, *, core: str) -> float:
    """Share of held-out digits named by a small transformer whose tokens are pixels; equal seeds see equal batches."""
    import torch
    import torch.nn.functional as F
    from sklearn.datasets import load_digits

    from tether.models.blocks.block import BlockConfig, TransformerBlock
    from tether.models.blocks.layers import LayerNorm, Linear
    from tether.models.tower import initialise_block_
    from tether.optim import AdamW

    images, labels = load_digits(return_X_y=True)
    pixels, names = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(pixels), generator=lab.generator("split"))
    cut = round(len(order) * TEST_SHARE)
    held_out, seen = order[:cut], order[cut:]

    draw = lab.generator("weights")
    place = torch.nn.Parameter(torch.randn(pixels.shape[1], VIT_WIDTH, generator=draw))
    shade = torch.nn.Parameter(torch.randn(VIT_WIDTH, generator=draw))
    config = BlockConfig(attention=core)
    blocks = torch.nn.ModuleList(
        TransformerBlock(VIT_WIDTH, heads=VIT_HEADS, hidden=2 * VIT_WIDTH, config=config) for _ in range(VIT_LAYERS)
    )
    norm, readout = LayerNorm(VIT_WIDTH), Linear(VIT_WIDTH, 10)
    for block in blocks:
        initialise_block_(block, layers=VIT_LAYERS, generator=draw)
    torch.nn.init.normal_(readout.weight, std=VIT_WIDTH**-0.5, generator=draw)
    torch.nn.init.zeros_(readout.bias)

    def logits(rows: Tensor) -> Tensor:
        x = rows[..., None] * shade + place
        for block in blocks:
            x = block(x, causal=False)
        return readout(norm(x).mean(1))

    modules = torch.nn.ModuleList([blocks, norm, readout])
    optimizer = AdamW([place, shade, *modules.parameters()], lr=VIT_RATE, weight_decay=0.05)
    batches = lab.generator("batches")
    steps = lab.steps(VIT_STEPS, 1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = VIT_RATE * min(1.0, (step + 1) / 30, 2 * (1 - step / steps))
        rows = seen[torch.randint(0, len(seen), (VIT_BATCH,), generator=batches)]
        loss = F.cross_entropy(logits(pixels[rows]), names[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        guesses = logits(pixels[held_out[: lab.steps(len(held_out), 32)]]).argmax(1)
    return float((guesses == names[held_out[: len(guesses)]]).float().mean())
