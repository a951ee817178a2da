"""EVA-02's image tower beside timm's with the same weights: CPU seconds of a forward pass, and how far they are apart.

Command:  python benchmarks/eva_towers.py [--quick]
Cost:     about 1 CPU minute on one core (``--quick``: one round, whose spread means nothing).

EVA02-CLIP-B/16 at 224 pixels with timm's random weights, 4 images at once, float32, one thread, the two by turns.

Measured last on two virtual cores of an AMD EPYC with other work beside it, nine rounds: 1.08 (1.07 to 1.10) times
timm's speed. Products of matrices are four fifths of the time of both; ours are oneDNN's
(``models.towers.blocks.layers``).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor

from tether.methods.eva_clip_18b.eva import load_tower_
from tether.models.presets import configure
from tether.models.towers.vision.eva import EvaTower
from tether.models.towers.vision.eva_config import EvaConfig


def seconds(run: Callable[[], Tensor]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    rounds = 1 if parser.parse_args().quick else 9
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = configure("eva02-b-16")
    assert isinstance(config.vision, EvaConfig)
    theirs = timm.create_model("eva02_base_patch16_clip_224", num_classes=config.dim).eval()
    ours = EvaTower(config.vision, dim=config.dim).eval()
    load_tower_(ours, theirs.state_dict())
    image = torch.randn(4, 3, 224, 224)
    mine, other = ours(image).pooled, theirs(image)
    apart = (mine - other).abs().max() / other.abs().max()
    print(f"largest difference, relative to the largest number: {float(apart):.0e}")
    taken = [(seconds(lambda: ours(image).pooled), seconds(lambda: theirs(image))) for _ in range(rounds)]
    ratios = sorted(other / own for own, other in taken)
    print(f"images a CPU second: {4 * rounds / sum(own for own, _ in taken):.2f}")
    print(f"times timm's: {statistics.median(ratios):.2f} [{ratios[0]:.2f}..{ratios[-1]:.2f}]")


if __name__ == "__main__":
    main()
