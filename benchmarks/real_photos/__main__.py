"""Measure the rows and store them; see the package."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tether.core.atomic_io import read_json, write_json
from tether_lab.lab import real_photos
from tether_lab.lab.stored_result import SEEDS

from . import captions, clippers, gap, heads, long_captions, reading
from .frozen import Photos
from .row import Row

MODULES = (gap, captions, heads, clippers, reading, long_captions)
ROWS: dict[str, Row] = {row.slug: row for module in MODULES for row in module.ROWS}


def measured(row: Row, photos: Photos) -> dict[str, Any]:
    """All seeds of a row."""
    runs = []
    for seed in SEEDS:
        begun = time.process_time()
        runs.append({"seed": seed, **asdict(row.measure(photos, seed))})
        runs[-1]["cpu_seconds"] = round(time.process_time() - begun, 2)
        print(row.slug, seed, f"{runs[-1]['baseline']:.4g} {runs[-1]['ours']:.4g}", flush=True)
    return real_photos.result(row.claim, runs, differs=row.differs, data=photos.digests)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_photos", description=__doc__)
    parser.add_argument("data", nargs=3, type=Path, metavar="PARQUET")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("results") / real_photos.FILE)
    parser.add_argument("--pilot", action="store_true", help="seed 100 alone; nothing is stored")
    given = parser.parse_args()
    torch.set_num_threads(1)
    photos = Photos(*given.data)
    for slug in given.rows:
        if given.pilot:
            begun = time.process_time()
            print(slug, ROWS[slug].measure(photos, 100), f"{time.process_time() - begun:.1f} CPU s", flush=True)
            continue
        found = measured(ROWS[slug], photos)
        rows = read_json(given.out)["rows"] if given.out.is_file() else {}
        write_json(given.out, real_photos.collected({**rows, slug: found}))
        print(slug, found["verdict"], f"{found['mean']:.4g} ({found['lower']:.4g} to {found['upper']:.4g})", flush=True)


if __name__ == "__main__":
    main()
