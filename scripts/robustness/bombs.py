"""Small files that ask for much: what each costs to read, and whether it is refused.

    python scripts/robustness/bombs.py [--only WORD ...] [--against CHECKOUT] [--json OUT] [--keep FOLDER]

Makes each file, reads it in a process of its own, and measures seconds of CPU and the peak of memory above the idle
process. Ends with 1 when one costs over 10 s or 1 GiB, raises anything but a TetherError, starts a program or asks the
network. ``--against`` does the same with another checkout's ``src`` and puts both in one table. Takes about three
minutes and at most 10 GB of memory where nothing is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from bomb_files import MAKERS
from common import run, table, warm
from reading import READS


def measure(names: Sequence[str], *, folder: Path) -> list[dict[str, object]]:
    """What each costs: the file is made in a process of its own, so that making it is not measured."""

    def place(name: str) -> Path:
        inner = folder / re.sub(r"\W+", "-", name)
        inner.mkdir(parents=True, exist_ok=True)
        return inner / f"bomb{MAKERS[name][0]}"

    def make(name: str) -> Callable[[int], object]:
        return lambda _: MAKERS[name][2](place(name))

    def read(name: str) -> Callable[[int], object]:
        origin, _, reader = name.rpartition(": ")
        return lambda _: READS[reader](place(origin))

    warm()
    found: list[dict[str, object]] = []
    for name in names:
        origin = name.rpartition(": ")[0]
        if not place(origin).exists():
            for made in run([(origin, [0])], make, seconds=120, memory=4096):
                if made.outcome != "ok":
                    raise SystemExit(f"{origin}: could not be made: {made.detail}")
        path = place(origin)
        size = sum(
            each.lstat().st_size for each in [path, *path.rglob("*")] if each.is_file() and not each.is_symlink()
        )
        found += [asdict(trial) | {"bytes": size} for trial in run([(name, [0])], read, patience=6)]
        print(f"{found[-1]['outcome']:8} {name}  {found[-1]['detail']:.120}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Measure, print the table, and say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="names that contain one of these")
    parser.add_argument("--against", type=Path, help="another checkout, measured first")
    parser.add_argument("--keep", type=Path, help="folder for the files; those that are there are not made again")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    given = parser.parse_args()
    known = [f"{name}: {reader}" for name, (_, readers, _) in MAKERS.items() for reader in readers]
    names = [name for name in known if any(word.lower() in name.lower() for word in given.only)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        before = [] if given.against is None else _elsewhere(given.against, names, folder=folder)
        after = measure(names, folder=folder)
    old = {each["name"]: each for each in before}
    rows: list[list[object]] = [["bomb: reader", "KB", *["MiB", "s", "outcome"] * (1 + bool(old))]]
    for each in after:
        costs = [[one["mib"], one["seconds"], one["outcome"]] for one in ([old[each["name"]]] if old else []) + [each]]
        rows.append([each["name"], float(each["bytes"]) / 1000, *chain.from_iterable(costs)])
    print(table(rows))
    failed = [each for each in after if each["outcome"] == "failed"]
    for each in failed:
        print(f"FAILED {each['name']}: {each['detail']}")
    if given.json:
        given.json.write_text(json.dumps({"before": before, "after": after}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(after) - len(failed)} of {len(after)} are harmless")
    return int(bool(failed))


def _elsewhere(checkout: Path, names: list[str], *, folder: Path) -> list[dict[str, object]]:
    """The same with another checkout's source."""
    out = folder / "against.json"
    command = [sys.executable, __file__, "--keep", str(folder), "--json", str(out), "--only", *names]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(checkout / "src")}, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))["after"]


if __name__ == "__main__":
    sys.exit(main())
