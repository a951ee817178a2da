"""Masks of street scenes by every segmenter, on a CLIP of ours and on ``starter``, beside a U-Net; five folds.

    pip install segmentation-models-pytorch   # for the U-Net alone
    python benchmarks/segment_camvid.py FOLDER [--folds 5] [--quick] [--json OUT]

FOLDER holds one Parquet file (or is one) with the columns image and mask (a class number a pixel) and the names in the
schema's metadata ``classes``, the last one for no label. Each fold is a block of rows in a row, as neighbours of a film
are alike; each image is segmented once, by what learnt from the other folds, and the figures are of all images
together.

The CLIP of ours is trained in each fold on crops of the training images with captions that list the classes inside, so
it has seen the labels, too. Heads are trained with the masks, but for *grouping*, which takes images alone. The U-Net
has the masks, no weights to begin with, and the CPU seconds of the head that took longest, and then those with the
CLIP's own training. Two rows know nothing: the most frequent class everywhere, and patches compared with random rows in
the place of texts. No rate was searched for any way, the U-Net included; the size of the crops, the number of steps and
the size that ``starter`` sees were changed once after a look at the first fold. About 20 CPU minutes, one thread;
``--quick`` draws rectangles where no FOLDER is given, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

import tether
from tether.adaptation.heads.masks import MasksHead
from tether.adaptation.recipes import RECIPES, Given, Outcome
from tether.core.component import build
from tether.core.errors import TetherError
from tether.core.masks import NO_CLASS
from tether.core.protocols import DualEncoder
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.images import decode
from tether.evaluate.dense import DenseReport, MaskScores
from tether.methods.clip_dinoiser import GroupingHead
from tether.models.features.windows import Windows
from tether.models.heads.mask_models import TrainedMasks
from tether.tasks.segment import SEGMENTERS, DenseSegmenter, Segmenter, TokenSegmenter
from tether.workflows.adaptation.run import run

SIZE = (96, 128)
"""Height and width of what the CLIP of ours and the U-Net see."""
SAID = "a street with {}"
"""Captions of crops, and prompts of classes."""
CROP = (0.1, 0.5)
"""Sides of crops for the CLIP, as shares of the image's."""
LEAST = 0.15
"""Share of a crop from which on its caption names a class."""
MOST = 3
"""Classes that a caption names, at most."""
LOOK = Windows(fit="whole")
"""How the CLIP of ours looks at an image."""
PIECES = 6
"""Pieces of an image that ovseg looks at; each is one more look at it."""
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {
        "grouping": {"steps": 30},
        "mask_text": {"steps": 80, "batch_size": 8},
        "mask_aware": {"steps": 50, "batch_size": 8, "learning_rate": 1e-3},
        "masked_crops": {"steps": 40, "batch_size": 16},
    },
    "starter": {
        "grouping": {"steps": 15, "batch_size": 4},
        "mask_text": {"steps": 60, "batch_size": 8},
        "mask_aware": {"steps": 20, "batch_size": 4, "learning_rate": 1e-3},
        "masked_crops": {"moves": "image", "steps": 10, "batch_size": 4, "learning_rate": 1e-4},
    },
}
QUICK = {"steps": 1, "batch_size": 2}
CLIP_STEPS = 80
CLIP_BATCH = 32
UNET_BATCH = 8


class Streets(IndexedSource):
    """Images with a region for each class that is there; ``labels`` are the class numbers of the pixels."""

    name, version = "streets", "1"

    def __init__(self, images: Sequence[bytes], labels: Sequence[np.ndarray], names: Sequence[str]) -> None:
        """Take images and labels."""
        self.images, self.labels, self.names = images, labels, tuple(names)
        self.rows = [self._row(place) for place in range(len(images))]

    def __len__(self) -> int:
        """How many."""
        return len(self.images)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]

    def some(self, places: Sequence[int]) -> Streets:
        """A part of the images."""
        return Streets([self.images[k] for k in places], [self.labels[k] for k in places], self.names)

    def _row(self, place: int) -> Row:
        label = self.labels[place]
        there = [number for number in np.unique(label) if number != NO_CLASS]
        numbers, boxes = np.zeros(label.shape, np.uint8), []
        for region, number in enumerate(there):
            y, x = np.nonzero(label == number)
            numbers[y, x] = region + 1
            height, width = label.shape
            boxes.append([x.min() / width, y.min() / height, (x.max() + 1) / width, (y.max() + 1) / height])
        phrases = [self.names[number] for number in there]
        meta = {"boxes": boxes, "phrases": phrases, "masks": numbers}
        return Row(f"{place:03d}", self.images[place], (SAID.format(", ".join(phrases)),), meta)


