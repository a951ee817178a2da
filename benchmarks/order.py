"""Images ordered by a text after 25 to 200 examples: words, ridge regression, and the ranking adapter.

    python benchmarks/order.py [--seeds 10,11,12] [--examples 25,50,100,200] [--photos PHOTOS.parquet]
        [--photo-examples 25,100,400] [--photo-steps 150] [--model starter] [--quick] [--json OUT]

Scenes first: the CLIP, the scenes and the adapter of the paper's check (``tether-lab reproduce ranking-adapter``), on
seeds of its own; examples are those of each of four texts. With ``--photos``, a Parquet file with a column image, each
photograph is blurred by an amount that is drawn for it, and the amount is what they are ordered by: a derived number,
no rating. Spearman's correlation with held-out images, chance 0; one thread, CPU seconds to learn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torchvision.transforms.functional import gaussian_blur

import tether
from tether.adaptation.recipes.order import OrderRecipe
from tether.adaptation.recipes.tuning import play
from tether.core.types import ImageSpec, Row
from tether.data.blocks import IndexedSource
from tether.data.images import decode, resize_and_crop
from tether.evaluate.order import order_correlation
from tether.models.embed import encode_images
from tether.tasks.rank import fit_ridge, scores_by_text
from tether_lab.lab.lab import Lab
from tether_lab.papers import ranking_adapter as card
from tether_lab.worlds import counted_things

HELD_OUT = 200
WIDEST = 1 / 16
"""Standard deviation of the strongest blur, as a share of the image's side."""
BLURRED, SHARP = "a blurred photo", "a sharp photo"
Figures = dict[str, dict[int, list[float]]]


class BlurredPhotos(IndexedSource):
    """Photographs at a model's size, each blurred by its own amount, which is ``blur``; in memory."""

    def __init__(self, path: Path, *, count: int, size: tuple[int, int], seed: int) -> None:
        """Draw the photographs and their amounts."""
        rng = np.random.default_rng(seed)
        table = pq.read_table(path, columns=["image"])
        places = rng.permutation(len(table))[:count]
        self.name, self.version, self.amounts = "photos", str(seed), rng.uniform(size=len(places))
        self.rows = []
        spec = ImageSpec(size)
        for place, amount in zip(places.tolist(), self.amounts.tolist(), strict=True):
            pixels = resize_and_crop(decode(table.slice(place, 1).to_pylist()[0]["image"]["bytes"]), spec)
            sigma = max(WIDEST * max(size) * amount, 1e-3)
            side = 2 * round(3 * sigma) + 1
            seen = gaussian_blur(pixels, kernel_size=[side, side], sigma=[sigma, sigma]) if side > 1 else pixels
            self.rows.append(Row(str(place), seen.permute(1, 2, 0).numpy(), (), {"blur": amount}))

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]


def scenes(seeds: Sequence[int], sizes: Sequence[int], *, quick: bool) -> tuple[Figures, Figures]:
    """Correlations and seconds by way and number of examples."""
    found, seconds = Figures(), Figures()
    for seed in seeds:
        with Lab(seed, smoke=quick) as lab:
            whole = counted_things.prepare(lab)
            for size in sizes:
                groups = whole.examples.groups
                some = np.sort(np.concatenate([np.flatnonzero(groups == one)[:size] for one in np.unique(groups)]))
                bed = replace(whole, examples=whole.examples.part(some))
                ways = {
                    "words": lambda bed=bed: counted_things.by_words(bed)["best"],
                    "ridge, embeddings": lambda bed=bed: counted_things.by_ridge(bed),
                    "ridge, patches": lambda bed=bed: counted_things.by_ridge(bed, patches=True),
                    "adapter": lambda bed=bed, lab=lab: counted_things.by_adapter(
                        lab, bed, components=("rank", "regression"), rate=card.RATE
                    ),
                }
                for name, way in ways.items():
                    add(found, seconds, name, size, way)
    return found, seconds


