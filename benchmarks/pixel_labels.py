"""What labels of pixels leave in a photograph encoder's patches: mean IoU by a linear map of them, on street images.

Command: ``python benchmarks/pixel_labels.py camvid.parquet`` (about 8 CPU minutes; ``--quick`` for a look whether it
runs, on drawn boxes where no file is given). The file holds images and masks of class numbers, the classes' names in
its metadata (``classes``, the last one for no label). The first two thirds of the rows are learnt from, and the map is
fitted on their true labels; it is measured on the others. The encoder is ``starter`` with its image tower set free, at
the recipe ``pseudo-labels`` with one head; captions list the classes of the mask, so that the loss of CLIP has
something to learn. The expert takes 15 % of the classes of an image for another, and gives 15 % of the pixels another
pixel's label. Arms by turns, one thread.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

import tether
from tether.core.recipes import find
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.dense_labels import IGNORED
from tether.methods.cliptex.dense_probe import dense_probe
from tether.models.composed.encoder import ComposedEncoder
from tether.training import load_config, train
from tether.workflows.label import label

NOISE = 0.15
ARMS = ("CLIP's loss alone", "labels of other images", "labels of the expert")


class Streets(IndexedSource):
    """Rows of the file; ``classes`` of their ``meta`` is the mask."""

    name, version = "streets", "1"

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take the rows."""
        self.rows = rows

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]

    def labelled(self, masks: Sequence[np.ndarray]) -> Streets:
        """The same images with other masks."""
        return Streets(
            [Row(row.key, row.image, row.texts, {"classes": mask}) for row, mask in zip(self.rows, masks, strict=True)]
        )


def read(path: Path, *, limit: int | None) -> tuple[list[Row], int]:
    """All rows, and how many classes there are."""
    table = pq.read_table(path)
    names = table.schema.metadata[b"classes"].decode().split(",")[:-1]
    rows = []
    for place, one in enumerate(table.to_pylist()[:limit]):
        mask = np.asarray(Image.open(io.BytesIO(one["mask"]["bytes"])))
        mask = np.where(mask < len(names), mask, IGNORED).astype(np.uint8)
        shown = [names[index] for index in np.unique(mask) if index != IGNORED]
        said = f"a street with {', '.join(shown)}"
        rows.append(Row(f"{place:03d}.png", one["image"]["bytes"], (said,), {"classes": mask}))
    return rows, len(names)


def drawn(count: int) -> tuple[list[Row], int]:
    """Boxes of two classes on a ground, to look whether all of this runs."""
    rng, colours = np.random.default_rng(0), np.array([[90, 160, 230], [90, 90, 90], [200, 40, 40]])
    rows = []
    for place in range(count):
        mask = np.zeros((60, 80), np.uint8)
        mask[30:] = 1
        y, x = rng.integers(20, 40), rng.integers(0, 50)
        mask[y : y + 15, x : x + 25] = 2
        file = io.BytesIO()
        Image.fromarray((colours[mask] + rng.integers(-9, 9, (60, 80, 3))).astype(np.uint8)).save(file, "png")
        rows.append(Row(f"{place:03d}.png", file.getvalue(), ("a street with a car",), {"classes": mask}))
    return rows, len(colours)


def told(mask: np.ndarray, rng: np.random.Generator, *, classes: int) -> np.ndarray:
    """What an imperfect expert says instead of the mask."""
    said = mask.copy()
    for one in np.unique(mask[mask != IGNORED]):
        if rng.random() < NOISE:
            said[mask == one] = (one + 1 + rng.integers(classes - 1)) % classes
    wrong = np.flatnonzero(rng.random(said.size) < NOISE)
    said.flat[wrong] = said.flat[rng.integers(0, said.size, len(wrong))]
    return said


