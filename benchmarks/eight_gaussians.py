"""A critic held by its slope or by its weights: what the generator learns of eight Gaussians, and what a step costs.

Command: ``python benchmarks/eight_gaussians.py [--picture OUT.png]`` (about 2 CPU minutes; ``--quick`` for 3 steps).
Trains the three arms for 300 and for 1,000 generator steps with seed 0 and times a critic step of each, one thread,
CPU time, in rotating order. The picture shows the points after the first number of steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from tether.methods.wgan_gp.loss import wgan_critic_loss
from tether.models import create
from tether_lab.worlds import eight_gaussians as toy

ARMS = {"clipping 0.01": ("clipping", 0.01), "clipping 0.1": ("clipping", 0.1), "penalty": ("penalty", 0.0)}
SAMPLE = 1000
PANEL, SMOOTH, EXTENT = 320, 4, 2.2
"""Picture: pixels of a square's side, how many times finer it is drawn, and the plane's half width."""


def tower_critic() -> nn.Module:
    """The tiny image tower with one score on top of its embedding."""
    tower = create("tiny", seed=0).visual
    score = nn.Linear(tower.projection.out_features, 1)

    class Critic(nn.Module):
        """Pictures to scores."""

        def __init__(self) -> None:
            """Take both parts."""
            super().__init__()
            self.tower, self.score = tower, score

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """One score for each picture."""
            return self.score(self.tower(image).pooled)

    return Critic()


def cost(critic: nn.Module, shape: tuple[int, ...], rounds: int) -> tuple[float, float]:
    """Milliseconds of a critic's forward and backward without the penalty, and how many times as much with it."""
    real, fake = torch.randn(shape), torch.randn(shape)

    def step(lam: float) -> Callable[[], float]:
        def run() -> float:
            begun = time.process_time()
            critic.zero_grad()
            wgan_critic_loss(critic, real, fake, lam=lam).loss.backward()
            return time.process_time() - begun

        return run

    plain, held = step(0.0), step(10.0)
    plain(), held()
    pairs = []
    for turn in range(rounds):
        first, second = (plain, held) if turn % 2 else (held, plain)
        spent = (first(), second())
        pairs.append(spent if turn % 2 else spent[::-1])
    return 1000 * statistics.median(p for p, _ in pairs), statistics.median(h / p for p, h in pairs)


def draw(points: dict[str, torch.Tensor], path: Path) -> None:
    """One square for each arm: its points, and a ring around each mode as wide as what counts as near."""
    side, gap, head = PANEL * SMOOTH, 12 * SMOOTH, 32 * SMOOTH
    canvas = Image.new("RGB", ((side + gap) * len(points) + gap, head + side + gap), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15 * SMOOTH)
    for place, (name, samples) in enumerate(points.items()):
        corner = torch.tensor([gap + place * (side + gap), head])

        def disc(centre: torch.Tensor, radius: float, corner: torch.Tensor = corner, **style: Any) -> None:
            x, y = (corner + side * (0.5 + centre * torch.tensor([1, -1]) / (2 * EXTENT))).tolist()
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), **style)

        left, top = corner.tolist()
        pen.rectangle((left, top, left + side, top + side), outline="#888888", width=SMOOTH)
        pen.text((left + side / 2, head / 2), name, fill="black", font=font, anchor="mm")
        for point in samples[:SAMPLE]:
            if point.abs().max() < EXTENT:
                disc(point, 1.3 * SMOOTH, fill="#3b6ea5")
        for mode in toy.centres():
            disc(mode, toy.NEAR * side / (2 * EXTENT), outline="#c8442b", width=2 * SMOOTH)
    canvas.resize((canvas.width // SMOOTH, canvas.height // SMOOTH), Image.Resampling.LANCZOS).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 generator steps")
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 1000], help="of the generator")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--picture", type=Path, help="draw the points here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    points: dict[str, torch.Tensor] = {}
    for steps in [3] if arguments.quick else arguments.steps:
        for name, (hold, bound) in ARMS.items():
            begun = time.process_time()
            outcome = toy.train("penalty" if hold == "penalty" else "clipping", seed=0, steps=steps, bound=bound or 1.0)
            seconds = time.process_time() - begun
            points.setdefault(f"{name}: {outcome.near:.0%} near a mode", outcome.samples)
            row = {"near": outcome.near, "modes": outcome.modes, "slope": outcome.slope, "at bound": outcome.at_bound}
            results[f"{name}, {steps} steps"] = {**row, "seconds": seconds}
            shown = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{name:14} {steps:5} steps  {shown}  ({seconds:.1f} s)", flush=True)
    rounds = 3 if arguments.quick else 15
    for name, critic, shape in (
        ("3 x 128, 256 points", toy.network(1), (256, 2)),
        ("tiny tower, 32 pictures of 32 px", tower_critic(), (32, 3, 32, 32)),
    ):
        plain, ratio = cost(critic, shape, rounds)
        results[name] = {"ms without penalty": plain, "times with": ratio}
        print(f"critic step, {name}: {plain:.2f} ms without the penalty, {ratio:.2f} times with it", flush=True)
    if arguments.picture:
        draw(dict(list(points.items())[: len(ARMS)]), arguments.picture)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
