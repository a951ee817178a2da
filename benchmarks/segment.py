"""What masks cost: CPU seconds of a segmenter over the embedding alone and over transformers' CLIPSeg, and memory.

Command: ``python benchmarks/segment.py`` (about 8 CPU minutes; ``--quick`` for one round, whose numbers mean nothing).
ViT-B/16 with random weights, 20 classes, one thread, the ways by turns, ratios within a round, medians of the rounds.

- *encode*: images of 224 x 224, 8 at once: uint8 pixels to masks in the image's size over ``encode_image``.
- *CLIPSeg*: images of 352 x 352, CLIPSeg's own size, 2 at once: pixels to the class of each pixel, class texts encoded
  before. CLIPSeg's image tower runs once for all classes here, and its decoder once for each; as its documentation has
  it, with an image for each class, the tower runs 20 times (*documented*).
- *memory*: a process that segments one image of 8,000 x 6,000 pixels with ViT-B/16, looked at with a short side of 224
  and of 750 pixels: the most it held, libraries and weights (0.34 GB) included; Linux alone.

Last measured on one core of an Intel Xeon beside other work, least and most of the rounds in brackets: over *encode*,
seven rounds, tokens 1.09 [1.09..1.10] and values 1.08 [1.06..1.12]; over *CLIPSeg*, five rounds, 0.24 [0.24..0.24], as
documented 0.02; memory 0.99 GB in 2 CPU seconds and 1.00 GB in 8.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tether.models import create
from tether.models.features.windows import Windows
from tether.models.towers.clip import Clip
from tether.tasks.segment import TokenSegmenter, ValueSegmenter

CLASSES = [f"thing {number}" for number in range(20)]


def vit_b(size: int) -> Clip:
    vision = {"image": {"size": [size, size]}, "patch": 16, "width": 768, "layers": 12, "heads": 12}
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


def over_encode(*, rounds: int) -> dict[str, list[float]]:
    model = vit_b(224)
    images = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
    tokens, values = TokenSegmenter().prepare(model, CLASSES), ValueSegmenter().prepare(model, CLASSES)
    seconds = by_turns(
        {
            "encode": lambda: model.encode_image(images),
            "tokens": lambda: tokens.predict(list(images)),
            "values": lambda: values.predict(list(images)),
        },
        rounds=rounds,
    )
    alone = seconds.pop("encode")
    return {name: [one / other for one, other in zip(each, alone, strict=True)] for name, each in seconds.items()}


def over_clipseg(*, rounds: int) -> dict[str, list[float]]:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    vision = {"image_size": 352, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12}
    text = {"num_hidden_layers": 1, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 1}
    theirs = CLIPSegForImageSegmentation(CLIPSegConfig(text_config=text, vision_config=vision)).eval()
    model = vit_b(352)
    images = torch.randint(0, 256, (2, 3, 352, 352), dtype=torch.uint8)
    named = torch.randn(len(CLASSES), theirs.config.projection_dim)
    layers = theirs.config.extract_layers

    def once() -> torch.Tensor:
        """One image tower for all classes."""
        pixels = model.image_spec.normalise(images)
        states = theirs.clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
        rows = [states[layer + 1].repeat_interleave(len(CLASSES), dim=0) for layer in layers]
        logits = theirs.decoder(rows, named.repeat(len(images), 1)).logits
        return logits.view(len(images), len(CLASSES), 352, 352).argmax(dim=1)

    def documented() -> torch.Tensor:
        pixels = model.image_spec.normalise(images).repeat_interleave(len(CLASSES), dim=0)
        logits = theirs(pixel_values=pixels, conditional_embeddings=named.repeat(len(images), 1)).logits
        return logits.view(len(images), len(CLASSES), 352, 352).argmax(dim=1)

    check_same(once, documented)
    segmenter = ValueSegmenter().prepare(model, CLASSES)
    seconds = by_turns({"values": lambda: segmenter.predict(list(images)), "CLIPSeg": once}, rounds=rounds)
    found = {"CLIPSeg": [own / other for own, other in zip(seconds["values"], seconds["CLIPSeg"], strict=True)]}
    start = time.process_time()
    documented()
    found["CLIPSeg as documented, one round"] = [statistics.median(seconds["values"]) / (time.process_time() - start)]
    return found


def check_same(one: Callable[[], torch.Tensor], other: Callable[[], torch.Tensor]) -> None:
    """The quicker way of using CLIPSeg gives what the documented one gives."""
    agree = (one() == other()).float().mean()
    if agree < 0.999:
        raise RuntimeError(f"CLIPSeg: the two ways agree on {agree:.1%} of the pixels")


def memory(size: int | None) -> None:
    """Segment one large image and print the most memory that this process had, in MB."""
    segmenter = ValueSegmenter().prepare(vit_b(224), CLASSES, windows=Windows(size=size))
    image = torch.randint(0, 256, (3, 6000, 8000), dtype=torch.uint8)
    start = time.process_time()
    segmenter.predict([image])
    seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text()  # what getrusage says holds the parent's memory as well
    print(json.dumps([int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024, seconds]))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.memory is not None:
        memory(arguments.memory or None)
        return
    rounds = 1 if arguments.quick else 7
    found = over_encode(rounds=rounds) | over_clipseg(rounds=1 if arguments.quick else 5)
    for name, each in found.items():
        print(f"{name}: {statistics.median(each):.3f} [{min(each):.3f}..{max(each):.3f}]")
    for size in (0,) if arguments.quick else (0, 750):
        told = subprocess.run(
            [sys.executable, __file__, "--memory", str(size)], capture_output=True, text=True, check=True
        )
        most, seconds = json.loads(told.stdout)
        found[f"memory at {size or 224}"] = [most, seconds]
        print(f"8,000 x 6,000 at a short side of {size or 224}: {most:,.0f} MB, {seconds:.1f} CPU seconds")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