def photos(path: Path, sizes: Sequence[int], *, model, steps: int, seed: int = 0) -> tuple[Figures, Figures]:
    """The same of blurred photographs."""
    most, spec = max(sizes), model.image_spec.fixed()
    source = BlurredPhotos(path, count=most + HELD_OUT, size=spec.size, seed=seed)
    pixels = torch.stack([torch.from_numpy(row.image.copy()).permute(2, 0, 1) for row in source.rows])
    rows = encode_images(model, pixels.split(64))
    recipe = OrderRecipe(column="blur", text="how blurred", flip="none", n_layers=1, steps=steps, learning_rate=5e-4)
    read = recipe.read(model, source)
    tokens, asked, amounts = read.tokens[:, 0].flatten(1), slice(most, None), source.amounts

    def ridge(features: torch.Tensor, size: int) -> float:
        return spearman(fit_ridge(features[:size], targets=amounts[:size])(features[asked]), amounts[asked])

    def adapter(size: int) -> float:
        tuning = recipe.describe(model, read.part(torch.arange(size)), seed=seed)
        head = play(tuning, model, seed=seed).outcome.head
        assert head is not None
        return spearman(head.scores(tokens[asked])[:, 0].numpy(), amounts[asked])

    found, seconds = Figures(), Figures()
    said = spearman(scores_by_text(model, rows[asked], by=BLURRED, against=SHARP).numpy(), amounts[asked])
    for size in sizes:
        add(found, seconds, "words", size, lambda: said)
        add(found, seconds, "ridge, embeddings", size, lambda size=size: ridge(rows, size))
        add(found, seconds, "ridge, patches", size, lambda size=size: ridge(tokens, size))
        add(found, seconds, "adapter", size, lambda size=size: adapter(size))
    return found, seconds


def add(found: Figures, seconds: Figures, name: str, size: int, way) -> None:
    """One figure with its time."""
    begun = time.process_time()
    found.setdefault(name, {}).setdefault(size, []).append(way())
    seconds.setdefault(name, {}).setdefault(size, []).append(time.process_time() - begun)


def spearman(scores: np.ndarray, targets: np.ndarray) -> float:
    """Spearman's correlation."""
    return float(order_correlation(scores[:, None].astype(float), targets=targets, resamples=1).value[0])


def table(found: Figures, seconds: Figures) -> list[str]:
    """One line a way, one column a number of examples; means, and the range over the seeds."""
    sizes = list(next(iter(found.values())))
    lines = [f"| way | {' | '.join(map(str, sizes))} | CPU s, {sizes[-1]} |", f"|{' --- |' * (len(sizes) + 2)}"]
    for name, one in found.items():
        cells = [
            f"{np.mean(values):.2f}" + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")
            for values in one.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.mean(seconds[name][sizes[-1]]):.2g} |")
    return lines


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="10,11,12", help="of the scenes; empty leaves them out")
    parser.add_argument("--examples", default="25,50,100,200")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--photo-examples", default="25,100,400")
    parser.add_argument("--photo-steps", type=int, default=150)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--quick", action="store_true", help="one seed, as little as possible; figures mean nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds, sizes, made = numbers(given.seeds), numbers(given.examples), {}
    if seeds:
        made["scenes"] = scenes(seeds[:1] if given.quick else seeds, [4] if given.quick else sizes, quick=given.quick)
    if given.photos is not None:
        asked = [8] if given.quick else numbers(given.photo_examples)
        steps = 2 if given.quick else given.photo_steps
        made["photos"] = photos(given.photos, asked, model=tether.load(given.model), steps=steps)
    print("\n\n".join("\n".join([name, "", *table(*one)]) for name, one in made.items()))
    if given.json:
        given.json.write_text(json.dumps(made, indent=2))


def numbers(text: str) -> list[int]:
    """Whole numbers with commas."""
    return [int(one) for one in text.split(",") if one]


if __name__ == "__main__":
    main()
