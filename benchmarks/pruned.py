"""What leaving attention out saves: processor time of embedding before and after ``gate_norm``, in turns.

    python benchmarks/pruned.py [--model NAME] [--rounds 7] [--quick]     about 2 minutes of one core

Without ``--model`` both towers have 12 blocks of width 192 and random weights; 196 patches and texts of 77 tokens, 16
of each at once. Speed does not depend on what the weights are. The median of the rounds' ratios, with the range. Ends
with 1 where a third of the attention left out (the paper takes 8 to 16 of 40) saves less than a tenth on images.

Measured last on two virtual cores of an AMD EPYC with other work beside it, five rounds, images: a quarter left out
1.15 times as fast (1.08 to 1.20), a third 1.24 (1.18 to 1.30), half 1.32 (1.30 to 1.37); texts 1.13, 1.23 and 1.25.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import tether
from tether.methods.gate_norm import GateNorm
from tether.models import Clip, create

FRACTIONS, LEAST = (0.25, 0.34, 0.5), 1.1
COUNT = 16


def seconds(run: Callable[[Tensor], object], batch: Tensor) -> float:
    start = time.process_time()
    run(batch)
    return time.process_time() - start


def large() -> Clip:
    tower = {"width": 192, "layers": 12, "heads": 6, "hidden": 768}
    return create("small", image_size=224, patch=16, vision=tower, text=tower | {"context": 77}).eval()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="one of Tether's own, of tether.load")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round of 2 images; its figures mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = large() if given.model is None else tether.load(given.model)
    count, rounds = (2, 1) if given.quick else (COUNT, given.rounds)
    image = torch.rand(count, 3, *model.image_spec.size)
    text = torch.randint(1, 1000, (count, model.config.text.context))
    text[:, -1] = model.config.text.end
    reached = 0.0
    for fraction in FRACTIONS:
        with torch.inference_mode(False):
            pruned: Any = GateNorm(fraction=fraction).apply_(copy.deepcopy(model))
        for name, batch in (("encode_image", image), ("encode_text", text)):
            whole, less = (getattr(one, name) for one in (model, pruned))
            whole(batch), less(batch)
            ratios = sorted(seconds(whole, batch) / seconds(less, batch) for _ in range(rounds))
            found = statistics.median(ratios)
            print(
                f"{fraction:.0%} of attention left out, {name}: {found:.2f} times [{ratios[0]:.2f}..{ratios[-1]:.2f}]"
            )
            if fraction == FRACTIONS[1] and name == "encode_image":
                reached = found
    if reached < LEAST and not given.quick:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
