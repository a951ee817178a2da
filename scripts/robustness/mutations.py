"""Changed files for every public reader: each is read, or refused with a TetherError, and nothing else happens.

    python scripts/robustness/mutations.py [--inputs 20000] [--seed 0] [--reader WORD ...] [--jobs 2] [--keep FOLDER]

A small sound input is made for each reader, changed by a seeded hand (``change.py``) and read in a process of its own.
Input 0 of each is the sound one, which must be read. A failure is another exception than a TetherError, an end of the
process, over 10 s or 1 GiB above the idle process, a program that was started, or the network asked for. Each is
printed with its reader and number; the same ``--seed`` with ``--only NUMBER`` repeats it. About 25 inputs a second on
two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from change import change
from common import Task, Trial, run, table, warm
from reading import READS
from samples import SAMPLES

BATCH = 100  # inputs of one process


def fuzz(
    names: list[str], *, inputs: int, seed: int, jobs: int, folder: Path, only: int | None = None, patience: float = 3
) -> Iterator[Trial]:
    """Read ``inputs`` changed files, shared out over samples.

    Args:
        names: of samples.
        inputs: how many, at least two of each.
        seed: of the changes.
        jobs: processes at once.
        folder: for the sound inputs.
        only: this number of each, instead.
        patience: as ``common.run``.
    """

    def make(name: str) -> Callable[[int], object]:
        place = folder / _plain(name)
        place.mkdir(parents=True)
        return lambda _: SAMPLES[name].make(place)

    def prepare(name: str) -> Callable[[int], object]:
        one, sound, base = SAMPLES[name], folder / _plain(name), Path.cwd()
        READS[one.reader](_copied(sound, base / "first") / one.place)  # imports what it needs

        def call(number: int) -> object:
            os.chdir(base)  # some readers go elsewhere
            here = _copied(sound, base / f"n{number}")
            try:
                if number:
                    change(here, random.Random(f"{seed} {name} {number}"))
                return READS[one.reader](here / one.place)
            finally:
                shutil.rmtree(here, ignore_errors=True)

        return call

    for trial in run([(name, [0]) for name in names], make, jobs=jobs, seconds=120, memory=4096):
        if trial.outcome != "ok":
            raise SystemExit(f"{trial.name}: could not be made: {trial.detail}")
    shares = sum(SAMPLES[name].share for name in names)
    tasks: list[Task] = []
    for name in names:
        count = max(2, round(inputs * SAMPLES[name].share / shares))
        numbers = range(count) if only is None else [only]
        tasks += [(name, numbers[at : at + BATCH]) for at in range(0, len(numbers), BATCH)]
    tasks.sort(key=lambda task: task[1][0])
    yield from run(tasks, prepare, jobs=jobs, patience=patience)


def failed(trial: Trial) -> bool:
    """Whether a trial is a failure; the sound input must be read."""
    return trial.outcome == "failed" or (trial.number == 0 and trial.outcome != "ok")


def summary(trials: list[Trial]) -> str:
    """One line for each sample."""
    rows: list[list[object]] = [["input", "inputs", "read", "refused", "failures", "slowest s", "most MiB"]]
    for name in sorted({trial.name for trial in trials}):
        own = [trial for trial in trials if trial.name == name]
        counts = Counter("failed" if failed(trial) else trial.outcome for trial in own)
        slow, large = max(trial.seconds for trial in own), max(trial.mib for trial in own)
        rows.append([name, len(own), counts["ok"], counts["refused"], counts["failed"], slow, large])
    last = [sum(column) for column in list(zip(*rows[1:], strict=True))[1:5]]  # pyrefly: ignore
    return table([*rows, ["all", *last, max(t.seconds for t in trials), max(t.mib for t in trials)]])


def _plain(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def _copied(sound: Path, here: Path) -> Path:
    shutil.rmtree(here, ignore_errors=True)
    return Path(shutil.copytree(sound, here))


def main() -> int:
    """Fuzz, print the table and every kind of failure once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", nargs="+", default=[""], metavar="WORD", help="inputs whose names contain one")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat this number of each reader")
    parser.add_argument("--keep", type=Path, help="folder for failing inputs")
    parser.add_argument("--json", type=Path, help="write every trial here")
    given = parser.parse_args()
    warm()
    names = [name for name in SAMPLES if any(word.lower() in name.lower() for word in given.reader)]
    random.Random(given.seed).shuffle(names)  # so that slow ones do not come together
    trials: list[Trial] = []
    kinds: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = {"inputs": given.inputs, "seed": given.seed, "jobs": given.jobs, "only": given.only}
        for trial in fuzz(names, folder=folder, **settings):
            trials.append(trial)
            if not failed(trial):
                continue
            kind = f"{trial.name}: {re.sub(r'[0-9]+', 'N', trial.detail)[:60]}"
            kinds[kind] += 1
            if kinds[kind] == 1:
                print(f"FAILED {trial.name}, number {trial.number}: {trial.detail}", flush=True)
                if given.keep:
                    kept = _copied(folder / _plain(trial.name), given.keep / f"{_plain(trial.name)}-{trial.number}")
                    if trial.number:
                        change(kept, random.Random(f"{given.seed} {trial.name} {trial.number}"))
    print(summary(trials))
    for kind, count in kinds.most_common():
        print(f"{count:5} x {kind}")
    if given.json:
        given.json.write_text(json.dumps([asdict(trial) for trial in trials]) + "\n", encoding="utf-8")
    bad = sum(map(failed, trials))
    print(f"{len(trials)} inputs, {bad} failures, seed {given.seed}, {time.monotonic() - began:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
