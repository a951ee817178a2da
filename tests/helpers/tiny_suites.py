"""Test sets in the layouts of clip_benchmark, SugarCrepe, Winoground and ARO, as small as they can be."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
TEMPLATES = ("a photo of a {c}.", "a {c} thing.", "{c}")


def png(seed: int, *, size: tuple[int, int] = (44, 36)) -> bytes:
    """An image of large random squares."""
    rng = np.random.default_rng(seed)
    squares = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    file = io.BytesIO()
    squares.resize(size, Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def shards(folder: Path, split: str, rows: Sequence[tuple[bytes, str, bytes]], *, count: int = 2) -> None:
    """Rows of image, ending and content of the other member, spread over tars."""
    for number in range(count):
        members = []
        for place in range(number * len(rows) // count, (number + 1) * len(rows) // count):
            image, ending, data = rows[place]
            members += [(f"s{place:07d}.png", image), (f"s{place:07d}.{ending}", data)]
        tar(folder / split / f"{number}.tar", members)
    (folder / split / "nshards.txt").write_text(f"{count}\n")


def classification(folder: Path, *, rows: int = 24, classes: Sequence[str] = COLOURS, train: int = 0) -> Path:
    for split, many, first in (("test", rows, 0), ("train", train, 1000)):
        if many:
            shards(folder, split, [(png(first + i), "cls", str(i % len(classes)).encode()) for i in range(many)])
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in classes))
    (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{line}\n" for line in TEMPLATES))
    return folder


def multilabel(folder: Path, *, rows: int = 24) -> Path:
    rng = np.random.default_rng(3)
    found = []
    for i in range(rows):
        file = io.BytesIO()
        np.save(file, (rng.random(len(COLOURS)) < 0.4).astype(np.int64))
        found.append((png(50 + i), "npy", file.getvalue()))
    shards(folder, "test", found)
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} thing.\n")
    (folder / "dataset_type.txt").write_text("multilabel\n")
    return folder


def retrieval(folder: Path, *, rows: int = 20) -> Path:
    found = []
    for i in range(rows):
        lines = [f"{COLOURS[i % 6]} square {i}", f"a thing number {i} in {COLOURS[(i + 2) % 6]}", f"photo {i}"][
            : 1 + i % 3
        ]
        found.append((png(200 + i), "txt", "\n".join(lines).encode()))
    shards(folder, "test", found)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder


def sugarcrepe(folder: Path, *, rows: int = 12, images: int = 8, name: str = "swap_obj") -> Path:
    (folder / "val2017").mkdir(parents=True, exist_ok=True)
    for i in range(images):
        (folder / "val2017" / f"{i}.png").write_bytes(png(300 + i))
    asked = {
        str(3 * i): {
            "filename": f"{i % images}.png",
            "caption": f"a {COLOURS[i % 6]} cat on mat {i}",
            "negative_caption": f"a mat on {COLOURS[i % 6]} cat {i}",
        }
        for i in range(rows)
    }
    (folder / f"{name}.json").write_text(json.dumps(asked))
    return folder


def winoground(folder: Path, *, rows: int = 10) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(rows):
        for side in (0, 1):
            (folder / "images" / f"ex_{i}_img_{side}.png").write_bytes(png(400 + 2 * i + side))
        one, other = COLOURS[i % 6], COLOURS[(i + 1) % 6]
        captions = {"caption_0": f"{one} on {other} {i}", "caption_1": f"{other} on {one} {i}"}
        lines.append(json.dumps({"id": i, "image_0": f"ex_{i}_img_0", "image_1": f"ex_{i}_img_1", **captions}))
    (folder / "examples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def aro(folder: Path, *, rows: int = 30) -> Path:
    (folder / "images").mkdir(parents=True)
    asked = []
    for i in range(rows):
        (folder / "images" / f"{i % 5}.png").write_bytes(png(500 + i % 5, size=(40, 30)))
        box = {"bbox_x": i % 7, "bbox_y": 2, "bbox_w": 38, "bbox_h": 20}  # some reach past the right edge
        captions = {"true_caption": f"the {COLOURS[i % 6]} cat is on the mat", "false_caption": f"the mat {i}"}
        kind = {"relation_name": "on" if i < 24 else "under" if i < 27 else "near"}
        asked.append({"image_path": f"{i % 5}.png", **kind, **captions, **box})
    (folder / "visual_genome_relation.json").write_text(json.dumps(asked))
    return folder


def aro_order(folder: Path, *, rows: int = 9, name: str = "coco_order") -> Path:
    """As ``COCO_Order(...).test_cases`` of ARO's repository."""
    (folder / "val2014").mkdir(parents=True)
    asked = []
    for i in range(rows):
        (folder / "val2014" / f"{i % 4}.png").write_bytes(png(600 + i % 4))
        words = f"the {COLOURS[i % 6]} cat is on mat {i}".split()
        options = [" ".join(words[turn % 7 :] + words[: turn % 7]) for turn in range(i, i + 5)]
        asked.append({"image": f"val2014/{i % 4}.png", "caption_options": options})
    (folder / f"{name}.json").write_text(json.dumps(asked))
    return folder
