"""Faults in a small run: going back beside skipping steps that are not finite, and beside stopping at the first.

    python benchmarks/rollback.py [--quick] [--seeds 0 1 2 3 4] [--steps 120]
    torchrun --standalone --nproc-per-node 2 benchmarks/rollback.py --faults nan loud --rules rollback

A tiny CLIP learns emoji, and at half of its steps a fault is planted, for ``LENGTH`` batches: ``nan``, a loss that is
not a number; ``loud``, images of noise with captions of other rows and a loss 30 times too large, as of a broken shard
met by a broken scale; ``noise``, those images and captions alone; ``rate``, a learning rate 30 times too high. A fault
belongs to the batches: who passes over them passes over it. In several processes it is in the last one alone.

Each seed runs clean and with each fault under four rules: ``skip`` (what Tether does without settings: steps that are
not finite are left out), ``rollback`` (with its usual settings, and a state every 4 steps, as the run is short),
``further`` (the same and 10 batches passed over besides) and ``stop`` (torchtitan's rule: the run ends at the first
loss that is not finite; its newest checkpoint counts). Where ``skip`` left no step out, ``stop`` is the same run and is
not computed again. Printed are held-out R@10, the mean of both ways in per cent, and the mean difference to the clean
run with a 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import resource
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import tether
from tether.core.types import Batch, Loss
from tether.data import open_source
from tether.data.loader import Loader
from tether.evaluate.measures import evaluate
from tether.training import load_config, train
from tether.training import trainer as trainer_module
from tether.training.rollback import DivergedError
from tether.training.schedules import Cosine

RULES = {
    "skip": [],
    "rollback": ["rollback={every: 4}"],
    "further": ["rollback={every: 4, further: 10}"],
    "stop": ["max_skips=1"],
}
FAULTS = ("nan", "loud", "noise", "rate")
LENGTH = 8
"""Batches that are bad."""
LOUD = 30.0
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass
class Place:
    """Where in the data the run is, and which batches are bad."""

    bad: range
    at: int = 0


def spoiling(place: Place, fault: str) -> type[Loader]:
    """A loader whose batches are bad for a while, in the last process."""
    here = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1

    class Spoiling(Loader):
        def __next__(self) -> Batch:
            at = self._position.epoch * (self.batches_per_epoch or 0) + self._position.batch
            batch = super().__next__()
            place.at = at + 1
            if not here or at not in place.bad or fault == "rate":
                return batch
            generator = torch.Generator().manual_seed(at)
            noise = torch.randint(256, batch.image.shape, generator=generator, dtype=torch.uint8)
            loud = {"nan": math.nan, "loud": LOUD, "noise": 1.0}[fault]
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


@contextlib.contextmanager
def planted(place: Place, fault: str | None) -> Iterator[type[Loader]]:
    """Within, a run that takes its batches from the loader meets the fault."""
    usual = Cosine.factor

    def rattling(self: Cosine, step: int, *, steps: int) -> float:
        return usual(self, step, steps=steps) * (LOUD if fault == "rate" and place.at in place.bad else 1.0)

    with (
        mock.patch.object(trainer_module, "build_step", loud_step(trainer_module.build_step)),
        mock.patch.object(Cosine, "factor", rattling),
    ):
        yield Loader if fault is None else spoiling(place, fault)


@dataclass(frozen=True)
class Ended:
    """How a run ended: held-out R@10 in per cent, times gone back, steps left out, whether it stopped early."""

    recall: float
    went: int
    skipped: int
    stopped: bool


def run_once(seed: int, *, steps: int, rule: str, fault: str | None) -> Ended:
    """One run, in as many processes as there are."""
    settings = [
        "data={name: emoji, split: train, size: 32}",
        "size=tiny",
        "batch_size=64",
        f"steps={steps}",
        f"seed={seed}",
        "precision=fp32",
        "vocabulary=used",
        "threads=1",
        "clipper=global_norm",
        "optimizer={name: adamw, lr: 0.001}",
        f"save_every={max(1, steps // 20)}",
        *RULES[rule],
    ]
    held_out = open_source("emoji:split=test,size=32", where="benchmark")
    found: dict[str, float] = {}

    def measured(encoder: Any) -> dict[str, float]:
        found.update(evaluate(encoder, held_out, measures=("retrieval",), bootstrap=0))
        return found

    with folder() as run, planted(Place(range(steps // 2, steps // 2 + LENGTH)), fault) as loader:
        try:
            result = train(load_config(overrides=settings), folder=run, evaluate=measured, make_loader=loader)
            went, skipped, stopped = result.rollbacks, result.skipped, False
        except DivergedError:
            measured(tether.load(run))
            went, skipped, stopped = 0, 1, True
    recall = 50 * (found["text_to_image_r10"] + found["image_to_text_r10"]) if found else math.nan
    return Ended(recall, went, skipped, stopped)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Of a run, the same for all processes."""
    if "MASTER_PORT" not in os.environ:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made) / "run"
        return
    path = Path(tempfile.gettempdir()) / f"rollback-{os.environ['MASTER_PORT']}"
    yield path
    torch.distributed.barrier()
    if is_main():
        shutil.rmtree(path)
    torch.distributed.barrier()


def is_main() -> bool:
    """Whether this process prints."""
    return os.environ.get("RANK", "0") == "0"


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
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    arguments = parser.parse_args()
    seeds, steps = ([0], 40) if arguments.quick else (arguments.seeds, arguments.steps)
    clean = [run_once(seed, steps=steps, rule="skip", fault=None).recall for seed in seeds]
    say(f"clean {spread(clean)} %, {steps} steps, {os.environ.get('WORLD_SIZE', '1')} processes")
    say("| fault | rule | against clean | each | went back |\n|---|---|---|---|---|")
    for fault in arguments.faults:
        ends: dict[str, list[Ended]] = {}
        for rule in arguments.rules:
            same = rule == "stop" and not any(end.skipped for end in ends.get("skip", [Ended(0.0, 0, 1, True)]))
            ends[rule] = ends["skip"] if same else [run_once(s, steps=steps, rule=rule, fault=fault) for s in seeds]
            gaps = [end.recall - usual for end, usual in zip(ends[rule], clean, strict=True)]
            each = ", ".join(f"{gap:+.1f}" for gap in gaps)
            went = ", ".join("stopped" if end.stopped else str(end.went) for end in ends[rule])
            say(f"| {fault} | {rule}{' (as skip)' if same else ''} | {spread(gaps)} | {each} | {went} |")
    used = resource.getrusage(resource.RUSAGE_SELF)
    say(f"{(used.ru_utime + used.ru_stime) / 60:.1f} CPU minutes in this process")


def say(line: str) -> None:
    if is_main():
        print(line, flush=True)


if __name__ == "__main__":
    main()
