"""Embedding throughput against open_clip 3.3 and transformers, same weights, and the cost of a model's first use.

    python benchmarks/encode.py [--quick] [--json OUT]               about 2 minutes of one core (--quick: 1)

Architecture: pictures of 224 px in patches of 32, width 192, 6 blocks; texts of at most 77 tokens, width 192, 6
blocks; random weights, made by us and exported to both libraries. Texts are 256 different names of emojis (about 7
tokens), from strings to embeddings; pictures start as tensors (uint8 for us, normalised floats for the others), 64 at a
time.

Last measured, one thread of a shared 2-core AMD EPYC with AVX512_BF16, torch 2.13, transformers 5.24, seven rounds,
median [range] against open_clip: texts 18.6 [17.0..20.3] (transformers 1.1 padded to 77, 6.3 padded to the longest),
in bfloat16 33 [29..38]; pictures float32 1.00 [0.94..1.13] (transformers 1.01), bfloat16 1.29 [1.22..1.53] (1.25).
First use 0.21 s over torch's import (open_clip 3.2 s). Embeddings agree within 3e-6 in float32, but for two names with
a typographic apostrophe, which transformers' tokenizer splits differently from open_clip's (hence its "apart").
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

TEXTS, PICTURES = 256, 64
FIRST_USE = {
    "import torch": "import torch",
    "own model": (
        "import torch\nfrom tether.models import create\nfrom tether.models.embed import encode_images, encode_texts\n"
        "model = create('tiny').eval()\nencode_texts(model, ['a cat'])\n"
        "encode_images(model, [torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])"
    ),
    "open_clip model": (
        "import open_clip\nmodel = open_clip.create_model('ViT-S-32-alt', load_weights=False)\n"
        "model.encode_text(open_clip.tokenize(['a cat']))"
    ),
}

Variants = dict[str, Callable[[], Tensor]]


def variants(folder: Path) -> tuple[Variants, Variants, Variants]:
    """Text, picture (float32) and picture (bfloat16) variants; the first of each is open_clip's."""
    import emoji
    import open_clip
    from transformers import CLIPModel, CLIPTokenizerFast

    import tether
    from tether.models import create
    from tether.models.embed import encode_images, encode_texts

    tower = {"width": 192, "layers": 6, "heads": 6, "hidden": 768}
    ours = create("base", seed=0, dim=256, vision=tower, text=tower).eval()
    tether.export(ours, folder / "open_clip", format="open_clip")
    tether.export(ours, folder / "transformers", format="transformers")
    classic = open_clip.create_model(f"local-dir:{folder / 'open_clip'}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder / 'open_clip'}")
    hugging_face = CLIPModel.from_pretrained(folder / "transformers").eval()
    words = bpe(folder)
    fast = CLIPTokenizerFast(str(words[0]), str(words[1]))
    names = sorted({entry["en"].strip(":").replace("_", " ") for entry in emoji.EMOJI_DATA.values()})
    texts = [names[int(row)] for row in torch.randperm(len(names), generator=torch.Generator().manual_seed(0))[:TEXTS]]
    pixels = torch.randint(0, 256, (PICTURES, 3, 224, 224), dtype=torch.uint8)
    floats = ours.image_spec.normalise(pixels)

    def hugging_face_texts(padding: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            rows = fast(texts, padding=padding, max_length=77, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                return hugging_face.text_projection(hugging_face.text_model(**rows).pooler_output)

        return run

    def classic_texts() -> Tensor:
        with torch.inference_mode():
            return classic.encode_text(tokenize(texts))

    def classic_pictures(low: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                return classic.encode_image(floats).float()

        return run

    def hugging_face_pictures(low: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                return hugging_face.visual_projection(hugging_face.vision_model(floats).pooler_output).float()

        return run

    text: Variants = {
        "open_clip": classic_texts,
        "transformers, padded to 77": hugging_face_texts("max_length"),
        "transformers, padded to the longest": hugging_face_texts("longest"),
        "tether": lambda: encode_texts(ours, texts, batch_size=TEXTS),
        "tether, bfloat16": lambda: encode_texts(ours, texts, batch_size=TEXTS, precision="bfloat16"),
    }
    full: Variants = {
        "open_clip": classic_pictures(False),
        "transformers": hugging_face_pictures(False),
        "tether": lambda: encode_images(ours, [pixels]),
    }
    low: Variants = {
        "open_clip": classic_pictures(True),
        "transformers": hugging_face_pictures(True),
        "tether": lambda: encode_images(ours, [pixels], precision="bfloat16"),
    }
    return text, full, low


def bpe(folder: Path) -> tuple[Path, Path]:
    """CLIP's vocabulary as the two files that transformers reads, from the table inside open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    vocabulary = {
        word.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): row
        for word, row in tokenizer.encoder.items()
    }
    files = folder / "vocab.json", folder / "merges.txt"
    files[0].write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks)
    files[1].write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return files


def race(title: str, runs: Variants, *, items: int, rounds: int) -> dict[str, object]:
    """Time variants in rotating order and print a line for each."""
    outputs = {name: run() for name, run in runs.items()}
    apart = {name: float((out - outputs["open_clip"]).abs().max()) for name, out in outputs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - start)
    print(title)
    figures = {}
    for name, times in seconds.items():
        ratios = [base / mine for base, mine in zip(seconds["open_clip"], times, strict=True)]
        middle, rate = statistics.median(ratios), items / statistics.median(times)
        print(
            f"  {name:38s} {rate:7.0f}/s   x{middle:5.2f}  [{min(ratios):.2f}..{max(ratios):.2f}]"
            f"   apart {apart[name]:.0e}"
        )
        figures[name] = {"per_second": rate, "ratio": middle, "range": [min(ratios), max(ratios)]}
    return figures


def first_use(rounds: int) -> dict[str, float]:
    """CPU seconds of whole processes, least of some rounds."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, code in FIRST_USE.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best[name] = min(spent, best.get(name, spent))
    print("first use, CPU seconds of the whole process")
    for name, spent in best.items():
        print(f"  {name:38s} {spent:6.2f} s   +{spent - best['import torch']:.2f} over torch")
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of seven")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if options.quick else 7
    with tempfile.TemporaryDirectory() as folder:
        text, full, low = variants(Path(folder))
        figures: dict[str, object] = {
            "texts": race("strings to embeddings", text, items=TEXTS, rounds=rounds),
            "pictures": race("pictures to embeddings, float32", full, items=PICTURES, rounds=rounds),
            "pictures, bfloat16": race("pictures to embeddings, bfloat16", low, items=PICTURES, rounds=rounds),
        }
    figures["first use"] = first_use(3)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
