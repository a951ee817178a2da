"""Recipes: a YAML list of steps, each a name with its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.yaml_files import read_yaml
from tether.data.curate import CURATORS
from tether.data.curate.engine.step import RecipeStep
from tether.data.curate.metaclip.metadata import NgramCounts
from tether.data.curate.pools.pool import Pool, explode

AUTO = "auto"
"""Said instead of a list of entries: the pool's own words."""
Spec = str | dict[str, Any]


def read_specs(path: Path) -> list[Spec]:
    """The steps of a file such as ``steps: [{name: metaclip, entries: words.txt, t: 20}]``, as they are written.

    Raises:
        InputError: not YAML, or no ``steps``; it names the file.
    """
    given = read_yaml(path)
    if not isinstance(given, dict) or set(given) != {"steps"} or not isinstance(given["steps"], list):
        raise InputError(f"{path}: expected one key, 'steps', with a list")
    return given["steps"]


def read_recipe(
    path: Path,
    *,
    parts: Mapping[str, type[RecipeStep]] = CURATORS,
    entries: Callable[[], Path] | None = None,
) -> list[tuple[str, RecipeStep]]:
    """The steps of a recipe, built; of steps with one name the second is called ``name (2)``, and so on.

    Paths in it are taken from where the command runs, as in every other place.

    Args:
        path: a YAML file.
        parts: steps by name.
        entries: makes the file that stands for ``entries: auto``, once every other setting was found to be good;
            without it, that word is refused.

    Raises:
        InputError: as ``read_specs``, or an unknown step, key or value; it names the file and the step.
    """
    steps: list[tuple[str, RecipeStep]] = []
    automatic: list[tuple[int, dict[str, Any], str]] = []
    seen: Counter[str] = Counter()
    for number, spec in enumerate(read_specs(path)):
        where = f"{path}: steps[{number}]"
        name = str(spec if isinstance(spec, str) else spec.get("name") if isinstance(spec, dict) else None)
        if isinstance(spec, dict) and spec.get("entries") == AUTO:
            if entries is None:
                raise InputError(f"{where}: 'entries: auto' needs a pool, which is not given here")
            automatic.append((number, spec, where))
            spec = {**spec, "entries": ["a"]}
        seen[name] += 1
        named = name if seen[name] == 1 else f"{name} ({seen[name]})"
        steps.append((named, build(spec, parts, where=where)))
    for number, spec, where in automatic:
        assert entries is not None
        steps[number] = steps[number][0], build({**spec, "entries": str(entries())}, parts, where=where)
    return steps


def entries_of(
    pool: Pool, *, limit: int, minimum: int, minimum_pmi: float, on_progress: Callable[[int, int | None], None]
) -> list[str]:
    """Metadata built from the pool's own captions: its frequent words, then its collocations.

    Raises:
        InputError: no captions, or no word of theirs is frequent enough.
    """
    counts, good, captions = NgramCounts(), 0, 0
    bad: list[tuple[str, str]] = []
    for piece in range(pool.pieces()):
        for rows in pool.read(piece, columns="captions"):
            texts = explode(rows)[0].column("text")
            counts.partial_fit(texts)
            good, captions = good + len(rows.keys), captions + len(texts) - texts.null_count
            bad = bad or list(rows.bad[:1])
        on_progress(piece + 1, pool.pieces())
    if not captions:
        first = f"; of rows that cannot be used the first is {bad[0][0]}: {bad[0][1]}" if bad else ""
        raise InputError(f"{pool.name}: none of {good:,} rows that can be used has a caption{first}")
    return counts.entries(limit=limit, minimum=minimum, minimum_pmi=minimum_pmi)
