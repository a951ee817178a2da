"""Kills of train, curate, embed and index at file-system calls and at moments; what is lost, twice or refused after.

    python scripts/robustness/kills.py [--verb train ...] [--kills 100] [--seed 0] [--keep FOLDER]

Each trial runs a verb in a forked process that is killed: just before its n-th call that changes files (an audit hook
counts them), at the n-th change that is seen in its folder (which covers writers that Python cannot see), or at a
moment drawn from its usual duration, some by SIGTERM or SIGINT. Then the same command runs to its end, in a fifth of
the trials after a second kill, and what it leaves is compared with a run that nobody disturbed. What stands in the
folder after the kill is looked at too: a store that opens must be the old or the new one, whole. Ends with 1 when
anything is lost, twice, different, refused or left behind. About two seconds a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common import table, warm
from verbs import VERBS, Verb

_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
_LIMIT = 120.0  # seconds that a run may take before it counts as blocked
_FORKING = threading.Lock()  # filelock's audit hook refuses a fork while another thread forks


@dataclass(frozen=True, slots=True)
class Kill:
    """When and how: ``call`` and ``change`` count from 1, a ``moment`` is a share of the usual duration."""

    kind: str
    at: float
    number: int = signal.SIGKILL

    def __str__(self) -> str:
        """As it is printed."""
        return f"{signal.Signals(self.number).name} at {self.kind} {self.at:.4g}"


@dataclass
class Seen:
    """What came of one verb's kills."""

    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """Count a fault and remember its first example."""
        self.faults[kind] += 1
        self.examples.setdefault(kind, example)


