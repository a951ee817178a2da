"""Captions of photographs by a captioner that learnt from sentences alone, beside the nearest of the sentences.

Command:  OMP_NUM_THREADS=1 python benchmarks/caption_photos.py PHOTOS [--draws 3] [--keep FILE] [--steps N]
Cost:     about 6 CPU minutes of one core for a draw, two for each captioner, and 90 s to read 800 photographs.

PHOTOS is any source with captions. Each draw parts it anew: of the first part the captions alone are read, of the next
the images are described, and the third has the pairs that the judge learns from: ``starter``'s towers with maps fitted
to those pairs (``MapFit``), by which nothing is chosen. Methods take turns within a draw. It prints one Markdown table;
± is the standard deviation over the draws.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import tether
from tether.adaptation.finetune import MapFit
from tether.data import open_source
from tether.evaluate.captions import caption_words, cider, repeated_bigrams
from tether.evaluate.retrieval import recall_at_k
from tether.models.composed.cached import CachedEncoder
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_texts
from tether.tasks.caption import CaptionFromTexts, ImageRows, NearestCaptions, TextOnlyCaptioner

VARIANCES = {"no noise": 0.0, "noise, D x variance 0.5": 0.5, "noise, D x variance 8 (auto)": 8.0}
CANDIDATES, LONGEST = 5, 24
Figures = dict[str, float]


class Drawn:
    """One way to part the photographs."""

    def __init__(self, model: ComposedEncoder, image: Tensor, captions: Sequence[tuple[str, ...]], parts, seed: int):
        """Draw the three parts, and fit the judge to the third."""
        order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(seed)).tolist()
        ends = [sum(parts[: place + 1]) for place in range(3)]
        told, asked, judged = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] : ends[2]]
        self.seed, self.model = seed, CachedEncoder(model).eval()
        self.texts = [text for row in told for text in captions[row]]
        self.references = [list(captions[row]) for row in asked]
        self.keys = [f"photo {row}" for row in asked]
        with torch.no_grad():
            self.image = F.normalize(model.parts.image_map(image[asked]), dim=1)
        towers = CachedEncoder(model, maps=False)
        words = [text for row in judged for text in captions[row]]
        owners = torch.tensor([place for place, row in enumerate(judged) for _ in captions[row]])
        judge = MapFit().fit(model, image[judged], encode_texts(towers, words), owners=owners).model
        self.judge = CachedEncoder(judge)
        with torch.no_grad():
            self.judged = F.normalize(judge.parts.image_map(image[asked]), dim=1)

    def figures(self, written: Sequence[str], seconds: float) -> Figures:
        """Of one method."""
        text = F.normalize(encode_texts(self.judge, [one or "a" for one in written]), dim=1)
        return {
            "CIDEr x 100": 100 * cider(written, self.references).mean,
            "judge's cosine x 100": 100 * float((self.judged * text).sum(1).mean()),
            "judge finds the photo, %": 100 * recall_at_k(self.judged, text, k=(1,))["text_to_image_r1"],
            "repeated bigrams, %": 100 * repeated_bigrams(written),
            "words": statistics.mean(len(caption_words(one)) for one in written),
            "different captions, %": 100 * len(set(written)) / len(written),
            "CPU s": seconds,
        }


def learnt(at: Drawn, energy: float, steps: int | None) -> TextOnlyCaptioner:
    """By the settings of the recipe but for the noise."""
    recipe = CaptionFromTexts(noise=energy / at.model.dim, steps=steps)
    made = recipe.start(at.model, at.texts, seed=at.seed)
    return made.fit(
        at.texts,
        tune=recipe.tune,
        steps=recipe.steps_for(len(at.texts)),
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        longest=recipe.longest,
        seed=at.seed,
    )


def one_draw(at: Drawn, steps: int | None) -> dict[str, Figures]:
    """Every method on the same photographs."""
    found: dict[str, Figures] = {}

    def told(name: str, spent: float, write: Callable[[], Sequence[str]]) -> None:
        begun = time.process_time()
        written = list(write())
        found[name] = at.figures(written, spent + time.process_time() - begun)
        figures = {column: round(value, 1) for column, value in found[name].items()}
        print(f"draw {at.seed}, {name}: {figures} {written[:3]}", flush=True)

    near = NearestCaptions(at.model, at.texts)
    told("nearest sentence", 0.0, lambda: [one.caption for one in near(at.image)])
    other = [some[0] for some in at.references]
    told("a caption of another photo", 0.0, lambda: [*other[1:], other[0]])
    shuffled = [some[-1] for some in at.references]
    rest = [some[:-1] for some in at.references]
    whole, at.references = at.references, rest
    told("a person's caption, of the other four", 0.0, lambda: shuffled)
    at.references = whole
    for name, energy in VARIANCES.items():
        begun = time.process_time()
        made = learnt(at, energy, steps)
        made.learn_shift_(at.image)
        spent = time.process_time() - begun
        ways = {"": {"gap": "none" if not energy else "noise"}, ", means moved": {"gap": "both" if energy else "shift"}}
        if energy:
            ways[f", nearest of {CANDIDATES}"] = {"gap": "noise", "n_noise": CANDIDATES}
        for further, writing in ways.items():
            write = {"keys": at.keys, "seed": at.seed, "how": "greedy", "longest": LONGEST, **writing}
            told(
                name + further, spent, lambda m=made, w=write: [o.caption for o in m.generate(ImageRows(at.image), **w)]
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--photos-of", type=int, nargs=3, default=(400, 200, 200), metavar=("TOLD", "ASKED", "JUDGED"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--keep", type=Path, help="JSON of finished draws, with which a stopped run goes on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, source = tether.load("starter"), open_source(given.photos, where="photos")
    towers, captions, rows = CachedEncoder(model, maps=False), [], []
    for some, image in towers.rows_of(source, batch_size=32):
        captions += [row.texts for row in some]
        rows.append(image)
    image = torch.cat(rows)
    print(f"{len(captions)} photographs read in {time.process_time():.0f} CPU s", flush=True)
    kept: dict[str, dict[str, Figures]] = {}
    if given.keep is not None and given.keep.is_file():
        kept = json.loads(given.keep.read_text(encoding="utf-8"))
    for seed in map(str, range(given.draws)):
        if seed not in kept:
            kept[seed] = one_draw(Drawn(model, image, captions, given.photos_of, int(seed)), given.steps)
        if given.keep is not None:
            given.keep.write_text(json.dumps(kept), encoding="utf-8")
    runs = list(kept.values())
    columns = list(next(iter(runs[0].values())))
    print("| method | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for name in runs[0]:
        cells = [[run[name][column] for run in runs] for column in columns]
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in cells]
        shown = [f"{statistics.mean(values):.1f} ± {by:.1f}" for values, by in zip(cells, spread, strict=True)]
        print(f"| {name} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
