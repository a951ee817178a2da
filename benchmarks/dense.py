"""What patches in the joint space cost beside the embedding: CPU seconds of ``dense_image`` over ``encode_image``.

Command: ``python benchmarks/dense.py`` (about 2 CPU minutes; ``--quick`` for one round, whose numbers mean nothing).
ViT-B at 224 pixels with random weights, 8 images at once, one thread, the two by turns, medians of the rounds. Tether's
own tower and transformers' SigLIP, plain patches and MaskCLIP's.

Last measured on one core of an AMD EPYC, times one ``encode_image`` (least and most of the rounds): Tether 1.05
[1.03..1.07], MaskCLIP 1.12 [1.09..1.16]; SigLIP 1.09 [1.06..1.10], MaskCLIP 1.15 [1.13..1.23]. MaskCLIP runs its last
block twice, as the embedding stays that of the unchanged tower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import SiglipConfig, SiglipModel

from tether.core.protocols import DualEncoder
from tether.core.types import ImageSpec
from tether.models import create
from tether.models.convert.tokenizers import TextPadding
from tether.models.encoders.wrapped import TransformersEncoder
from tether.models.features.dense import DensePath, dense_image
from tether.models.tokenizer import ClipTokenizer

BATCH = 8


def siglip(*, image_size: int, patch: int) -> TransformersEncoder:
    """ViT-B with a small text tower."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"bos_token_id": 1, "eos_token_id": 1}
    config = SiglipConfig(
        text_config={**text, "projection_size": 768, "vocab_size": 64},
        vision_config={"image_size": image_size, "patch_size": patch},
    )
    return TransformersEncoder(
        SiglipModel(config),
        dim=768,
        image_spec=ImageSpec(size=(image_size, image_size)),
        tokenizer=ClipTokenizer(64),
        config={"model_type": "siglip", "vision_config": {"hidden_size": 768}},
        text_padding=TextPadding(0, masked=False),
    )


@torch.inference_mode()
def ratios(model: DualEncoder, *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way over those of the embedding alone in the same round."""
    images = torch.randn(BATCH, 3, *model.image_spec.size)
    ways = {
        "encode_image": lambda: model.encode_image(images),
        "patches": lambda: dense_image(model, images),
        "MaskCLIP": lambda: dense_image(model, images, path=DensePath()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    alone = seconds.pop("encode_image")
    return {
        name: [one / other for one, other in zip(values[1:], alone[1:], strict=True)]
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vision = {"image": {"size": [224, 224]}, "patch": 16, "width": 768, "layers": 12, "heads": 12}
    models = {
        "Tether, ViT-B/16": create("tiny", seed=0, vision=vision).eval(),
        "SigLIP, ViT-B/16": siglip(image_size=224, patch=16).eval(),
    }
    found = {name: ratios(model, rounds=1 if arguments.quick else 7) for name, model in models.items()}
    for name, values in found.items():
        for way, each in values.items():
            print(f"{name}, {way}: {statistics.median(each):.2f} [{min(each):.2f}..{max(each):.2f}]")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