def read(path: Path) -> Streets:
    """All rows of the file.

    Raises:
        SystemExit: no file, or several.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if len(files) != 1:
        raise SystemExit(f"{path}: expected one Parquet file, found {len(files)}")
    table = pq.read_table(files[0])
    names = table.schema.metadata[b"classes"].decode().split(",")[:-1]
    images, labels = [], []
    for one in sorted(table.to_pylist(), key=lambda row: row["image"]["path"]):
        mask = np.asarray(Image.open(io.BytesIO(one["mask"]["bytes"])))
        labels.append(np.where(mask < len(names), mask, NO_CLASS).astype(np.uint8))
        images.append(one["image"]["bytes"])
    return Streets(images, labels, names)


def drawn(count: int) -> Streets:
    """Rectangles on a ground, to look whether all of this runs."""
    rng, names = np.random.default_rng(0), ("sky", "road", "car")
    colours = np.array([[90, 160, 230], [90, 90, 90], [200, 40, 40]])
    images, labels = [], []
    for _ in range(count):
        label = np.zeros((60, 80), np.uint8)
        label[30:] = 1
        y, x = rng.integers(20, 40), rng.integers(0, 50)
        label[y : y + 15, x : x + 25] = 2
        file = io.BytesIO()
        Image.fromarray((colours[label] + rng.integers(-9, 9, (60, 80, 3))).astype(np.uint8)).save(file, "png")
        images.append(file.getvalue())
        labels.append(label)
    return Streets(images, labels, names)


def write_crops(source: Streets, path: Path, *, each: int, seed: int) -> None:
    """Crops of the images' shape with captions that list their classes, the largest first."""
    rng, rows = np.random.default_rng(seed), []
    for row, label in zip(source.rows, source.labels, strict=True):
        pixels = decode(row.image, name=row.key).permute(1, 2, 0).numpy()
        height, width = label.shape
        for number in range(each):
            share = rng.uniform(*CROP)
            h, w = round(share * height), round(share * width)
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            seen = label[y : y + h, x : x + w]
            counts = np.bincount(seen[seen != NO_CLASS], minlength=len(source.names)) / seen.size
            named = [source.names[k] for k in np.argsort(-counts, kind="stable") if counts[k] >= LEAST][:MOST]
            if named:
                file = io.BytesIO()
                Image.fromarray(pixels[y : y + h, x : x + w]).resize(SIZE[::-1]).save(file, "jpeg", quality=95)
                image = {"bytes": file.getvalue(), "path": f"{row.key}-{number}.jpg"}
                rows.append({"image": image, "caption": SAID.format(", ".join(named))})
    pq.write_table(pa.Table.from_pylist(rows), path)


def train_clip(source: Streets, folder: Path, *, steps: int, seed: int) -> DualEncoder:
    """A CLIP of ours on crops of these images."""
    write_crops(source, folder / "crops.parquet", each=2 if steps < 9 else 32, seed=seed)
    tower = {"width": 128, "layers": 6, "heads": 4, "hidden": 512, "image": {"size": list(SIZE)}, "patch": 8}
    text = {"width": 128, "layers": 2, "heads": 4, "hidden": 512}
    model = json.dumps({"dim": 128, "vision": tower, "text": text})
    settings = [
        f"model={model}",
        f"steps={steps}",
        f"batch_size={2 if steps < 9 else CLIP_BATCH}",
        "precision=fp32",
        "threads=1",
        "evaluate=null",
        "save_every=1000000",
        "caption=first",
        f"schedule={{name: cosine, warmup: {max(1, steps // 10)}}}",
    ]
    tether.train(folder / "crops.parquet", recipe="demo", out=folder / "run", settings=settings, seed=seed)
    return tether.load(str(folder / "run"))


class RandomRows(TokenSegmenter):
    """Random rows in the place of the classes' texts."""

    def class_rows(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "t d"]:
        """See ``DenseSegmenter``."""
        generator = torch.Generator().manual_seed(0)
        return F.normalize(torch.randn(len(texts), model.dim, generator=generator), dim=1)


@dataclass(frozen=True)
class Way:
    """A segmenter, and the recipe whose head or model it needs."""

    method: str
    recipe: str = ""


