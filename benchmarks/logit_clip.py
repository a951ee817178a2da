"""LogitClip around the tiled InfoNCE: memory and time of forward plus backward, against the B x B form and no clip.

Command: ``python benchmarks/logit_clip.py`` (about 6 CPU minutes; ``--quick`` stops at B = 4,096, about one).
Each run is a process of its own with one thread; variants rotate within each round. Memory is the growth of the
resident high-water mark over the inputs, gradients included. Time is CPU time of one forward and backward.
``plain`` clips the rows and the columns of a stored matrix, ``clip`` is ClipLoss alone, ``p = 2`` and ``p = 3`` are
LogitClip with a cap that clips every row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

VARIANTS = ("plain", "clip", "p = 2", "p = 3")
WIDTH, SCALE, TAU = 512, 50.0, 20.0


def measure(variant: str, batch: int) -> dict[str, float]:
    """Loss, peak growth in MiB and CPU seconds of one variant, in this process."""
    import resource
    import time

    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from tether.core.gather import LOCAL
    from tether.core.types import Batch, Encoded, Features
    from tether.losses import ClipLoss
    from tether.methods.logitclip import LogitClip, clip_logits

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(batch, WIDTH, generator=generator), dim=1)
    image = F.normalize(text + 0.1 * torch.randn(batch, WIDTH, generator=generator), dim=1)
    scale = torch.tensor(SCALE, requires_grad=True)
    objective = ClipLoss() if variant == "clip" else LogitClip(tau=TAU, p=3.0 if variant == "p = 3" else 2.0)

    def loss(image: Tensor, text: Tensor) -> Tensor:
        if variant == "plain":
            logits, target = scale * image @ text.T, torch.arange(len(image))
            sides = (F.cross_entropy(clip_logits(side, TAU), target) for side in (logits, logits.T))
            return torch.stack(list(sides)).mean()
        rows = Batch(torch.zeros(len(image), 3, 1, 1), torch.ones(len(image), 1, dtype=torch.int64))
        return objective(Encoded(Features(image), Features(text), scale), rows, gather=LOCAL).total

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
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    batches = (256, 1024, 4096) if arguments.quick else (256, 1024, 4096, 16384)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    results = []
    print(f"{'B':>6} {'form':<6} {'peak MiB':>9} {'CPU s':>8}  time / plain (min..max)")
    for batch in batches:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for turn in range(arguments.rounds):
            first = turn % len(VARIANTS)
            for name in VARIANTS[first:] + VARIANTS[:first]:
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
                f"{batch:>6} {name:<6} {row['mib']:>9.0f} {row['seconds']:>8.4f}  "
                f"{row['ratio']:.2f} ({row['ratio_least']:.2f}..{row['ratio_most']:.2f})",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
