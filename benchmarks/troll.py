"""The cost of TROLL's exact projection, and of its loss against PPO's clipped ratio.

Command: ``python benchmarks/troll.py`` (about 10 CPU seconds; ``--quick`` for 3 rounds and fewer tokens).
One thread, CPU time, float32, forward and backward, variants in rotating order. First the projection alone, 10,000
tokens with a support of 64, by the share of tokens outside the trust region; beside it 24 bisection steps for every
token, without a gradient through the multiplier, as an independent implementation has it. Then the whole loss on
logits over a vocabulary of 50,257.

Last measured on one core of an Intel Xeon with other work beside it, 9 rounds. Projection of 10,000 tokens, added to a
log_softmax of 2.4 to 4.7 ms: 4.9 % outside 13.9 ms (bisection 130), 14.7 % outside 14.6 ms (77), 95.1 % outside 106 ms
(63). Loss of 512 tokens: 1.10 (1.03..1.14) times the clipped ratio's 165 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tether.methods.troll.kl_projection import project_kl
from tether.methods.troll.loss import EPS, TROLLLoss
from tether.methods.troll.sparse_policy import SparseDist

TOKENS, SUPPORT, VOCABULARY, SEQUENCES, LENGTH = 10_000, 64, 50_257, 8, 64
SPREADS = {"few": 0.25, "some": 0.3, "most": 1.0}
"""How far the new logits are from the old ones, as a standard deviation."""


def bisected(new: Tensor, old: Tensor) -> Tensor:
    """The projection by bisection on the logarithm of the multiplier, which then counts as a constant."""
    with torch.no_grad():
        low, high = new.new_full(new.shape[:-1], -8.0), new.new_full(new.shape[:-1], 10.0)
        for _ in range(24):
            middle = (low + high) / 2
            pi = mixed(new, old, middle.exp())
            inside = (pi.exp() * (pi - old)).sum(-1) <= EPS
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        outside = (new.exp() * (new - old)).sum(-1) > EPS
    return torch.where(outside[..., None], mixed(new, old, high.exp()), new)


def mixed(new: Tensor, old: Tensor, multiplier: Tensor) -> Tensor:
    weight = multiplier[..., None]
    return ((weight * old + new) / (weight + 1)).log_softmax(-1)


def projection(spread: float, tokens: int) -> tuple[dict[str, Callable[[], object]], float]:
    draw = torch.Generator().manual_seed(0)
    raw = 3 * torch.randn(tokens, SUPPORT, generator=draw)
    old = raw.log_softmax(-1)
    leaf = (raw + spread * torch.randn(tokens, SUPPORT, generator=draw)).requires_grad_()
    with torch.no_grad():
        outside = float((project_kl(leaf.log_softmax(-1), old, EPS).t < 1).float().mean())

    def run(method: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(method(leaf.log_softmax(-1), old)[:, 0].sum(), leaf)

    return {
        "none": run(lambda new, old: new - 0 * old),
        "project_kl": run(lambda new, old: project_kl(new, old, EPS).logp),
        "bisection": run(bisected),
    }, outside


def loss(length: int) -> dict[str, Callable[[], object]]:
    draw = torch.Generator().manual_seed(0)
    shape = (SEQUENCES, length, VOCABULARY)
    peaks = 12 * torch.randn(shape[0], shape[1], 8, generator=draw).abs()
    raw = torch.randn(shape, generator=draw).scatter_(
        2, torch.randint(0, VOCABULARY, peaks.shape, generator=draw), peaks
    )
    tokens = raw.argmax(-1)
    leaf = (raw + 0.1 * torch.randn(shape, generator=draw)).requires_grad_()
    old_logp = raw.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    stored = SparseDist.from_logits(raw, tokens)
    advantages, mask = torch.randn(SEQUENCES, generator=draw), torch.ones(shape[:2])
    del raw
    objective = TROLLLoss()

    def clipped() -> object:
        ratio = (leaf.log_softmax(-1).gather(2, tokens[..., None])[..., 0] - old_logp).exp()
        gain = torch.minimum(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * advantages[:, None])
        return torch.autograd.grad(-gain.mean(), leaf)

    def trusted() -> object:
        return torch.autograd.grad(objective(leaf, stored, tokens, advantages, mask).total, leaf)

    return {"clipped ratio": clipped, "TROLL": trusted}


def measure(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time for each round; the order rotates."""
    names = list(variants)
    spent: dict[str, list[float]] = {name: [] for name in names}
    for variant in variants.values():
        variant()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.process_time()
            variants[name]()
            spent[name].append(time.process_time() - begun)
    return spent


def report(title: str, spent: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    base = next(iter(spent.values()))
    rows = {}
    for name, seconds in spent.items():
        ratios = [a / b for a, b in zip(seconds, base, strict=True)]
        rows[name] = {
            "ms": 1000 * statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
        print(
            f"{title:34} {name:14} {rows[name]['ms']:8.1f} ms  {rows[name]['ratio']:5.2f} "
            f"({rows[name]['least']:.2f}..{rows[name]['most']:.2f})",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds and fewer tokens")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds, tokens, length = (3, 2000, 8) if arguments.quick else (9, TOKENS, LENGTH)
    results = {}
    for spread in SPREADS.values():
        variants, outside = projection(spread, tokens)
        title = f"{tokens} tokens, {outside:.1%} outside"
        results[title] = report(title, measure(variants, rounds))
    title = f"loss, {SEQUENCES * length} tokens of {VOCABULARY}"
    results[title] = report(title, measure(loss(length), rounds))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
