"""How surely a quality score falls as photographs get worse: by the prompts alone, trained on images alone, sharpness.

    python benchmarks/quality.py PHOTOS.parquet [--models own,starter] [--sized-for 224] [--train 400] [--ask 40]
        [--seed 0] [--quick] [--json OUT]

PHOTOS has a column image, and captions or label. The seed draws the photographs that are learnt from and others that
are asked about; each is degraded in five levels of one kind at a time, in its own pixels. Spearman's correlation of
score and level, -1 being best and 0 chance: *in a photograph* (its five levels, the mean over photographs, with 95 %
intervals over them) and *across* (all levels of all photographs in one order, as a folder would be sorted). Kinds of
the first group are learnt from, those of the other are not. ``own`` is a CLIP of ours that reads the same photographs
with their captions, at 64 pixels or 32. ``--sized-for`` is the shorter side that the tables of degradations are meant
for, here and in training; photographs of 32 pixels need less than 224, or all levels but two are the photograph itself.

No setting was searched for on photographs: those of ``own`` are the check's on drawings, with fewer steps, and those of
other models were set once. About 8 CPU minutes, most of them ``starter``'s, whose few steps are all that they allow;
one thread. ``--quick`` draws scenes where no PHOTOS is given, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from scipy.stats import spearmanr
from torch import Tensor

import tether
from tether.adaptation.heads.quality import QualityHead
from tether.adaptation.recipes import Given
from tether.core.protocols import DualEncoder
from tether.core.types import Batch, Row
from tether.data import open_source
from tether.data.blocks import IndexedSource
from tether.data.images import decode, resize_and_crop
from tether.evaluate.bootstrap import interval
from tether.losses import ClipLoss
from tether.methods.qualiclip.quality_ladder import ladder_correlations, level_order
from tether.methods.qualiclip.recipe import QualityRecipe
from tether.models import create
from tether.tasks.quality import QualityScorer, sharpness
from tether.training.steps.presets import ContrastiveStep
from tether.workflows.adaptation.run import run
from tether_lab.worlds import in_memory

LEARNT = ("gaublur", "whitenoise", "jpeg", "darken", "nonlincontrchange")
OTHERS = ("lensblur", "motionblur", "impulsenoise", "brighten")
SETTINGS: dict[str, dict[str, Any]] = {
    "own": {"steps": 600, "batch_size": 8, "learning_rate": 2e-3, "m_rank": 0.02, "m_cons": 0.05},
    "starter": {"steps": 30, "batch_size": 4, "learning_rate": 1e-4, "m_rank": 0.02, "m_cons": 0.01},
}
SIDES = ((128, 64), (0, 32))
"""Photographs whose shorter side has so many pixels are read by a CLIP of ours of so many."""
CLIP_STEPS, CLIP_BATCH, CLIP_RATE = 400, 64, 1e-3
Photo = UInt8[Tensor, "3 h w"]
Score = Callable[[Sequence[Photo]], Float[Tensor, " n"]]


class SomePhotos(IndexedSource):
    """Photographs in memory."""

    name, version = "photographs", "1"

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take the rows."""
        self.rows = list(rows)

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]


def read(path: Path, *, count: int, seed: int) -> list[Row]:
    """Photographs in the order that the seed draws."""
    table = pq.read_table(path)
    places = np.random.default_rng(seed).permutation(len(table))[:count]
    rows = []
    for place in places.tolist():
        one = table.slice(place, 1).to_pylist()[0]
        texts = one.get("captions") or [f"a photo of a {one['label']}"]
        rows.append(Row(f"{place}", one["image"]["bytes"], tuple(texts)))
    return rows


def drawn(count: int) -> list[Row]:
    """Scenes, where no photographs are given."""
    source = open_source(f"scenes:rows={count},size=64", where="scenes")
    return [row for block in source.blocks() for row in source.read(block)]


