"""Matryoshka around CLIP's loss beside sentence-transformers' around its ranking loss: difference and CPU seconds.

Command:  python benchmarks/matryoshka.py [--quick] [--json FILE]
Cost:     about 2 CPU minutes on one core (``--quick``: 20 seconds, without batches of 4,096).

Both get the same embeddings of 768 numbers, the widths 64, 128, 256, 512 and 768 with weight 1, and a scale of 20; no
model runs. ``one way`` is sentence-transformers' ``MultipleNegativesRankingLoss`` as it stands, ``both ways`` the same
with ``directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"``, which is CLIP's loss. Time is that
of a forward and a backward to the embeddings, float32, one thread, the two by turns; the difference is the largest of
the losses and of any gradient, relative to the largest number of theirs, in float32 and in float64.

Measured last on two virtual cores of an AMD EPYC with other work beside it, five rounds, 256, 1,024 and 4,096 pairs:
both ways 1.89 (1.60 to 2.02), 2.33 (2.10 to 2.43) and 2.43 (2.37 to 2.54) times their speed, one way 1.16 (1.03 to
1.45), 1.29 (1.19 to 1.33) and 1.34 (1.29 to 1.37); at most 8e-7 apart in float32, 6e-15 in float64.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from torch import Tensor, nn

from tether.losses import clip_loss, matryoshka_loss
from training_step import race

WIDTH, DIMS, SCALE = 768, (64, 128, 256, 512, 768), 20.0
WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "one way": ("image_to_text", {}),
    "both ways": ("mean", {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}),
}


class Passing(nn.Module):
    """A sentence encoder whose embeddings are what it is given."""

    def get_embedding_dimension(self) -> int:
        """For the peer's own check."""
        return WIDTH

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give back what came."""
        return dict(features)


Run = Callable[[], tuple[Tensor, ...]]


def pair(batch: int, way: str, dtype: torch.dtype) -> tuple[Run, Run]:
    """Theirs and ours: each gives the loss and the gradients of both sides."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64)
    other = one + 3 * torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64)
    sides = [side.to(dtype).requires_grad_() for side in (one, other)]
    directions, settings = WAYS[way]
    model: Any = Passing()
    peer = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, scale=SCALE, **settings), DIMS)
    loss = partial(clip_loss, logit_scale=SCALE, directions=directions)

    def theirs() -> tuple[Tensor, ...]:
        value = peer([{"sentence_embedding": side} for side in sides], torch.empty(0))
        return value.detach(), *torch.autograd.grad(value, sides)

    def ours() -> tuple[Tensor, ...]:
        value = matryoshka_loss(loss, *sides, dims=DIMS).total
        return value.detach(), *torch.autograd.grad(value, sides)

    return theirs, ours


def apart(theirs: Run, ours: Run) -> float:
    """The largest difference, relative to the largest number of each tensor of theirs."""
    return max(
        float((mine - other).abs().max() / other.abs().max()) for other, mine in zip(theirs(), ours(), strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    print("| batch | loss | largest difference, float64 | float32 | their CPU ms | ours | times theirs |")
    print("| --- " * 7 + "|")
    for batch, way in itertools.product((256, 1024) if given.quick else (256, 1024, 4096), WAYS):
        double, single = (apart(*pair(batch, way, dtype)) for dtype in (torch.float64, torch.float32))
        theirs, ours = pair(batch, way, torch.float32)
        repeats = max(1, 2048 // batch)

        def often(run: Run, *, times: int = repeats) -> Callable[[], Tensor]:
            return lambda: [run()[0] for _ in range(times)][-1]

        seconds = race({"theirs": often(theirs), "ours": often(ours)}, rounds=3 if given.quick else 5)
        ratios = [other / own for other, own in zip(seconds["theirs"], seconds["ours"], strict=True)]
        milliseconds = [1000 * statistics.median(seconds[name]) / repeats for name in ("theirs", "ours")]
        row = {"batch": batch, "loss": way, "float64": double, "float32": single}
        row |= {"ms": milliseconds, "ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
        found.append(row)
        print(
            f"| {batch:,} | {way} | {double:.0e} | {single:.0e} | {milliseconds[0]:.1f} | {milliseconds[1]:.1f} "
            f"| {row['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
