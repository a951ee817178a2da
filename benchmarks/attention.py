"""Linear attention against softmax attention by number of tokens, forward and backward.

Command: ``python benchmarks/attention.py`` (about 1 CPU minute; ``--quick`` for 3 rounds instead of 5).
4,096 tokens in all at every length (one row from 4,096 on), 6 heads of 64 channels, float32, one thread, CPU time,
cores in rotating order; the ratio is the median of the per-round ratios to softmax (torch's fused attention), below 1
is faster. ``nala, causal`` stands beside a causal softmax.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from tether.models.towers.blocks.attention import ATTENTION

TOKENS, HEADS, WIDTH = 4096, 6, 64
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
CORES = (("softmax", False), ("nala", False), ("relu", False), ("elu", False), ("softmax", True), ("nala", True))


def seconds(core: str, *, causal: bool, length: int) -> float:
    """CPU time of one forward and backward."""
    generator = torch.Generator().manual_seed(length)
    shape = (TOKENS // length, HEADS, length, WIDTH)
    q, k, v = (torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3))
    probe = torch.randn(shape, generator=generator)
    started = time.process_time()
    (ATTENTION[core](q, k, v, causal=causal, bias=None) * probe).sum().backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    print(f"{'tokens':>6}  {'core':<16} {'ms':>8}  ratio to softmax")
    for length in LENGTHS:
        taken: dict[tuple[str, bool], list[float]] = {core: [] for core in CORES}
        for name, causal in CORES:
            seconds(name, causal=causal, length=length)
        for turn in range(3 if arguments.quick else 5):
            first = turn % len(CORES)
            for name, causal in CORES[first:] + CORES[:first]:
                taken[name, causal].append(seconds(name, causal=causal, length=length))
        for (name, causal), mine in taken.items():
            ratios = [own / base for own, base in zip(mine, taken["softmax", causal], strict=True)]
            row = {
                "tokens": length,
                "core": f"{name}, causal" if causal else name,
                "milliseconds": statistics.median(mine) * 1e3,
                "ratio": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
            }
            results.append(row)
            spread = f"{row['ratio']:.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
            print(f"{length:>6}  {row['core']:<16} {row['milliseconds']:>8.1f}  {spread}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
