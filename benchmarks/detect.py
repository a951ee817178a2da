"""What finding defects costs: CPU seconds of detectors over the embedding alone; whether scores depend on the batch.

Command: ``python benchmarks/detect.py`` (about 2 CPU minutes; ``--quick`` for one round, whose numbers mean nothing).
The image tower of ViT-B/16+ at 240 x 240 with random weights (a grid of 15 x 15, 365 windows, 2,670 tokens in windows
for 226 of the image), one thread, two images, the ways by turns, ratios within a round, medians of the rounds.

- *winclip*: uint8 pixels to maps over ``encode_image``, from words, and with two good images.
- *patches*: likewise, with a memory of 4,000 patches.
- *batch*: the largest difference of a score or a place of a map between an image alone and among others.

On one core of a busy machine: winclip 11.1 (10.6 to 11.8), with two good images 11.0 (10.4 to 11.8), patches 1.1 (1.0
to 1.2), batch 1e-7. Nearly all of it is arithmetic: windows have 11.8 times the image's tokens, of which repeated
queries, keys and values of the first block and all but the class token in the last are saved.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from tether.methods.winclip import WinclipDetector
from tether.models import create
from tether.models.towers.clip import Clip
from tether.tasks.anomaly import Detector, PatchesDetector


def vit_b_plus() -> Clip:
    vision = {"image": {"size": [240, 240]}, "patch": 16, "width": 896, "layers": 12, "heads": 14}
    return create("tiny", seed=0, vision=vision).eval()


def by_turns(ways: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: values[1:] for name, values in seconds.items()}


def batch_difference(detector: Detector, images: list[torch.Tensor]) -> float:
    together, alone = detector.predict(images), [detector.predict([one])[0] for one in images]
    return max(
        max(abs(one.score - other.score), float(abs(one.values - other.values).max()))
        for one, other in zip(together, alone, strict=True)
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    rounds = 1 if parser.parse_args().quick else 3
    torch.set_num_threads(1)
    model = vit_b_plus()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 240, 240), dtype=torch.uint8, generator=generator)
    images = list(pixels)
    words = WinclipDetector().prepare(model, "tile")
    looks = words.look(images)
    both = WinclipDetector().prepare(model, "tile").remember(looks)
    patches = PatchesDetector().prepare(model, "tile")
    patches.rows = torch.randn(4000, 896, generator=generator)
    ways: dict[str, Callable[[], object]] = {
        "encode": lambda: model.encode_image(pixels),
        "winclip": lambda: words.predict(images),
        "winclip, 2 good": lambda: both.predict(images),
        "patches": lambda: patches.predict(images),
    }
    seconds = by_turns(ways, rounds=rounds)
    alone = seconds.pop("encode")
    found = {"CPU seconds of one encode": statistics.median(alone) / len(images)}
    for name, each in seconds.items():
        ratios = [one / other for one, other in zip(each, alone, strict=True)]
        found[name] = [statistics.median(ratios), min(ratios), max(ratios)]
    named = {"winclip": words, "winclip, 2 good": both, "patches": patches}
    found["batch"] = {name: batch_difference(one, images) for name, one in named.items()}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
