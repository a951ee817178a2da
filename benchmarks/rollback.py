"""Faults in a small run: going back beside skipping steps that are not finite, and beside stopping at the first.

    python benchmarks/rollback.py [--quick] [--seeds 0 1 2 3 4] [--steps 300]

A tiny CLIP learns emoji, and at half of its steps a fault is planted into the data: ``nan``, batches whose loss is
not a number, or ``noise``, images of noise with captions of other rows and a loss 30 times too large, as of a broken
shard. Each seed runs clean and with both faults under three rules: ``skip`` (what Tether does without settings: steps
that are not finite are left out), ``rollback``, and ``stop`` (torchtitan's rule: the run ends at the first loss that is
not finite; its newest checkpoint counts). Printed are held-out R@10, the mean of both ways in per cent, and the mean
difference to the clean run with a 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tether.core.types import Batch, Loss
from tether.data import open_source
from tether.data.loader import Loader
from tether.evaluate.suite import evaluate
from tether.train import load_config, train
from tether.train import trainer as trainer_module
from tether.train.rollback import DivergedError

RULES = ("skip", "rollback", "stop")
FAULTS = ("nan", "noise")
LENGTH = 8
"""Batches that are bad."""
LOUD = 30.0
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def spoiling(first: int, fault: str) -> type[Loader]:
    """A loader whose batches from ``first`` on are bad for a while."""

    class Spoiling(Loader):
        def __next__(self) -> Batch:
            place = self._position.epoch * (self.batches_per_epoch or 0) + self._position.batch
            batch = super().__next__()
            if not first <= place < first + LENGTH:
                return batch
            generator = torch.Generator().manual_seed(place)
            noise = torch.randint(256, batch.image.shape, generator=generator, dtype=torch.uint8)
            loud = math.nan if fault == "nan" else LOUD
            return Batch(noise, batch.text.flip(0), {**batch.extra, "loud": torch.tensor(loud)})

    return Spoiling


def loud_step(build: Any) -> Any:
    """The builder of steps, whose loss is multiplied where a batch says so."""

    def build_loud(*arguments: Any, **settings: Any) -> Any:
        step = build(*arguments, **settings)
        kind = type(step)

        def call(self: Any, model: Any, batch: Batch, **more: Any) -> Loss:
            loss = kind.__call__(self, model, batch, **more)
            return Loss(loss.total * batch.extra["loud"], loss.terms) if "loud" in batch.extra else loss

        step.__class__ = type(kind.__name__, (kind,), {"__call__": call})
        return step

    return build_loud


def recall(seed: int, *, steps: int, rule: str, fault: str | None, clipper: str) -> tuple[float, int]:
    """Held-out R@10 in per cent, and how often the run went back."""
    settings = [
        "data={name: emoji, split: train, size: 32}",
        "size=tiny",
        "batch_size=64",
        f"steps={steps}",
        f"seed={seed}",
        "precision=fp32",
        "vocabulary=used",
        "threads=1",
        f"clipper={clipper}",
        "optimizer={name: adamw, lr: 0.001}",
        f"save_every={max(1, steps // 20)}",
    ]
    if rule == "rollback":
        settings.append(f"rollback={{every: {max(5, steps // 30)}, further: {LENGTH}}}")
    if rule == "stop":
        settings.append("max_skips=1")
    held_out = open_source("emoji:split=test,size=32", where="benchmark")

    def measured(encoder: Any) -> dict[str, float]:
        return evaluate(encoder, held_out, measures=("retrieval",), bootstrap=0)

    loader = Loader if fault is None else spoiling(steps // 2, fault)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(trainer_module, "build_step", loud_step(trainer_module.build_step)),
    ):
        run = Path(folder) / "run"
        try:
            result = train(load_config(overrides=settings), folder=run, evaluate=measured, make_loader=loader)
            metrics, went = result.metrics, result.rollbacks
        except DivergedError:
            metrics, went = measured(last_model(run)), 0
    return 50 * (metrics["text_to_image_r10"] + metrics["image_to_text_r10"]), went


def last_model(run: Path) -> Any:
    """The model of the newest checkpoint."""
    import tether

    return tether.load(run)


def spread(values: list[float]) -> str:
    """Mean with its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    half = T95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 40 steps: that it runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--clippers", nargs="+", default=["none", "global_norm"])
    arguments = parser.parse_args()
    seeds, steps = ([0], 40) if arguments.quick else (arguments.seeds, arguments.steps)
    for clipper in arguments.clippers:
        clean = [recall(seed, steps=steps, rule="skip", fault=None, clipper=clipper)[0] for seed in seeds]
        print(f"{clipper}: clean {statistics.mean(clean):.1f} %", flush=True)
        for fault in FAULTS:
            for rule in RULES:
                found = [recall(seed, steps=steps, rule=rule, fault=fault, clipper=clipper) for seed in seeds]
                gaps = [value - usual for (value, _), usual in zip(found, clean, strict=True)]
                went = ", ".join(str(count) for _, count in found)
                print(f"  {fault:6} {rule:9} {spread(gaps)}   went back {went}", flush=True)


if __name__ == "__main__":
    main()
