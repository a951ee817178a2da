"""The tiled InfoNCE against the plain B x B form and open_clip's ClipLoss: memory and time of forward plus backward.

Command: ``python benchmarks/infonce.py`` (about 4 CPU minutes; ``--quick`` stops at B = 4,096, under a minute).
Each run is a process of its own with one thread; variants rotate within each round. Memory is the growth of the
resident high-water mark over the inputs, gradients included. Time is CPU time of one forward and backward.

Last measured on one core of an Intel Xeon with other work beside it, d = 512, float32, three rounds; time is
relative to plain, with the spread over rounds:

====== ========= ========= =================
B      form      peak MiB  time / plain
====== ========= ========= =================
256    tiled     2         0.67 (0.63..0.68)
256    open_clip 2         0.74 (0.72..0.79)
1,024  tiled     16        0.50 (0.46..0.52)
1,024  open_clip 32        0.93 (0.88..0.96)
4,096  tiled     48        0.52 (0.51..0.54)
4,096  plain     268       1
4,096  open_clip 272       0.99 (0.95..1.01)
16,384 tiled     75        0.54 (0.50..0.60)
16,384 plain     4,147     1
16,384 open_clip 4,171     1.00 (0.88..1.06)
====== ========= ========= =================
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

VARIANTS = ("tiled", "plain", "open_clip")
WIDTH = 512


def measure(variant: str, batch: int) -> dict[str, float]:
    """Loss, peak growth in MiB and CPU seconds of one variant, in this process."""
    import resource
    import time

    import torch
    import torch.nn.functional as F

    from tether.losses import clip_loss
    from tether.losses.reference import plain_info_nce

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(batch, WIDTH, generator=generator), dim=1)
    image = F.normalize(text + 0.1 * torch.randn(batch, WIDTH, generator=generator), dim=1)
    scale = torch.tensor(50.0, requires_grad=True)

    if variant == "open_clip":
        from open_clip.loss import ClipLoss

        official = ClipLoss()

    def loss(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        if variant == "tiled":
            return clip_loss(image, text, scale)
        if variant == "plain":
            sides = plain_info_nce(image, text, scale=scale), plain_info_nce(text, image, scale=scale)
            return (sides[0].mean() + sides[1].mean()) / 2
        return official(image, text, scale)

    warm = F.normalize(torch.randn(64, WIDTH), dim=1)
    loss(warm.clone().requires_grad_(), warm.clone().requires_grad_()).backward()
    image.requires_grad_()
    text.requires_grad_()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    repeats = max(1, 4096 // batch)
    started = time.process_time()
    for _ in range(repeats):
        image.grad = text.grad = None
        value = loss(image, text)
        value.backward()
    seconds = (time.process_time() - started) / repeats
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"loss": float(value.detach()), "mib": grown, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", metavar="B", help="these sizes only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    batches = arguments.batches or ((256, 1024, 4096) if arguments.quick else (256, 1024, 4096, 16384))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    results = []
    print(f"{'B':>6} {'form':<10} {'peak MiB':>9} {'CPU s':>8}  time / plain (min..max)")
    for batch in batches:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for turn in range(arguments.rounds):
            for name in VARIANTS[turn % 3 :] + VARIANTS[: turn % 3]:
                command = [sys.executable, __file__, "--one", name, str(batch)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
        for name in VARIANTS:
            ratios = [run["seconds"] / plain["seconds"] for run, plain in zip(runs[name], runs["plain"], strict=True)]
            row = {
                "batch": batch,
                "form": name,
                "mib": statistics.median(run["mib"] for run in runs[name]),
                "seconds": statistics.median(run["seconds"] for run in runs[name]),
                "ratio": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
                "loss": runs[name][0]["loss"],
            }
            results.append(row)
            print(
                f"{batch:>6} {name:<10} {row['mib']:>9.0f} {row['seconds']:>8.4f}  "
                f"{row['ratio']:.2f} ({row['ratio_least']:.2f}..{row['ratio_most']:.2f})",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
