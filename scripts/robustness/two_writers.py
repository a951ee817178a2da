"""Two processes at once on one output: the second is refused, or waits, and nothing is lost or twice.

    python scripts/robustness/two_writers.py [--verb train ...] [--rounds 8] [--seed 0]

Of each verb two runs start in one folder, the second a drawn moment after the first. Allowed is: both end well (the
second found the work done, or waited), or the second is refused with the host and the process id of the first. What is
left must be what one run alone leaves. ``writes`` are two processes that add, update and delete rows of one store
through ``Store``: every write that returned must be there. Ends with 1 when anything else happens.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import table, warm
from kills import facts_of, forked
from verbs import VERBS, Verb, vectors

KINDS = ("both ended well", "second refused", "lost", "twice", "different", "first failed", "refused without a name")
WRITES = "writes"


def together(calls: list[Callable[[], object]], place: Path, *, delay: float) -> list[tuple[int, str]]:
    """Exit codes and words of calls that start ``delay`` seconds after each other."""
    ends: dict[int, tuple[int, str]] = {}

    def one(number: int) -> None:
        time.sleep(number * delay)
        ends[number] = forked(calls[number], place, said=place.with_name(f"{place.name}.{number}"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [ends[number] for number in range(len(calls))]


def judged(ends: list[tuple[int, str]]) -> list[str]:
    """Kinds of what the two said: one of them must have done the work."""
    refused = [said for code, said in ends if code == 2]
    if any(code not in (0, 2) or "Traceback" in said for code, said in ends) or len(refused) == 2:
        return ["first failed"]
    if not refused:
        return ["both ended well"]
    named = socket.gethostname() in refused[0] and any(word.isdigit() for word in refused[0].split())
    return ["second refused"] if named or "already" in refused[0] else ["refused without a name"]


def commands(verb: Verb, *, scratch: Path, rounds: int, rng: random.Random) -> tuple[Counter[str], dict[str, str]]:
    """Two of the same command."""
    kinds, examples = Counter[str](), dict[str, str]()
    inputs, alone = scratch / "inputs", scratch / "alone"
    code, said = forked(lambda: verb.make(Path.cwd()), inputs)
    if code:
        raise SystemExit(f"{verb.name}: inputs could not be made: {said}")
    shutil.copytree(verb.start(inputs), alone)
    began = time.monotonic()
    forked(lambda: verb.run(inputs), alone)
    usual = time.monotonic() - began
    wanted = facts_of(verb, alone)
    for number in range(rounds):
        place = scratch / f"r{number}"
        shutil.copytree(verb.start(inputs), place)
        delay = 0.0 if number % 4 == 0 else rng.uniform(0, 0.8 * usual)
        ends = together([lambda: verb.run(inputs), lambda: verb.run(inputs, again=True)], place, delay=delay)
        found = verb.compare(wanted, facts_of(verb, place))
        for kind in [*judged(ends), *found]:
            kinds[kind] += 1
            examples.setdefault(kind, f"{verb.name} after {delay:.2f} s: {found.get(kind) or ends}")
    return kinds, examples


def _write(worker: int, steps: int) -> None:
    """Add, update and delete; what returned goes into a file of acknowledgements."""
    import pyarrow.parquet as pq

    from tether.core.errors import LockedError
    from tether.tasks.retrieve.store import Store

    store, done = Store.open("store"), []
    for step in range(steps):
        first = 1000 * (worker + 1) + 10 * step
        file = Path(f"rows-{worker}.parquet")
        vectors(file, first, first + 10, seed=step)
        rows = pq.read_table(file).replace_schema_metadata(None)
        for verb in ("add", "delete"):
            for _ in range(600):
                try:
                    store.add(rows) if verb == "add" else store.delete([f"k{first}"])
                    done.append([verb, first])
                    break
                except LockedError:  # refused with the other's name: try again
                    time.sleep(0.05)
    Path(f"done-{worker}.json").write_text(json.dumps(done), encoding="utf-8")


def writes(*, scratch: Path, rounds: int, steps: int = 6) -> tuple[Counter[str], dict[str, str]]:
    """Two writers of one store through Python."""
    kinds, examples = Counter[str](), dict[str, str]()
    verb = VERBS["index merge"]
    forked(lambda: verb.make(Path.cwd()), scratch / "inputs")
    for number in range(rounds):
        place = scratch / f"r{number}"
        shutil.copytree(verb.start(scratch / "inputs"), place)
        ends = together([lambda: _write(0, steps), lambda: _write(1, steps)], place, delay=0.0)
        keys = Counter(key for key, _ in facts_of(verb, place).get("rows", []))
        lost, twice = 300 - sum(keys[f"k{n}"] > 0 for n in range(300)), sum(count > 1 for count in keys.values())
        for worker in range(2):
            answer = place / f"done-{worker}.json"
            for done, first in json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else []:
                wanted = range(first + 1, first + 10) if done == "add" else ()
                lost += sum(not keys[f"k{n}"] for n in wanted) + (done == "delete" and keys[f"k{first}"] > 0)
        found = {"lost": lost, "twice": twice, "first failed": sum(code != 0 for code, _ in ends)}
        kinds.update({kind: count for kind, count in found.items() if count} or {"both ended well": 1})
        for kind in kinds:
            examples.setdefault(kind, f"writes: {found}, {ends}")
    return kinds, examples


def main() -> int:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [*VERBS, WRITES]
    parser.add_argument("--verb", nargs="+", choices=names, default=names, metavar="VERB")
    parser.add_argument("--rounds", type=int, default=8, help="of each verb")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warm()
    rows: list[list[object]] = [["verb", "rounds", *KINDS]]
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.verb:
            folder = Path(scratch) / name
            rng = random.Random(f"{given.seed} {name}")
            if name == WRITES:
                kinds, examples = writes(scratch=folder, rounds=given.rounds)
            else:
                kinds, examples = commands(VERBS[name], scratch=folder, rounds=given.rounds, rng=rng)
            rows.append([name, given.rounds, *[kinds[kind] for kind in KINDS]])
            for kind, example in examples.items():
                if kind not in KINDS[:2]:
                    bad += kinds[kind]
                    print(f"FAILED {kinds[kind]} x {kind}: {example[:1500]}\n", flush=True)
    print(table(rows))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
