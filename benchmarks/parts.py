"""Looking at parts of an image: how many are named right by guided crops, attention views and their controls.

    python benchmarks/parts.py [--model own] [--scenes 500] [--seed 0] [--captioned FLICKR.parquet]
        [--classes IMAGENET.parquet] [--photos 100] [--k 5] [--crops 8] [--few] [--quick] [--json OUT]

One run, the same images for all arms, one thread. ``own`` is the tiny CLIP of the papers' checks, for small things
alone; scenes are drawn larger than it sees them. Of ``--captioned`` a class is a noun of ``NOUNS``, the only one that
is said in the captions of an image; of ``--classes`` it is the column ``label``. All arms have up to k times
``--crops`` forwards an image and one, but for the whole image and the true boxes, which take one and one more than
``--crops``. The gain is over the whole image, with 95 % over images; CPU seconds are those of naming.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

import tether
from tether.core.errors import UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.data.images import decode
from tether.methods.abs.attention_views import AttentionViews
from tether.methods.gc_clip.guided_crops import GuidedCrops, candidate_classes
from tether.tasks.classify.prompts import own_templates
from tether.tasks.classify.views import encode_windows, view_spec, whole
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from tether_lab.lab.lab import Lab
from tether_lab.worlds import small_things

NOUNS = ("dog", "rock", "beach", "pool", "snow", "hat", "car", "ball", "swing", "camera", "bike", "bench", "guitar")
NOUNS += ("fountain", "boat", "skateboard")
MOST = 10
"""Images of a noun."""

Arm = Callable[[], Tensor]


def plain(model: DualEncoder, images: Sequence[Tensor], classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Cosines of whole images."""
    weights = ZeroShotClassifier(templates=templates).prepare(model, classes).weights
    rows = encode_windows(model, images, [[whole(one)] for one in images], spec=view_spec(model), batch_size=64)
    return torch.nn.functional.normalize(torch.cat(rows), dim=1) @ weights.T


