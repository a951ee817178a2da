"""Texts of 120 words by each of ``--long-text``'s ways beside open_clip padded to 248 tokens: strings a CPU second.

Command:  python benchmarks/long_texts.py [PARQUET] [--quick] [--json FILE]
Cost:     about 2 CPU minutes on one core (``--quick``: 1, whose spread means nothing).

The text tower is that of ViT-B/32 (width 512, 12 blocks, 77 tokens) with random weights. The copy that ``stretch``
makes of it has 248 positions, and open_clip's tower has the weights of that copy, so that the two give the same
embeddings of texts past 77 tokens; how far they are apart is printed. A long text is captions after each other, up to
120 words: of the photos of PARQUET, which has lists of captions, or without it names of emojis. ``mixed`` is one long
text for each four single captions. From strings to embeddings, float32, one thread, all ways by turns.

``cut`` is there for its price alone: it does not read what is past 77 tokens.

Measured last with photos' captions (131 to 139 tokens) on two virtual cores of an AMD EPYC with other work beside it,
three rounds: long ones 2.18 (2.12 to 2.23) times open_clip's speed by windows, 2.14 (2.02 to 2.15) by stretch, 2.07
(2.06 to 2.16) by linear; mixed 8.85 (8.52 to 9.15), 8.44 (8.17 to 9.07) and 8.65 (8.50 to 8.87).
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import open_clip
import torch
from torch import Tensor

from tether.data import open_source
from tether.models import create
from tether.models.embed import encode_texts
from tether.models.texts.long_texts import LongTexts, StretchedTextEncoder, reading
from tether.models.tokenizer import TextCutWarning
from training_step import peer, race

WORDS, LONG, SHORT = 120, 8, 32
BASE = "open_clip, 248"


def texts(path: Path | None) -> tuple[list[str], list[str]]:
    """Long texts and single captions."""
    source = open_source(str(path) if path else {"name": "emoji", "split": "train"}, where="benchmark")
    captions = [text for block in source.blocks() for row in source.read(block) for text in row.texts]
    words = " ".join(caption.rstrip(" .") + "." for caption in captions).split()
    return [" ".join(words[start : start + WORDS]) for start in range(0, LONG * WORDS, WORDS)], captions[-SHORT:]


def readers() -> dict[str, Callable[[Sequence[str]], Tensor]]:
    """Ways to embed texts, by name."""
    model = create("base", seed=0, vision={"width": 64, "layers": 1, "heads": 1, "hidden": 256}).eval()
    tall: Any = StretchedTextEncoder(model).long
    context = tall.tokenizer.context_length
    theirs, tokenize = peer(tall).eval(), open_clip.tokenizer.SimpleTokenizer(context_length=context)

    @torch.inference_mode()
    def by_open_clip(texts: Sequence[str]) -> Tensor:
        return theirs.encode_text(tokenize(list(texts)))

    ways = {way: partial(encode_texts, reading(model, way)) for way in get_args(LongTexts)}
    return {f"open_clip, {context}": by_open_clip, **ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parquet", nargs="?", type=Path, help="photos with lists of captions")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", TextCutWarning)
    long, short = texts(given.parquet)
    ways = readers()
    apart = (ways["stretch"](long) - ways[BASE](long)).abs().max() / ways[BASE](long).abs().max()
    print(f"stretch and open_clip on the long texts: {float(apart):.0e} apart, relative to the largest number\n")
    found: dict[str, dict[str, Any]] = {}
    print(f"| texts | way | strings a CPU second | times {BASE} |\n| --- | --- | --- | --- |")
    for name, some in {"long": long, "mixed": long + short}.items():
        seconds = race({way: partial(read, some) for way, read in ways.items()}, rounds=1 if given.quick else 3)
        for way, own in seconds.items():
            ratios = [base / mine for base, mine in zip(seconds[BASE], own, strict=True)]
            speed, middle = len(some) / statistics.median(own), statistics.median(ratios)
            found[f"{name}, {way}"] = {
                "strings_per_second": speed,
                "ratio": middle,
                "range": [min(ratios), max(ratios)],
            }
            cells = f"{speed:.1f} | {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {name} | {way} | {cells} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
