"""What lies in a region, asked in several ways, and how far the answer follows a region that moves.

    python benchmarks/regions.py [--seeds 10,11,12] [--photos CAMVID.parquet] [--images 40] [--model starter]
        [--quick] [--json OUT]

Scenes first: the CLIP and the recipe of the paper's check (``tether-lab reproduce alpha-clip``), on seeds of its own.
Every way names the same things among 24 phrases. *follows* asks about two regions of an image: each must be nearer to
the plain CLIP's crop of its own box than to that of the other's; it needs no words, so it is also asked of photographs,
which no model here has learnt from. Then ``--model`` names the classes of their masks. One thread; CPU seconds of a
region. ``--photos`` is a Parquet file with the columns image and mask (a class number a pixel) and the names in the
schema's metadata ``classes``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

import tether
from tether.data.images import decode, resize_and_crop
from tether.data.region_files import NamedRegion
from tether.models.embed import encode_texts
from tether.models.towers.clip import Clip
from tether.tasks.classify.regions import RegionAs, region_rows
from tether_lab.lab.lab import Lab
from tether_lab.papers import alpha_clip as card
from tether_lab.worlds import masked_things
from tether_lab.worlds.drawn_shapes import PHRASES, tensor_of
from tether_lab.worlds.masked_things import MaskBench

LEAST = 0.02
"""Share of an image that a class must cover to be a region."""
SMOOTHING = 0.1
"""Of the loss, as the paper has it."""
UNKNOWN = "unlabelled"
Way = RegionAs | Literal["none"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One image, its regions, and what lies there."""

    pixels: Tensor
    regions: Sequence[NamedRegion]
    names: Sequence[str]


def scene_regions(bed: MaskBench) -> list[Asked]:
    """The things of the scenes asked for."""
    pairs = zip(bed.asked.drawn, bed.asked.phrases, strict=True)
    return [Asked(tensor_of(drawn), masked_things.regions_of(drawn), phrases) for drawn, phrases in pairs]


def photo_regions(path: Path, *, images: int) -> tuple[list[Asked], list[str]]:
    """The classes of the first photographs, and all names."""
    table = pq.read_table(path)
    names = table.schema.metadata[b"classes"].decode().split(",")
    found = []
    for row in table.slice(0, images).to_pylist():
        pixels, mask = decode(row["image"]["bytes"]), decode(row["mask"]["bytes"])[0].numpy()
        height, width = mask.shape
        regions, said = [], []
        for number, name in enumerate(names):
            inside = mask == number
            if name.lower() in (UNKNOWN, "void") or inside.mean() < LEAST:
                continue
            y, x = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            box = np.array([x[0] / width, y[0] / height, (x[-1] + 1) / width, (y[-1] + 1) / height])
            regions.append(NamedRegion(name, box, inside))
            said.append(name)
        if len(said) > 1:
            found.append(Asked(pixels, regions, said))
    return found, [name for name in names if name.lower() not in (UNKNOWN, "void")]


def rows_by(way: Way, model) -> Callable[[Asked], Tensor]:
    """Unit rows of the regions of an image."""

    def of(asked: Asked) -> Tensor:
        if way == "none":
            seen = resize_and_crop(asked.pixels, model.image_spec.fixed())[None]
            with torch.no_grad():
                return model.encode_image(seen).unit.expand(len(asked.regions), -1)
        return F.normalize(region_rows(model, asked.pixels, regions=asked.regions, region_as=way), dim=1)

    return of


def measure(images: Sequence[Asked], way: Way, model, *, names: Sequence[str], template: str = "{}") -> dict:
    """Named right, and CPU seconds of a region."""
    texts = F.normalize(encode_texts(model, [template.format(name) for name in names]), dim=1)
    begun, hits = time.process_time(), []
    for asked in images:
        said = (rows_by(way, model)(asked) @ texts.T).argmax(dim=1).tolist()
        hits += [names[place] == name for place, name in zip(said, asked.names, strict=True)]
    return {"named": 100 * float(np.mean(hits)), "seconds": (time.process_time() - begun) / len(hits)}


def follows(images: Sequence[Asked], way: Way, model, *, start) -> float:
    """Images whose first two regions are each nearer to the crop of their own box; a quarter by chance."""
    hits = []
    for asked in images:
        two = Asked(asked.pixels, asked.regions[:2], asked.names[:2])
        if len(two.regions) == 2:
            cosines = rows_by(way, model)(two) @ rows_by("crop", start)(two).T
            hits.append(bool((cosines.argmax(dim=1) == torch.arange(2)).all()) and way != "none")
    return 100 * float(np.mean(hits))


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="10,11,12")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--quick", action="store_true", help="one seed, as little as possible; figures mean nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    photos, classes = ([], []) if given.photos is None else photo_regions(given.photos, images=given.images)
    seeds = [10] if given.quick else [int(one) for one in given.seeds.split(",")]
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        with Lab(seed, smoke=given.quick) as lab:
            bed = masked_things.prepare(lab)
            begun = time.process_time()
            alpha = masked_things.tuned(lab, bed, "alpha", **card.ALPHA)
            middle = time.process_time()
            crop = masked_things.tuned(lab, bed, "crop", **card.CROP)
            end = time.process_time()
            other = masked_things.tuned(lab, bed, "alpha", **card.ALPHA | {"label_smoothing": SMOOTHING})
            last = time.process_time()
            scenes = scene_regions(bed)
            arms: list[tuple[str, Way, Clip, float]] = [
                ("no mask", "none", bed.start, 0.0),
                ("crop", "crop", bed.start, 0.0),
                ("blur", "blur", bed.start, 0.0),
                ("attention", "attention", bed.start, 0.0),
                ("crop, tuned on crops", "crop", crop, end - middle),
                ("alpha, tuned on masks", "alpha", alpha, middle - begun),
                (f"alpha, label_smoothing={SMOOTHING}", "alpha", other, last - end),
            ]
            for name, way, model, cost in arms:
                one = measure(scenes, way, model, names=PHRASES) | {"learnt in": cost}
                one["recall"] = masked_things.caption_recall(model, bed)
                one["scenes"] = follows(scenes, way, model, start=bed.start)
                if photos:
                    one["photos"] = follows(photos, way, model, start=bed.start)
                for key, value in one.items():
                    found.setdefault(name, {}).setdefault(key, []).append(value)
    tables = [scenes_table(found)]
    if photos:
        model = tether.load(given.model)
        plain: tuple[Way, ...] = ("none", "crop", "blur")
        ways = {way: measure(photos, way, model, names=classes, template="a photo of a {}.") for way in plain}
        asked = sum(len(one.names) for one in photos)
        print(f"{len(photos)} photographs, {asked} regions, {len(classes)} classes, chance {100 / len(classes):.1f} %")
        tables.append(["| way | named, % | ms a region |", "| --- | --- | --- |"])
        tables[1] += [f"| {way} | {one['named']:.1f} | {1000 * one['seconds']:.0f} |" for way, one in ways.items()]
        found |= {f"photos {way}": {key: [value] for key, value in one.items()} for way, one in ways.items()}
    print("\n\n".join("\n".join(table) for table in tables))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


def scenes_table(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """Means over the seeds, with their range."""
    lines = [
        "| way | named, % | captions, recall at 1, % | follows, scenes, % | follows, photographs, % | CPU s to learn "
        "| ms a region |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        cells = [spread(one["named"]), spread(one["recall"]), spread(one["scenes"])]
        cells += [spread(one["photos"]) if "photos" in one else ""]
        cells += [f"{np.mean(one['learnt in']):.0f}", f"{1000 * np.mean(one['seconds']):.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
