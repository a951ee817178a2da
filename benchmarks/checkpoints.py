"""Checkpoints of a run on two processes under FSDP2: written whole by one of them, and by each its own part.

    python benchmarks/checkpoints.py [--quick] [--processes 2] [--model base] [--repeats 3]

A random ViT-B/32 CLIP (``--quick``: a tiny one) with AdamW's moments and an average of its weights takes one step under
gloo. Then a checkpoint is saved and its moments and average are read back, both ways. Printed for each process: how
much the peak of its memory rises above what it holds, processor seconds, and for whole / sharded the ratio, the
greatest process over the greatest process, median and range of the repeats.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KINDS = ("whole", "sharded")


def settings(model: str) -> list[str]:
    """Of a run that takes one step on few images."""
    return [
        *("data={name: emoji, split: validation}", f"size={model}", f"model={{size: {model}}}"),
        *("batch_size=2", "steps=2", "precision=fp32", "ema=0.99", "sharding=fsdp2", "threads=1"),
    ]


def peak() -> int:
    """The largest size of this process since ``forget_peak``, bytes."""
    return _status("VmHWM")


def forget_peak() -> int:
    """Begin to look for the peak anew; gives what the process holds now, bytes."""
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


@contextmanager
def measured(into: dict[str, float]) -> Iterator[None]:
    """Rise of the peak in MB, processor and wall seconds of the block, all processes beginning together."""
    import torch.distributed as dist

    dist.barrier()
    held, cpu, wall = forget_peak(), time.process_time(), time.perf_counter()
    yield
    into |= {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "rise_mb": (peak() - held) / 1e6}
    dist.barrier()


def worker(rank: int, world: int, port: int, model: str, repeats: int, folder: str) -> None:
    """One process; it leaves its figures as JSON."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch
    from accelerate import Accelerator

    from tether.core.gather import process_gather
    from tether.training import load_config
    from tether.training.checkpoints import Checkpoint, load_checkpoint, open_checkpoint, save_checkpoint, step_name
    from tether.training.parts import check_parts
    from tether.training.sharded import save_sharded
    from tether.training.trainer import Trainer

    torch.set_num_threads(1)
    device = Accelerator(cpu=True).device
    plan = check_parts(load_config(overrides=settings(model)), {}, where="settings")
    gather = process_gather()
    trainer = Trainer(
        plan, 0, checkpoint=None, folder=Path(folder), device=device, gather=gather, edits={}, where="settings"
    )
    trainer.fit(start=0, end=1, on_step=lambda report: None)
    trainer.player.optimizer.zero_grad()

    def save(kind: str, place: Path) -> None:
        trainer.sharded = kind == "sharded"
        checkpoint = Checkpoint(1, *trainer.checkpoint())
        if trainer.sharded:
            save_sharded(place, checkpoint, keep=1)
        elif rank == 0:
            save_checkpoint(place, checkpoint, keep=1)

    def read(kind: str, place: Path) -> None:
        path = place / step_name(1)
        found = open_checkpoint(path, gather=gather) if kind == "sharded" else load_checkpoint(path)
        trainer._restore(found, before=plan[0])

    figures: list[dict[str, Any]] = []
    actions: dict[str, Callable[[str, Path], None]] = {"save": save, "read": read}
    for repeat in range(repeats + 1):  # the first one imports and fills caches
        for kind in KINDS if repeat % 2 else reversed(KINDS):
            for name, act in actions.items():
                one: dict[str, Any] = {"kind": kind, "action": name, "repeat": repeat}
                with measured(one):
                    act(kind, Path(folder) / kind)
                figures.append(one)
    size = sum(parameter.numel() for parameter in trainer.encoder.parameters())
    bytes_ = {kind: sum(one.stat().st_size for one in Path(folder, kind).rglob("*.safetensors")) for kind in KINDS}
    said = {"figures": figures, "parameters": size, "bytes": bytes_}
    Path(folder, f"figures-{rank}.json").write_text(json.dumps(said))


def main() -> None:
    """Run the processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", default=None)
    parser.add_argument("--repeats", type=int, default=None)
    given = parser.parse_args()
    model = given.model or ("tiny" if given.quick else "base")
    repeats = given.repeats or (2 if given.quick else 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp()
    try:
        context = multiprocessing.get_context("spawn")
        world = given.processes
        each = [
            context.Process(target=worker, args=(rank, world, port, model, repeats, folder)) for rank in range(world)
        ]
        for process in each:
            process.start()
        for process in each:
            process.join()
        if any(process.exitcode for process in each):
            raise SystemExit("a process failed")
        told = [json.loads(Path(folder, f"figures-{rank}.json").read_text()) for rank in range(world)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    size = told[0]["bytes"]
    print(f"{told[0]['parameters'] / 1e6:.1f} M parameters, {world} processes, {repeats} repeats")
    print(f"files: whole {size['whole'] / 1e6:,.0f} MB, sharded {size['sharded'] / 1e6:,.0f} MB")
    for action in ("save", "read"):
        for key in ("rise_mb", "cpu_s", "wall_s"):
            found = {
                kind: [
                    [one[key] for one in each["figures"] if (one["kind"], one["action"]) == (kind, action)][1:]
                    for each in told
                ]
                for kind in KINDS
            }
            parts = [
                f"{kind} " + " / ".join(f"{statistics.median(values):.3g}" for values in found[kind]) for kind in KINDS
            ]
            greatest = [[max(values) for values in zip(*found[kind], strict=True)] for kind in KINDS]
            ratios = [whole / max(part, 1e-9) for whole, part in zip(*greatest, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{action} {key}: {', '.join(parts)}; whole / sharded {spread}")


if __name__ == "__main__":
    main()