def own_clip(rows: Sequence[Row], *, side: int, steps: int, seed: int) -> DualEncoder:
    """A CLIP of ours that has read these photographs with the first caption of each."""
    model = create("tiny", seed=seed, image_size=side, patch=side // 8)
    pixels = torch.stack([resize_and_crop(decode(row.image), model.image_spec) for row in rows])
    ids = model.tokenizer([row.texts[0] for row in rows])
    in_memory.fit_rows(
        model,
        lambda some: Batch(pixels[some], ids[some]),
        rows=len(rows),
        step=ContrastiveStep(ClipLoss(duplicates="positives"), steps=steps, seed=seed),
        steps=steps,
        batch_size=min(CLIP_BATCH, len(rows)),
        learning_rate=CLIP_RATE,
        generator=torch.Generator().manual_seed(seed),
    )
    return model.eval()


@dataclass
class Way:
    """A score and what it gave.

    Attributes:
        score: of photographs.
        seconds: of the processor, to learn.
        inside: of each kind, the correlation in each photograph.
        across: of each kind, that over all levels of all photographs.
        look: milliseconds of the processor a photograph.
    """

    score: Score
    seconds: float = 0.0
    inside: dict[str, np.ndarray] = field(default_factory=dict)
    across: dict[str, float] = field(default_factory=dict)
    look: float = 0.0

    def ask(self, photos: Sequence[Photo], *, sized_for: int) -> None:
        """Score the photographs at all levels of all kinds."""
        begun = time.process_time()
        self.score(photos)
        self.look = 1000 * (time.process_time() - begun) / len(photos)
        for kind in (*LEARNT, *OTHERS):
            found = level_order(self.score, photos, kinds=[kind] * len(photos), sized_for=sized_for)
            self.inside[kind] = ladder_correlations(found)
            levels = np.tile(np.arange(found.shape[1]), len(found))
            self.across[kind] = float(spearmanr(found.reshape(-1), levels).statistic)

    def cells(self) -> list[str]:
        """Of the table."""
        found = []
        for kinds in (LEARNT, OTHERS):
            each = np.mean([self.inside[kind] for kind in kinds], axis=0)[:, None]
            low, high = interval(each, counts=np.ones_like(each))[0]
            found.append(f"{each.mean():.2f} ({low:.2f} to {high:.2f})")
            found.append(f"{np.mean([self.across[kind] for kind in kinds]):.2f}")
        return [*found, f"{self.seconds:.0f}", f"{self.look:.1f}"]


def by_sharpness(photos: Sequence[Photo]) -> Float[Tensor, " n"]:
    """The variance of the Laplacian."""
    return torch.tensor([sharpness(photo) for photo in photos])


def trained(model: DualEncoder, rows: Sequence[Row], *, settings: dict[str, Any], sized_for: int, seed: int) -> Way:
    """What the recipe makes of a model."""
    side, photo = min(model.image_spec.fixed().size), min(decode(rows[0].image).shape[1:])
    detail = 2 if photo >= 2 * side else 1
    recipe = QualityRecipe(kinds=LEARNT, detail=detail, sized_for=max(1, sized_for // detail), **settings)
    recipe.check(model)
    done = run(recipe, model, Given("images", SomePhotos(rows), len(rows), seed=seed), folder=None)
    head, learnt = done.outcome.head, done.outcome.model
    assert isinstance(head, QualityHead)
    assert learnt is not None
    return Way(QualityScorer(learnt, text=head.text, grid=1).score, done.cpu_seconds)


def table(ways: dict[str, Way]) -> list[str]:
    """One line a way."""
    names = ["way", "learnt kinds, in a photo", "across", "other kinds, in a photo", "across", "CPU s to learn", "ms"]
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    return lines + [f"| {name} | {' | '.join(way.cells())} |" for name, way in ways.items()]


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", metavar="PHOTOS")
    parser.add_argument("--models", default="own,starter")
    parser.add_argument("--sized-for", type=int, default=224)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--ask", type=int, default=40)
    parser.add_argument("--set", type=json.loads, default={}, help="settings of the recipe instead, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="as little as possible; figures mean nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.photos is None and not given.quick:
        parser.error("expected PHOTOS, or --quick")
    torch.set_num_threads(1)
    learn, ask = (8, 3) if given.quick else (given.train, given.ask)
    rows = drawn(learn + ask) if given.photos is None else read(given.photos, count=learn + ask, seed=given.seed)
    photos = [decode(row.image) for row in rows[learn:]]
    side = next(size for least, size in SIDES if min(photos[0].shape[1:]) >= least)
    ways = {"sharpness": Way(by_sharpness)}
    for name in ["own"] if given.quick else given.models.split(","):
        steps = 2 if given.quick else CLIP_STEPS
        model = own_clip(rows[:learn], side=side, steps=steps, seed=given.seed) if name == "own" else tether.load(name)
        settings = SETTINGS.get(name, SETTINGS["starter"]) | given.set
        settings |= {"steps": 2, "batch_size": 2} if given.quick else {}
        ways[f"{name}, prompts alone"] = Way(QualityScorer(model, grid=1).score)
        ways[f"{name}, trained"] = trained(
            model, rows[:learn], settings=settings, sized_for=given.sized_for, seed=given.seed
        )
    for name, way in ways.items():
        way.ask(photos, sized_for=given.sized_for)
        print(name, {kind: round(float(one.mean()), 2) for kind, one in way.inside.items()}, flush=True)
    print("\n".join(table(ways)))
    if given.json is not None:
        found = {
            name: {"inside": {kind: float(one.mean()) for kind, one in way.inside.items()}, "across": way.across}
            for name, way in ways.items()
        }
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