def forked(
    call: Callable[[], object], place: Path, *, kill: Kill | None = None, usual: float = 1.0, said: Path | None = None
) -> tuple[int, str]:
    """Run a call in a process of its own, with this folder as the one it works in.

    Args:
        call: what runs.
        place: the folder.
        kill: when to kill it.
        usual: seconds that it takes undisturbed.
        said: the file for what it prints; None takes one beside the folder.

    Returns:
        Exit code (negative for a signal; 124 for one that had to be ended), and what it printed.
    """
    place.mkdir(parents=True, exist_ok=True)
    said = said or place.with_name(f"{place.name}.said")
    said.write_bytes(b"")
    with _FORKING:
        pid = os.fork()
    if not pid:
        _in_child(call, place, said, kill)
    began, changes, before = time.monotonic(), 0, _listing(place)
    status = 0
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        passed = time.monotonic() - began
        if kill is not None and kill.kind == "change":
            now = _listing(place)
            changes, before = changes + (now != before), now
        if kill is not None and kill.kind == "change" and changes >= kill.at:
            _end(pid, kill.number)
            kill = None
        if kill is not None and kill.kind == "moment" and passed > kill.at * usual:
            _end(pid, kill.number)
            kill = None
        if passed > _LIMIT:
            _end(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 124, said.read_text(encoding="utf-8", errors="replace")
        time.sleep(0.005 if kill is None else 0.0002 if kill.kind == "change" else 0.001)
    return os.waitstatus_to_exitcode(status), said.read_text(encoding="utf-8", errors="replace")


def _end(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except OSError:
        os.kill(pid, number)


def _in_child(call: Callable[[], object], place: Path, said: Path, kill: Kill | None) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(place)
        if kill is not None and kill.kind in ("call", "count"):
            _kill_at_call(int(kill.at), number=kill.number)
        call()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        if kill is not None and kill.kind == "count":
            said.write_text(str(COUNTED[0]), encoding="utf-8")
        os._exit(code)


COUNTED = [0]


def _kill_at_call(last: int, *, number: int) -> None:
    """Kill this process just before its ``last``-th call that changes files where it works."""
    here = str(Path.cwd())

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event == "open":
            writes = isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes:
                return
        elif event not in _CHANGES:
            return
        path = os.fsdecode(given[0]) if isinstance(given[0], (str, bytes, os.PathLike)) else ""
        if path.startswith("/") and not path.startswith(here):
            return
        COUNTED[0] += 1
        if COUNTED[0] == last:
            os.kill(os.getpid(), number)

    def flush(number: int, real: Callable[[int], None] = os.fsync) -> None:
        hook("os.rename", ("",))
        real(number)

    os.fsync = flush
    sys.addaudithook(hook)


def _listing(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of everything below a folder."""
    found: list[tuple[str, int]] = []
    stack = [str(folder)]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    found.append((entry.path, entry.stat(follow_symlinks=False).st_size))
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
        except OSError:  # it went away meanwhile
            continue
    return found


def plan(*, kills: int, calls: int, rng: random.Random) -> Iterator[Kill]:
    """Half at calls, spread evenly; then changes and moments in turn, two fifths of the moments by gentler signals."""
    first = min(calls, kills // 2)
    for n in range(first):
        yield Kill("call", 1 + n * calls // first)
    for n in range(2 * (kills - first)):  # some come too late
        yield Kill("change", 1 + n // 2 if n < 40 else rng.randint(1, 40))
        number = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL)[n % 5]
        yield Kill("moment", rng.uniform(0.02, 0.98), number)


def disturb(verb: Verb, *, inputs: Path, scratch: Path, kills: int, seed: int) -> Seen:
    """Kill a verb again and again."""
    rng, seen = random.Random(f"{seed} {verb.name}"), Seen()
    whole = scratch / "whole"
    shutil.copytree(verb.start(inputs), whole)
    began = time.monotonic()
    code, said = forked(lambda: verb.run(inputs), whole)
    usual = time.monotonic() - began
    if code:
        raise SystemExit(f"{verb.name}: the undisturbed run ended with {code}: {said[-2000:]}")
    wanted = facts_of(verb, whole)
    counted = scratch / "counted"
    shutil.copytree(verb.start(inputs), counted)
    _, calls = forked(lambda: verb.run(inputs), counted, kill=Kill("count", 0))
    if difference := verb.compare(wanted, facts_of(verb, counted)):
        raise SystemExit(f"{verb.name}: two undisturbed runs differ: {difference}")
    for number, kill in enumerate(plan(kills=kills, calls=int(calls), rng=rng)):
        if seen.kills == kills:
            break
        place = scratch / f"k{number}"
        shutil.copytree(verb.start(inputs), place)
        _trial(verb, kill, place, inputs=inputs, wanted=wanted, usual=usual, rng=rng, seen=seen)
        shutil.rmtree(place, ignore_errors=True)
    return seen


def _trial(
    verb: Verb, kill: Kill, place: Path, *, inputs: Path, wanted: dict, usual: float, rng: random.Random, seen: Seen
) -> None:
    said_so: list[str] = []

    def fault(kind: str, what: str) -> None:
        said_so.append(kind)
        seen.add(kind, f"{verb.name}, {kill}: {what.strip()[-400:]}")

    code, said = forked(lambda: verb.run(inputs), place, kill=kill, usual=usual)
    if code == 0:
        return  # it was over before
    seen.kills += 1
    if "Traceback" in said:
        fault("traceback", said)
    if code not in (130, -kill.number):
        fault("other exit", f"{code}: {said}")
    if rng.random() < 0.2:
        forked(lambda: verb.run(inputs, again=True), place, kill=Kill("moment", rng.random()), usual=usual)
    answer = place.with_name("between.json")
    code, said = forked(lambda: answer.write_text(json.dumps(verb.between(wanted)), encoding="utf-8"), place)
    if code:
        fault("unreadable between", said)
    elif between := json.loads(answer.read_text(encoding="utf-8")):
        fault("wrong between", between)
    code, said = forked(lambda: verb.run(inputs, again=True), place)
    if code == 124:
        fault("blocked", said)
    elif code and not (code == 2 and verb.may_refuse and not verb.compare(wanted, facts_of(verb, place))):
        fault("refused", said)
    if code in (0, 2):
        for kind, what in verb.compare(wanted, facts_of(verb, place)).items():
            if not (code and said_so):
                fault(kind, what)
        left = [path for path, _ in _listing(place) if verb.is_leftover(Path(path))]
        if left and not code:
            fault("left behind", ", ".join(left))


def facts_of(verb: Verb, place: Path) -> dict:
    """What a run left, read in another process, since the libraries that read it have threads."""
    answer = place.with_name("facts.json")
    answer.unlink(missing_ok=True)
    code, said = forked(lambda: answer.write_text(json.dumps(verb.facts()), encoding="utf-8"), place)
    return json.loads(answer.read_text(encoding="utf-8")) if not code else {"unreadable": said.strip()[-400:]}


def main() -> int:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--verb", nargs="+", choices=list(VERBS), default=list(VERBS), metavar="VERB")
    parser.add_argument("--kills", type=int, default=100, help="of each verb")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warm()
    kinds = ["refused", "lost", "twice", "different", "wrong between", "left behind", "blocked"]
    rows: list[list[object]] = [["verb", "kills", *kinds, "other", "s"]]
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.verb:
            verb, folder, began = VERBS[name], Path(scratch) / name, time.monotonic()
            code, said = forked(lambda verb=verb: verb.make(Path.cwd()), folder / "inputs")
            if code:
                raise SystemExit(f"{name}: inputs could not be made: {said}")
            seen = disturb(verb, inputs=folder / "inputs", scratch=folder, kills=given.kills, seed=given.seed)
            other = sum(count for kind, count in seen.faults.items() if kind not in kinds)
            took = time.monotonic() - began
            rows.append([name, seen.kills, *[seen.faults[kind] for kind in kinds], other, round(took)])
            bad += seen.faults.total()
            for kind, example in seen.examples.items():
                print(f"FAILED {seen.faults[kind]} x {kind}: {example}\n", flush=True)
    print(table(rows))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
