"""Which test sets lie in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.printable import encodable
from tether.data.suites.choices import (
    ARO,
    ARO_ORDERS,
    SUGARCREPE,
    ChoiceSet,
    aro,
    aro_order,
    is_pairs,
    sugarcrepe,
    winoground_lines,
    winoground_parquet,
)
from tether.data.suites.shards import COUNT, KIND, NAMES, ShardSet

SuiteSet = ShardSet | ChoiceSet
DEPTH = 4
"""Folders below the suite's that are looked into, such as ``wds/vtab/cifar10``."""


def find_sets(folder: str | Path) -> list[SuiteSet]:
    """Every test set in a folder and below it, by name; each is opened, none of its images read.

    A set of clip_benchmark is a folder with ``test/nshards.txt``; SugarCrepe's are ``swap_obj.json`` and so on beside
    ``val2017/``, ARO's ``visual_genome_relation.json`` and ``visual_genome_attribution.json`` beside ``images/``, and
    its ``coco_order.json`` and ``flickr30k_order.json`` (see ``choices.aro_order``), Winoground's ``examples.jsonl``
    beside ``images/`` or parquet files with its columns.

    Args:
        folder: of the suite, or of one set.

    Raises:
        InputError: no such folder, no set in it, or one that is not whole: the file is named.
    """
    root = local(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = list(_below(root, name="", depth=DEPTH))
    if not found:
        raise InputError(
            f"{folder}: no test set in it; expected folders with test/{COUNT} (clip_benchmark's WebDataset layout), or "
            f"the files of SugarCrepe, Winoground or ARO"
        )
    return found


def _below(folder: Path, *, name: str, depth: int) -> Iterator[SuiteSet]:
    def called(part: str = "") -> str:
        return encodable("/".join(filter(None, [name or folder.resolve().name, part])))

    if (folder / "test" / COUNT).is_file() or (folder / KIND).is_file() or (folder / NAMES).is_file():
        yield ShardSet.open(folder, name=called())
        return
    for each in SUGARCREPE:
        if (folder / f"{each}.json").is_file():
            yield sugarcrepe(folder / f"{each}.json", name=called(each))
    for each in ARO:
        if (folder / f"{each}.json").is_file():
            yield aro(folder / f"{each}.json", name=called(each))
    for each in ARO_ORDERS:
        if (folder / f"{each}.json").is_file():
            yield aro_order(folder / f"{each}.json", name=called(each))
    if (folder / "examples.jsonl").is_file():
        yield winoground_lines(folder / "examples.jsonl", name=called())
        return
    tables = sorted(folder.glob("*.parquet"))
    if tables and is_pairs(tables[0]):
        yield winoground_parquet(tables, name=called())
        return
    if depth:
        for each in sorted(folder.iterdir()):
            if each.is_dir() and not each.name.startswith("."):
                yield from _below(each, name="/".join(filter(None, [name, each.name])), depth=depth - 1)
