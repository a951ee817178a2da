"""``tether embed --engine ray`` beside the local engine: CPU seconds and wall time for the same file.

Command:  python benchmarks/embed_ray.py [--quick] [--json FILE]
Cost:     some 4 CPU minutes on two cores (``--quick``: 1)

JPEG files of 256 x 256, a ViT-B/32 of CLIP's sizes with random weights (``--quick``: `small`), one thread in torch,
parts of 32 rows. The cluster is started once, before; what it costs to start is said by itself. Local, Ray with one
worker and Ray with two take turns; each run begins with an empty folder and starts its own workers, who import torch
and get the model, and their files are compared byte for byte. CPU seconds are those of this process and of all that
came of it, what has ended included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tether.core.ray_cluster import connected
from tether.data import open_source
from tether.models import create
from tether.tasks.retrieve.embed import embed
from tether.tasks.retrieve.ray_workers import RayWorkers

WAYS: dict[str, int] = {"local": 0, "ray, 1 worker": 1, "ray, 2 workers": 2}


class Clock(threading.Thread):
    """CPU seconds of this process and all that came of it, asked ten times a second: Ray's raylet forgets its dead."""

    def __init__(self) -> None:
        """Nothing is asked yet."""
        super().__init__(daemon=True)
        self._seen: dict[int, int] = {os.getpid(): 0}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Ask, until the process ends."""
        while True:
            self.seconds()
            time.sleep(0.1)

    def seconds(self) -> float:
        """So far."""
        stats = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    words = (entry / "stat").read_text().rpartition(")")[2].split()
                    stats[int(entry.name)] = int(words[1]), int(words[11]) + int(words[12])
        tree = {os.getpid()}
        while more := {pid for pid, (parent, _) in stats.items() if parent in tree} - tree:
            tree |= more
        with self._lock:
            self._seen |= {pid: max(stats[pid][1], self._seen.get(pid, 0)) for pid in tree & stats.keys()}
            return sum(self._seen.values()) / os.sysconf("SC_CLK_TCK")


CLOCK = Clock()


def timed(function: Any) -> tuple[float, float]:
    """CPU and wall seconds."""
    before, start = CLOCK.seconds(), time.perf_counter()
    function()
    return CLOCK.seconds() - before, time.perf_counter() - start


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}..{max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, rounds, size = (256, 3, "small") if options.quick else (512, 3, "base")
    model = create(size, seed=0).eval()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        rng = np.random.default_rng(0)
        for at in range(images):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((256, 256)).save(photos / f"{at:04d}.jpg")
        files = set()
        CLOCK.start()
        start = CLOCK.seconds(), time.perf_counter()
        with connected(cpus=2):
            started = CLOCK.seconds() - start[0], time.perf_counter() - start[1]
            for turn in range(rounds):
                for way, workers in WAYS.items():
                    out = Path(place) / f"{turn}-{workers}.parquet"
                    ray = RayWorkers(workers) if workers else None

                    def run(out: Path = out, ray: RayWorkers | None = ray) -> None:
                        embed(
                            open_source(str(photos)),
                            model=model,
                            model_name=size,
                            out=out,
                            part_rows=32,
                            workers=1,
                            ray=ray,
                        )

                    found[way].append(timed(run))
                    files.add(out.read_bytes())
                    print(
                        f"round {turn}: {way}: CPU {found[way][-1][0]:.1f} s, wall {found[way][-1][1]:.1f} s",
                        flush=True,
                    )
    said: dict[str, Any] = {"images": images, "size": size, "equal": len(files) == 1, "start": started}
    print(f"{images} images, {size}; the cluster took CPU {started[0]:.1f} s, wall {started[1]:.1f} s to start")
    print("all files are equal" if len(files) == 1 else f"FILES DIFFER: {len(files)} kinds")
    for way in WAYS:
        for kind, name in enumerate(("CPU", "wall")):
            ratios = [one[kind] / base[kind] for one, base in zip(found[way], found["local"], strict=True)]
            said[f"{way}: {name}"] = ratios
            seconds = statistics.median(one[kind] for one in found[way])
            print(f"{way:15} {name:4} {seconds:6.1f} s, {spread(ratios)} of local")
    if options.json is not None:
        options.json.write_text(json.dumps(said, indent=2))


if __name__ == "__main__":
    main()