def settings(arm: str, *, start: Path, images: Path, labels: Path, classes: int, **own: Any) -> list[str]:
    """The recipe's settings that an arm changes."""
    common = [f"model={{load: {start}}}", f"data={images}", "precision=fp32", "evaluate=null", "threads=1"]
    common += ["schedule={name: cosine, warmup: 2}", "optimizer.lr=0.0001", "save_every=1000000"]
    common += [f"{key}={value}" for key, value in own.items()]
    crops = "crops: {image: {scale: [0.5, 1.0], flip: 0.5}}"
    if arm == ARMS[0]:
        return [*common, f"contents={{{crops}}}", "step={views: {image: {}, text: {}}, terms: [objective]}"]
    heads = f"heads: {{seg: {{name: dense, task: seg, classes: {classes}}}}}"
    terms = "terms: [objective, {name: pseudo_labels, seg: seg, seg_weight: 1.0}]"
    return [
        *common,
        f"contents={{{crops}, labels: {{store: {labels}, tasks: [seg]}}}}",
        f"step={{views: {{image: {{want: map}}, text: {{}}}}, {heads}, {terms}}}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parquet", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.parquet is None and not args.quick:
        parser.error("expected a file, or --quick")
    torch.set_num_threads(1)
    limit = 9 if args.quick else None
    rows, classes = drawn(9) if args.parquet is None else read(args.parquet, limit=limit)
    cut = len(rows) * 2 // 3
    known, asked = Streets(rows[:cut]), Streets(rows[cut:])
    masks = [np.asarray(row.meta["classes"]) for row in known.rows]
    size, steps = (4, 2) if args.quick else (args.batch_size, args.steps)
    found: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        true = [
            label(part, out=place / f"true{k}", seg="column:classes", classes=classes)
            for k, part in enumerate((known, asked))
        ]

        def probe(model: Any) -> tuple[float, float]:
            scores = dense_probe(
                model, train=known, test=asked, labels=true[0].folder, test_labels=true[1].folder, batch_size=16
            )
            return 100 * (scores.miou or 0.0), 100 * (scores.accuracy or 0.0)

        start = tether.load("starter")
        assert isinstance(start, ComposedEncoder)
        found["before"] = [(*probe(start), 0.0)]
        start.parts.image.lock_("tuned")
        tether.save(start, place / "start")
        _write(known, place / "images")
        for seed in args.seeds[: 1 if args.quick else None]:
            rng = np.random.default_rng(seed)
            said = [told(mask, rng, classes=classes) for mask in masks]
            order = rng.permutation(len(said))
            stores = {ARMS[0]: place, ARMS[1]: place / f"other{seed}", ARMS[2]: place / f"own{seed}"}
            for arm, given in ((ARMS[1], [said[k] for k in order]), (ARMS[2], said)):
                label(known.labelled(given), out=stores[arm], seg="column:classes", classes=classes)
            for arm in ARMS:
                own = {"steps": steps, "batch_size": size, "seed": seed, "optimizer.lr": args.lr}
                changed = settings(
                    arm, start=place / "start", images=place / "images", labels=stores[arm], classes=classes, **own
                )
                begun = time.process_time()
                run = place / f"{seed}-{ARMS.index(arm)}"
                train(load_config(find("pseudo-labels"), overrides=changed), folder=run)
                spent = time.process_time() - begun
                found.setdefault(arm, []).append((*probe(tether.load(run)), spent))
                print(f"seed {seed}, {arm}: {found[arm][-1]}", flush=True)
    print("| | mIoU | pixels right | CPU s |\n| --- | --- | --- | --- |")
    for arm, values in found.items():
        cells = [f"{statistics.fmean(one):.1f} ({min(one):.1f} to {max(one):.1f})" for one in zip(*values, strict=True)]
        print(f"| {arm} | {' | '.join(cells)} |")


def _write(source: Streets, folder: Path) -> None:
    """Images with captions, as the recipe reads them; named by their keys."""
    folder.mkdir()
    lines = ["image,caption"]
    for row in source.rows:
        assert isinstance(row.image, bytes)
        Image.open(io.BytesIO(row.image)).save(folder / row.key)
        lines.append(f'{row.key},"{row.texts[0]}"')
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