def arms(
    model: DualEncoder,
    images: list[Tensor],
    classes: Sequence[str],
    templates: Sequence[str],
    *,
    boxes: Tensor | None,
    k: int,
    n: int,
    few: bool,
) -> dict[str, Arm]:
    """Every way to look, by what the table calls it; ``few`` leaves the ablations out."""

    def guided(known: Tensor | None = None, **given: Any) -> Arm:
        settings: dict[str, Any] = {"n": n, **given}
        head = GuidedCrops(k=k, **settings, templates=templates).prepare(model, classes)
        return lambda: head.predict(images, boxes=None if known is None else list(known)).cosine

    def views(**given: Any) -> Arm:
        settings: dict[str, Any] = {"n": k * n, "views": "pixels", **given}
        head = AttentionViews(**settings, templates=templates).prepare(model, classes)
        return lambda: head.predict(images).cosine

    every: dict[str, Callable[[], Arm]] = {
        "whole image": lambda: lambda: plain(model, images, classes, templates),
        f"centre, {k * n} margins": lambda: guided(propose="center", n=k * n),
        "random boxes": lambda: guided(propose="random"),
        "**heat map**": lambda: guided(),
        "- margins drawn": lambda: guided(augment="random"),
        "- one crop a box": lambda: guided(augment="none"),
        "- squares": lambda: guided(pad="square"),
        "true boxes": lambda: guided(boxes, propose="whole"),
        "random crops, soft": lambda: views(attention="uniform"),
        "**attention views**": lambda: views(),
        "- means": lambda: views(match="mean"),
        "- half of tokens": lambda: views(views="both", n=k * n // 2),
        "- tokens alone": lambda: views(views="features"),
        "- views weighed": lambda: views(view_weights=True),
    }
    found: dict[str, Arm] = {}
    for name, way in every.items():
        if (few and name.startswith("- ")) or (boxes is None and name == "true boxes"):
            continue
        try:
            found[name] = way()
        except UnsupportedModelError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return found


def measured(ways: Mapping[str, Arm], labels: Tensor, *, count: int) -> dict[str, dict[str, float]]:
    """Per cent right, the difference from the whole image with half of its interval, and CPU seconds an image."""
    found, first = {}, None
    for name, way in ways.items():
        start = time.process_time()
        right = (way().argmax(1) == labels).double()
        seconds = (time.process_time() - start) / count
        first = right if first is None else first
        apart = 100 * (right - first)
        half = 1.96 * float(apart.std()) / math.sqrt(count)
        row = {"right": 100 * float(right.mean()), "gain": float(apart.mean()), "half": half, "seconds": seconds}
        found[name] = row
        print(f"| {name} | {row['right']:.1f} | {row['gain']:+.1f} ± {half:.1f} | {1 / seconds:.1f} |", flush=True)
    return found


def captioned(path: Path, *, count: int) -> tuple[list[Tensor], Tensor, tuple[str, ...]]:
    """Images of which one noun alone is said, in two captions or more; the first ``count``, ``MOST`` of a noun."""
    images, labels = list[Tensor](), list[int]()
    for row in pq.read_table(path).to_pylist():
        said = [set(re.findall(r"[a-z]+", text.lower())) for text in row["captions"]]
        there = [noun for noun in NOUNS if any(noun in words for words in said)]
        if len(images) == count or len(there) != 1 or sum(there[0] in words for words in said) < 2:
            continue
        if labels.count(NOUNS.index(there[0])) < MOST:
            images.append(decode(row["image"]["bytes"]).contiguous())
            labels.append(NOUNS.index(there[0]))
    return images, torch.tensor(labels), NOUNS


def labelled(path: Path, *, count: int) -> tuple[list[Tensor], Tensor, tuple[str, ...]]:
    """``count`` images at even distances in the file, to tell among all of its classes."""
    rows = pq.read_table(path).to_pylist()
    classes = tuple(dict.fromkeys(row["label"] for row in rows))
    some = rows[:: max(1, len(rows) // count)][:count]
    images = [decode(row["image"]["bytes"]).contiguous() for row in some]
    return images, torch.tensor([classes.index(row["label"]) for row in some]), classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="own")
    parser.add_argument("--captioned", type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--crops", type=int, default=8)
    parser.add_argument("--few", action="store_true", help="leave the ablations out")
    parser.add_argument("--quick", action="store_true", help="8 images of each")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.scenes, given.photos = min(given.scenes, 8), 8
    torch.set_num_threads(1)
    found = {}
    with Lab(given.seed, smoke=given.quick) as lab:
        own = given.model == "own"
        model = small_things.small_things_clip(lab) if own else tether.load(given.model)
        sets: dict[str, tuple] = {}
        if given.scenes:
            things = small_things.lone_things(lab, "table", count=given.scenes, units=small_things.SMALL)
            sets["small things"] = (things.images, things.labels, small_things.CLASSES, things.boxes)
        if given.captioned:
            sets[given.captioned.stem] = (*captioned(given.captioned, count=given.photos), None)
        if given.classes:
            sets[given.classes.stem] = (*labelled(given.classes, count=given.photos), None)
        for name, (images, labels, classes, boxes) in sets.items():
            templates = small_things.TEMPLATES_OF_CLASS if name == "small things" else own_templates(model)
            whole_ones = plain(model, images, classes, templates)
            ceiling = (candidate_classes(whole_ones, k=given.k) == labels[:, None]).any(1).double().mean()
            most = float(labels.bincount().max()) / len(labels)
            print(
                f"\n{name}: {len(images)} images, {len(classes)} classes, the most frequent {most:.1%}; among the best "
                f"{given.k} of the whole image: {ceiling:.1%}\n"
            )
            print("| looks at | % right | gain | images a CPU-second |\n| --- | --- | --- | --- |")
            ways = arms(model, images, classes, templates, boxes=boxes, k=given.k, n=given.crops, few=given.few)
            found[name] = measured(ways, labels, count=len(images))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