WAYS = {
    "last tokens": Way("tokens"),
    "MaskCLIP (`values`)": Way("values"),
    "DINOiser, head by `grouping`": Way("dinoiser", "grouping"),
    "ExCEL": Way("excel"),
    "OVSeg, tuned by `masked_crops`": Way("ovseg", "masked_crops"),
    "MTA": Way("mta", "mask_text"),
    "MAFT+": Way("maft", "mask_aware"),
}


def learnt(name: str, model: DualEncoder, source: Streets, *, settings: dict[str, Any], seed: int) -> tuple[Any, float]:
    """What a recipe makes of a model, and its CPU seconds."""
    if name != "grouping":
        settings = {"boxes": "boxes", "phrases": "phrases", "masks": "masks", "unit": "share", **settings}
    if name == "mask_text":
        settings = {"rest": None, **settings}
    if name == "mask_aware":
        settings = {"templates": [SAID], **settings}
    recipe = cast(Any, build({"name": name, **settings}, RECIPES, where=name, finite=True))
    recipe.check(model)
    given = Given(recipe.takes, source, len(source), seed=seed)
    done = run(recipe, model, given, folder=None)
    return done.outcome, done.cpu_seconds


def segmenter(way: Way, outcome: Outcome | None) -> DenseSegmenter:
    """The segmenter of a way."""
    settings: dict[str, Any] = {}
    head = None if outcome is None else outcome.head
    if isinstance(head, GroupingHead):
        settings = {"head": head.inner, "layer": head.layer, "gamma": head.gamma}
    elif isinstance(head, MasksHead):
        settings = {"head": TrainedMasks(head.masks, head.classes)}
    if way.method == "ovseg":
        settings = {"pieces": PIECES}
    if way.method != "mta":
        settings["templates"] = [SAID]
    return cast(DenseSegmenter, SEGMENTERS[way.method](**settings))


