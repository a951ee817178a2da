"""Scenes a second: drawing, rendering and captioning the synthetic world on one core, against Pillow drawing the same.

Command:  python benchmarks/scenes.py [--quick] [--json FILE]
Cost:     about 50 CPU seconds, one thread; --quick about 6.

Every variant handles the same scenes; they take turns in an order that rotates from round to round. Times are CPU
seconds of this process. The peer draws each thing with ImageDraw at four times the size on a supersampled picture and
reduces it, which is how such worlds are usually made; it draws plain fills only, no textures, cracks, masks or boxes.

Measured last on one core of a busy two-core AMD EPYC machine (scenes a second, median of 5 rounds):

                                   64 px   128 px   224 px   Pillow / this at 64 px
    Pillow, render only            1,715      495      160
    render only                   17,429    7,704    3,048   10.2 (9.7..10.8)
    draw + render + short caption  7,988    2,604      865    4.6 (4.0..5.0)
    + long caption                 6,853    4,513    2,428    4.0 (3.8..4.1)
    + word in the picture          7,606    4,522    2,389    4.3 (3.7..4.5)
    + defect and mask              3,297    1,584      676    1.9 (1.7..1.9)
    + colour bias                  5,298    2,106      614    3.1 (2.8..3.3)
    + twin caption and its picture 4,042    1,994      671    2.3 (2.2..2.4)

Above 64 px the first drawing of each shape still shows in the rows with fresh scenes (the third and the last three):
there are some thousand looks, and each is made once in a process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image, ImageDraw

from tether.data.sets.scenes import Dice, Scene, ScenesSet, World, render
from tether.data.sets.scenes.backgrounds import background
from tether.data.sets.scenes.world import COLOURS

SAMPLES = 4


def pillow(scene: Scene, *, size: int) -> np.ndarray:
    """The same scene with ImageDraw, supersampled."""
    large = Image.fromarray(background(scene.background, scene.variant, size)).resize((size * SAMPLES,) * 2)
    draw = ImageDraw.Draw(large)
    for thing in scene.things:
        side = size * SAMPLES
        x, y, radius = thing.x * side, thing.y * side, thing.units / 128 * side
        box = (x - radius, y - radius, x + radius, y + radius)
        if thing.shape in ("circle", "ring", "moon"):
            draw.ellipse(box, fill=COLOURS[thing.colour], outline="black", width=SAMPLES)
        else:
            corners = {"triangle": 3, "square": 4, "diamond": 4, "hexagon": 6}.get(thing.shape, 5)
            draw.regular_polygon((x, y, radius), corners, fill=COLOURS[thing.colour], outline="black")
    return np.asarray(large.reduce(SAMPLES))


def variants(size: int) -> dict[str, Callable[[int], object]]:
    """What is timed, each as a function of the row."""
    scenes = [World().draw(Dice(np.random.default_rng([1, index]))) for index in range(4000)]
    plain = ScenesSet(rows=10**6, size=size)
    full = ScenesSet(rows=10**6, size=size, captions="both", order="random")
    lettered = ScenesSet(rows=10**6, size=size, lettering="word", agree=0.5)
    flawed = ScenesSet(rows=10**6, size=size, defects=1.0)
    biased = ScenesSet(rows=10**6, size=size, bias="colour", strength=0.9)
    twins = ScenesSet(rows=10**6, size=size, negatives="attribute", things=(2, 4))
    return {
        "Pillow, render only": lambda row: pillow(scenes[row % 4000], size=size),
        "render only": lambda row: render(scenes[row % 4000], size=size),
        "draw + render + short caption": plain.sample,
        "+ long caption": full.sample,
        "+ word in the picture": lettered.sample,
        "+ defect and mask": flawed.sample,
        "+ colour bias": biased.sample,
        "+ twin caption and its picture": twins.sample,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 px only, fewer scenes")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    rounds, results = 5, {}
    for size in (64,) if arguments.quick else (64, 128, 224):
        count = (200 if arguments.quick else 600) * 64 // size
        todo = variants(size)
        for run in todo.values():  # fill the caches of shapes and backgrounds: they are made once
            for row in range(100_000, 100_000 + 4 * count):
                run(row)
        seconds: dict[str, list[float]] = {name: [] for name in todo}
        names = list(todo)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.process_time()
                for row in range(turn * count, (turn + 1) * count):
                    todo[name](row)
                seconds[name].append(time.process_time() - start)
        print(f"\n{size} px, {rounds} rounds of {count} scenes, one thread, CPU time")
        print(f"{'':34}{'scenes/s':>10}{'min..max':>16}{'Pillow / this':>16}{'min..max':>16}")
        for name in names:
            rates = [count / value for value in seconds[name]]
            ratios = [peer / own for peer, own in zip(seconds[names[0]], seconds[name], strict=True)]
            spread, ratio_spread = f"{min(rates):.0f}..{max(rates):.0f}", f"{min(ratios):.1f}..{max(ratios):.1f}"
            median, ratio = statistics.median(rates), statistics.median(ratios)
            print(f"{name:34}{median:>10.0f}{spread:>16}{ratio:>16.1f}{ratio_spread:>16}")
            results[f"{size}px {name}"] = {"per_second": median, "ratio": ratio, "ratios": ratios}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
