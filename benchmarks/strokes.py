"""Strokes drawn near themselves alone against every pixel looked at for each: processor time of a forward and backward.

    python benchmarks/strokes.py [--quick] [--json OUT]     about 1 minute of one core (--quick: a few seconds)

Both are ``render_strokes``, once with what it leaves out and once with ``reach=inf``, of the same strokes as a canvas
starts with, in turns. Values and gradients are compared first. A figure is the least of its rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch

from tether.generation.canvases import StrokeCanvas, render_strokes

LEAST = 3.0
"""Times, at least, that drawing near strokes alone must be faster."""
CASES = ((24, 48), (24, 64), (64, 64), (64, 128))
"""Strokes and side in pixels; 256 strokes on 224 pixels need gigabytes where every pixel is looked at."""


def drawn(canvas: StrokeCanvas, reach: float | None) -> tuple[torch.Tensor, float]:
    """The gradient of the points, and seconds of the processor."""
    start = time.process_time()
    image = render_strokes(
        canvas.points, canvas.counts, canvas.width, canvas.color, size=(canvas.size, canvas.size), reach=reach
    )
    (grad,) = torch.autograd.grad(image.square().mean(), [canvas.points])
    return grad, time.process_time() - start


def main() -> None:
    """Measure, and end with 1 where a ratio is below the least."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for strokes, side in CASES[:1] if options.quick else CASES:
        canvas = StrokeCanvas(n_strokes=strokes, size=side, generator=torch.Generator().manual_seed(0))
        near, whole = drawn(canvas, None)[0], drawn(canvas, math.inf)[0]
        torch.testing.assert_close(near, whole, rtol=1e-3, atol=1e-8)
        rounds = [(drawn(canvas, None)[1], drawn(canvas, math.inf)[1]) for _ in range(2 if options.quick else 5)]
        boxed, unboxed = (min(each) for each in zip(*rounds, strict=True))
        found.append({"strokes": strokes, "side": side, "near": boxed, "all": unboxed, "ratio": unboxed / boxed})
        times = f"{1e3 * boxed:7.1f} ms near them, {1e3 * unboxed:7.1f} ms everywhere"
        print(f"{strokes:>4} strokes, {side:>4} px: {times}, {unboxed / boxed:.1f} times")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if min(case["ratio"] for case in found) < LEAST:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