class UNet:
    """A U-Net of segmentation-models-pytorch that learns for so many CPU seconds, and can go on."""

    def __init__(self, source: Streets, *, seed: int) -> None:
        """Draw its weights."""
        import segmentation_models_pytorch as smp

        torch.manual_seed(seed)
        self.net = cast(nn.Module, smp.Unet("resnet18", encoder_weights=None, classes=len(source.names)))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, weight_decay=0.01)
        self.images = torch.cat([self._seen(decode(row.image, name=row.key)) for row in source.rows])
        labels = [torch.from_numpy(label)[None, None].float() for label in source.labels]
        self.labels = torch.cat([F.interpolate(one, SIZE, mode="nearest") for one in labels])[:, 0].long()
        self.generator, self.seconds, self.steps = torch.Generator().manual_seed(seed), 0.0, 0

    def learn(self, seconds: float) -> UNet:
        """Go on until it has had so many seconds."""
        self.net.train()
        while self.seconds < seconds or not self.steps:
            start = time.process_time()
            chosen = torch.randint(len(self.images), (UNET_BATCH,), generator=self.generator)
            images, labels = self.images[chosen], self.labels[chosen]
            if torch.rand((), generator=self.generator) < 0.5:
                images, labels = images.flip(3), labels.flip(2)
            loss = F.cross_entropy(self.net(images), labels, ignore_index=NO_CLASS)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.seconds += time.process_time() - start
            self.steps += 1
        return self

    @torch.no_grad()
    def predict(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[np.ndarray]:
        """Class numbers of the pixels."""
        self.net.eval()
        scores = [self.net(self._seen(image)) for image in images]
        sizes = [tuple(image.shape[1:]) for image in images]
        found = (F.interpolate(one, size, mode="bilinear") for one, size in zip(scores, sizes, strict=True))
        return [one[0].argmax(dim=0).numpy().astype(np.uint8) for one in found]

    def _seen(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "1 3 h w"]:
        return F.interpolate(image[None].float(), SIZE, mode="bilinear", antialias=True) / 127.5 - 1


class Table:
    """Scores of every way over the folds, with what it cost."""

    def __init__(self, names: Sequence[str]) -> None:
        """Start empty."""
        self.names = names
        self.scores: dict[str, MaskScores] = {}
        self.seconds: dict[str, list[tuple[float, float]]] = {}
        self.refused: dict[str, str] = {}

    def add(
        self, way: str, test: Streets, predict: Callable[[list[Tensor]], list[np.ndarray]], *, cost: float = 0.0
    ) -> None:
        """Segment the images of a fold."""
        images = [decode(row.image, name=row.key) for row in test.rows]
        start = time.process_time()
        found = predict(images)
        took = (time.process_time() - start) / len(images)
        self.seconds.setdefault(way, []).append((cost, took))
        scores = self.scores.setdefault(way, MaskScores(self.names))
        for label, truth in zip(found, test.labels, strict=True):
            scores.add(label, truth=truth)
        truth = np.stack(test.labels)
        right = (np.stack(found) == truth)[truth != NO_CLASS].mean()
        print(f"{way}: {cost:.1f} s to learn, {1000 * took:.0f} ms an image, {right:.1%} of this fold", flush=True)

    def reports(self) -> dict[str, DenseReport]:
        """Of every way."""
        return {way: scores.report() for way, scores in self.scores.items()}

    def lines(self) -> list[str]:
        """The table."""
        found = [
            "| way | mIoU, % | pixel accuracy, % | CPU s to learn | ms an image |",
            "| --- | --- | --- | --- | --- |",
        ]
        for way, report in self.reports().items():
            cost, took = np.mean(self.seconds[way], axis=0)
            cells = [_per_cent(report.miou), _per_cent(report.accuracy), f"{cost:.0f}", f"{1000 * took:.0f}"]
            found.append(f"| {way} | {' | '.join(cells)} |")
        return [*found, *(f"\n{way}: {why}" for way, why in self.refused.items())]


def _per_cent(one: Any) -> str:
    low, high = one.interval
    return f"{100 * one.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def fold(train: Streets, test: Streets, table: Table, *, seed: int, quick: bool) -> None:
    """All ways of one fold."""
    counts = np.bincount(np.concatenate([one[one != NO_CLASS] for one in train.labels]))
    most = int(counts.argmax())
    table.add("most frequent class", test, lambda images: [np.full(i.shape[1:], most, np.uint8) for i in images])
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        ours = train_clip(train, Path(folder), steps=2 if quick else CLIP_STEPS, seed=seed)
        spent = time.process_time() - start
    print(f"a CLIP of ours: {spent:.1f} s to learn", flush=True)
    longest = 0.0
    looks = {"ours": LOOK, "starter": Windows(stride=1.0)}
    for encoder, model in (("ours", ours), ("starter", tether.load("starter"))):
        windows = None if quick else looks[encoder]
        ways = {"random rows": (RandomRows(), Way("tokens"))} | {name: (None, way) for name, way in WAYS.items()}
        for name, (given, way) in ways.items():
            told = f"{encoder}: {name}"
            outcome, cost, asked = None, 0.0, model
            try:
                if way.recipe:
                    settings = SETTINGS[encoder][way.recipe] | (QUICK if quick else {})
                    outcome, cost = learnt(way.recipe, model, train, settings=settings, seed=seed)
                    asked = model if outcome.model is None else outcome.model
                one = segmenter(way, outcome) if given is None else given
                own = one.own_windows if way.method in ("mta", "maft") else windows
                one.prepare(asked, test.names, windows=own)
            except TetherError as error:
                table.refused[told] = str(error)
                continue
            longest = max(longest, cost)
            table.add(told, test, partial(labels_by, one), cost=cost)
    try:
        unet = UNet(train, seed=seed)
    except ImportError:
        table.refused["U-Net"] = "needs pip install segmentation-models-pytorch"
        return
    for name, seconds in (("U-Net, seconds of a head", longest), ("U-Net, with those of the CLIP", longest + spent)):
        unet.learn(seconds)
        table.add(name, test, unet.predict, cost=unet.seconds)
    print(f"U-Net: {unet.steps} steps", flush=True)


def labels_by(segmenter: Segmenter, images: list[Tensor]) -> list[np.ndarray]:
    """The class numbers of images' pixels."""
    return [masks.labels for masks in segmenter.predict(images)]


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--first", type=int, help="so many folds alone")
    parser.add_argument("--quick", action="store_true", help="as little as possible; figures mean nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.folder is None and not given.quick:
        parser.error("expected FOLDER, or --quick")
    torch.set_num_threads(1)
    source = drawn(4) if given.folder is None else read(given.folder)
    blocks = np.array_split(np.arange(len(source)), 2 if given.quick else given.folds)
    table = Table(source.names)
    for seed, block in enumerate(blocks[: 1 if given.quick else given.first]):
        others = [place for place in range(len(source)) if place not in set(block.tolist())]
        fold(source.some(others), source.some(block.tolist()), table, seed=seed, quick=given.quick)
    print("\n".join(table.lines()))
    if given.json is not None:
        found = {
            way: {"miou": report.miou.value, "interval": report.miou.interval, "accuracy": report.accuracy.value}
            | {"iou": {name: one.value for name, one in report.iou.items()}, "seconds": table.seconds[way]}
            for way, report in table.reports().items()
        }
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
