"""What code that is moved must leave as it is: compare the checkout with the record, or write the record anew.

python scripts/invariants.py            exit code 1 where something differs, with each difference
python scripts/invariants.py --write    write scripts/invariants.json; a commit then shows what it changed

The record holds the names in every registry and their classes, the dotted names that documents use, the number of tests
in each file, the data files of both packages, and what is known of each paper's claim.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_json
from tether_lab.lab import part_reference
from tether_lab.lab.stored_result import asked, fixed_before, stored
from tether_lab.papers import CARDS

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
DOCUMENTED = re.compile(r"(?<![\w./-])(tether(?:_lab)?(?:\.[A-Za-z_]\w*)+)")


def registries() -> dict[str, dict[str, str]]:
    """Registry to name to class."""
    return {
        one.dotted: {name: part.__name__ for name, part in one.parts().items()} for one in part_reference.registries()
    }


def documented() -> list[str]:
    """The dotted names that stand in the documents, and in what ``from tether... import`` of them brings."""
    found = set()
    for path in _tracked("*.md", "docs/*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(DOCUMENTED.findall(text))
        for module, names in re.findall(r"^\s*from (tether[\w.]*) import ([\w, ]+)$", text, flags=re.MULTILINE):
            found |= {f"{module}.{name.split(' as ')[0].strip()}" for name in names.split(",")}
    return sorted(filter(_resolves, found))


def tests() -> dict[str, int]:
    """Number of collected tests by file."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pytest could not collect:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    files = (line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line)
    return dict(sorted(Counter(files).items()))


def data_files() -> list[str]:
    """Files of the packages and of their results that are no Python."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in _tracked("src", "reproduction")
        if path.suffix not in (".py", ".typed")
    ]


def claims() -> dict[str, dict[str, Any]]:
    """Of each paper a digest of its claim, and the facts of its result."""
    found = {}
    for slug, card in CARDS.items():
        result = stored(slug)
        claim = hashlib.sha256(json.dumps(asked(card.claim), sort_keys=True).encode()).hexdigest()[:16]
        facts = ("verdict", "mean", "lower", "upper", "commit", "measured")
        found[slug] = {"claim": claim} | (
            {name: result[name] for name in facts} | {"fixed_before": fixed_before(result)} if result else {}
        )
    return found


GROUPS = {one.__name__: one for one in (registries, documented, tests, data_files, claims)}


def differences(before: Any, now: Any, *, where: str) -> Iterator[str]:
    """Each leaf of plain values that is another than before, in words."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted(before.keys() | now.keys()):
            yield from differences(before.get(name), now.get(name), where=f"{where}: {name}")
    elif isinstance(before, list) and isinstance(now, list):
        yield from (f"{where}: {name!r} is gone" for name in sorted(set(before) - set(now)))
        yield from (f"{where}: {name!r} is new" for name in sorted(set(now) - set(before)))
    elif before != now:
        yield f"{where}: was {before!r}, is {now!r}"


def main() -> None:
    """Compare or write."""
    reader = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    reader.add_argument("--write", action="store_true", help="write the record instead of comparing with it")
    reader.add_argument("--only", choices=GROUPS, action="append", help="look at this group alone")
    asked_for = reader.parse_args()
    names = asked_for.only or list(GROUPS)
    now = {name: GROUPS[name]() for name in names}
    before = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    found = [line for name in names for line in differences(before.get(name), now[name], where=name)]
    print("\n".join(found) or f"as on record: {', '.join(names)}")
    if asked_for.write:
        write_json(RECORD, before | now)
    elif found:
        raise SystemExit(1)


def _tracked(*patterns: str) -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", *patterns]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names]


def _resolves(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


if __name__ == "__main__":
    main()
