"""Words read by RapidOCR's recogniser and by a small reader of ours: words right, characters wrong, CPU seconds.

Command:  OMP_NUM_THREADS=1 python benchmarks/read.py [--steps 800] [--rows 200] [--lexicon 400]
Cost:     about 5 CPU minutes of one core, three of them to train our reader, which learns next to nothing in that time.

Ours is CLIP4STR's reader on a tiny CLIP from random weights, taught on signs of ``lettering`` in all grades and on
words cut out of drawn pages, both of the known half of the lexicon. It is no published reader: those are trained on
millions of crops. RapidOCR comes trained, with the weights of its package, on one thread, without its detector. Both
read the same crops in turns of 50, one process, one thread. Words are compared in small letters, as they were read and
by the nearest word of the whole lexicon. ``--steps 0`` leaves ours out. It prints one Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import string
import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from tether.core.edit_distance import KnownWords
from tether.core.words_read import Texts
from tether.data.lettering.signs import lexicon
from tether.data.sets.lettering import LetteringSet
from tether.evaluate.groups import Share
from tether.evaluate.reading import reading_scores
from tether.models import create
from tether.tasks.read import Charset, DualReader, ImageReader, RapidWords

SIZE, TURN = (32, 64), 50
Crops = tuple[list[np.ndarray], list[str]]


def signs(grade: str, *, words: str, rows: int, lexicon: int, split: str) -> Crops:
    """Signs of one grade."""
    source = LetteringSet(split=split, rows=rows, words=words, lexicon=lexicon, grade=grade)
    found = [source.row(index) for index in range(rows)]
    return [np.asarray(row.image) for row in found], [row.texts[0] for row in found]


def pages(words: Sequence[str], *, rows: int, seed: int) -> Crops:
    """Words cut out of drawn pages by their true boxes: one size of letters a page, dark on light, a little noise."""
    rng, crops, said = np.random.default_rng(seed), list[np.ndarray](), list[str]()
    while len(crops) < rows:
        points = int(rng.integers(14, 28))
        font = ImageFont.load_default(points)
        page = Image.new("L", (480, 640), int(rng.integers(225, 256)))
        draw, boxes, ink = ImageDraw.Draw(page), [], int(rng.integers(0, 60))
        for line in range(20, 600, round(1.5 * points)):
            left = 20
            while True:
                word = words[int(rng.integers(len(words)))]
                right = left + font.getlength(word)
                if right > 460:
                    break
                draw.text((left, line), word, fill=ink, font=font)
                boxes.append((word, font.getbbox(word), left, line))
                left = right + 0.35 * points
        grey = (np.asarray(page, np.float64) + rng.normal(0, 6, (640, 480))).clip(0, 255).astype(np.uint8)
        for place in rng.permutation(len(boxes))[:40]:
            word, (x0, y0, x1, y1), left, line = boxes[place]
            box = [round(end) for end in (line + y0 - 3, line + y1 + 3, left + x0 - 3, left + x1 + 3)]
            crops.append(np.repeat(grey[box[0] : box[1], box[2] : box[3], None], 3, axis=2))
            said.append(word)
    return crops[:rows], said[:rows]


def taught(known: Sequence[str], *, steps: int, count: int) -> tuple[DualReader, float]:
    """Our reader, and the CPU seconds that it learnt."""
    drawn, said = signs("mixed", words="known", rows=3 * count // 4, lexicon=2 * len(known), split="train")
    paged, paged_said = pages(known, rows=count // 4, seed=1)
    model = create("tiny", image_size=SIZE, seed=0).eval()
    letters = Charset(string.ascii_lowercase)
    reader = DualReader(model, charset=letters, max_length=8, heads=4, perms=4, decoder_rate=1.0, text_length=8)
    begun = time.process_time()
    reader.fit([*drawn, *paged], [*said, *paged_said], steps=steps, batch_size=64, learning_rate=2e-3)
    return reader, time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--crops", type=int, default=6_000)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--lexicon", type=int, default=400)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    both = lexicon(asked.lexicon, longest=8)
    known, unseen = both[: len(both) // 2], both[len(both) // 2 :]
    readers: dict[str, ImageReader] = {"RapidOCR": RapidWords()}
    if asked.steps:
        readers["ours"], spent = taught(known, steps=asked.steps, count=asked.crops)
        print(f"Ours learnt for {spent:.0f} CPU s from {asked.crops:,} crops of {len(known)} words.\n")
    listed = KnownWords(both)
    sets = {
        f"signs, {grade}": signs(grade, words="known", rows=asked.rows, lexicon=asked.lexicon, split="test")
        for grade in ("clean", "light", "middle", "heavy", "occluded")
    }
    sets["signs, clean, words never seen"] = signs(
        "clean", words="unseen", rows=asked.rows, lexicon=asked.lexicon, split="test"
    )
    sets["words of pages"] = pages(known, rows=asked.rows, seed=2)
    sets["words of pages, never seen"] = pages(unseen, rows=asked.rows, seed=3)
    for reader in readers.values():
        reader.read(sets["signs, clean"][0][:2])  # weights are loaded
    heads = [
        f"{one}, {what}" for one in readers for what in ("right %", "nearest of the list right %", "letters wrong %")
    ]
    print("| " + " | ".join(["crops", *heads]) + " |")
    print("| --- " * (1 + len(heads)) + "|")
    times: dict[str, list[float]] = {name: [] for name in readers}
    for name, (crops, said) in sets.items():
        parts: dict[str, list[Texts]] = {one: [] for one in readers}
        for start in range(0, len(crops), TURN):
            for one, reader in readers.items():
                begun = time.process_time()
                parts[one].append(reader.read(crops[start : start + TURN]))
                times[one].append((time.process_time() - begun) / len(crops[start : start + TURN]))
        cells = [name]
        for some in parts.values():
            read = [word.lower() for word in Texts.joined(some).words]
            plain, near = (reading_scores(words, said) for words in (read, [listed.nearest(one)[0] for one in read]))
            cells += [_percent(plain.right), _percent(near.right), f"{100 * plain.wrong:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    for name, some in times.items():
        print(f"\n{name}: {1000 * statistics.median(some):.1f} CPU milliseconds a crop")
    if "ours" not in readers:
        return
    ratios = [theirs / own for theirs, own in zip(times["RapidOCR"], times["ours"], strict=True)]
    low, high = np.quantile(ratios, [0.05, 0.95])
    print(
        f"RapidOCR takes {statistics.median(ratios):.1f} times as long ({low:.1f} to {high:.1f} over turns of {TURN})"
    )


def _percent(share: Share) -> str:
    return f"{100 * share.rate:.1f} ({100 * share.low:.0f} to {100 * share.high:.0f})"


if __name__ == "__main__":
    main()
