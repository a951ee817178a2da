"""Recall at 1, 5 and 10 from embeddings, against clip_benchmark's.

Command: python benchmarks/retrieval.py [--quick] [--json OUT]
Cost: about twenty seconds of one core (--quick: five), most of it importing the peer.

Both get the same 1,000 picture and 5,000 text embeddings (five captions each) and give recall at 1, 5 and 10, text to
image and image to text. The peer's figure is what its own evaluate() does from embeddings on: similarities, one-hot top
k in batches of 64, for each k. Tether also gives mean and median rank in the same call. One thread, CPU seconds,
variants in turn, ratio of each round.

Last measured (two cores of an AMD EPYC with AVX-512, both busy with other work, torch 2.13 on the CPU, 5 rounds):
clip_benchmark 1.225 s; tether 0.069 s, 18.6 times faster (14.7 to 19.4); in blocks of 4 MiB 12.3 (10.7 to 13.8).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from tether.evaluate.retrieval import BLOCK_CELLS, recall_at_k

DEPTHS = (1, 5, 10)
PEER_BATCH = 64  # clip_benchmark's default batch size
BLOCKED_CELLS = 1 << 20


def pairs(images: int, *, captions: int, dim: int = 512) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(images, dim, generator=generator), dim=-1)
    owner = torch.arange(images).repeat_interleave(captions)
    text = F.normalize(image[owner] + 0.35 * torch.randn(len(owner), dim, generator=generator), dim=-1)
    return image, text, owner


def clip_benchmark(image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor) -> dict[str, float]:
    from clip_benchmark.metrics.zeroshot_retrieval import batchify
    from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k as peer

    scores = text @ image.t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), owner] = True
    found = {}
    for way, s, p in (("text_to_image", scores, positive), ("image_to_text", scores.T, positive.T)):
        for k in DEPTHS:
            hits = batchify(peer, s, p, PEER_BATCH, "cpu", k=k) > 0
            found[f"{way}_r{k}"] = hits.float().mean().item()
    return found


def tether(image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor) -> dict[str, float]:
    return recall_at_k(image, text, k=DEPTHS, text_to_image=owner, block_cells=BLOCK_CELLS)


def tether_blocked(image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor) -> dict[str, float]:
    return recall_at_k(image, text, k=DEPTHS, text_to_image=owner, block_cells=BLOCKED_CELLS)


VARIANTS = {"clip_benchmark": clip_benchmark, "tether": tether, "tether, blocks of 4 MiB": tether_blocked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = pairs(200 if options.quick else 1000, captions=5)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    results = {}
    for turn in range(3 if options.quick else 5):
        names = list(VARIANTS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            results[name] = VARIANTS[name](*data)
            seconds[name].append(time.process_time() - start)
    peer = results["clip_benchmark"]
    for name in VARIANTS:
        worst = max(abs(results[name][key] - value) for key, value in peer.items())
        assert worst < 1e-6, f"{name} differs from clip_benchmark by {worst}"
    print(f"{len(data[0])} pictures, {len(data[1])} texts, one thread; equal numbers: {peer}")
    print(f"{'':26}{'CPU s':>9}{'times faster':>14}   spread")
    report = {}
    for name, times in seconds.items():
        ratios = [base / own for base, own in zip(seconds["clip_benchmark"], times, strict=True)]
        report[name] = {"seconds": times, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        print(
            f"{name:26}{statistics.median(times):9.3f}{report[name]['ratio']:14.1f}   "
            f"{min(ratios):.1f} to {max(ratios):.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"recall": peer, "variants": report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
