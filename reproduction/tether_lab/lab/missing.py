"""What a paper still lacks before it is done, in words; what is wrong the tests say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tether.core.atomic_io import read_json
from tether.core.fingerprint import PACKAGE
from tether.core.method_files import FILE, read_method
from tether_lab.lab import source_index
from tether_lab.lab.card import Card
from tether_lab.lab.smoke_record import stored_record
from tether_lab.papers import card as find_card
from tether_lab.stability.guide import RESULT

UNFILLED = "TO FILL IN"
"""Stands in a new paper's files wherever a person must write."""
BENCHED = ("clippers", "optimizers")
"""Registries whose every member stands in the stability bench."""


def missing(slug: str) -> list[str]:
    """What a paper lacks, one line each, in the order in which it is best done.

    Raises:
        InputError: no such paper, or no checkout.
    """
    card, root = find_card(slug), source_index.need_checkout("saying what a paper lacks")
    return [*_unfilled(root, slug), *_facts(card), *_measured(card, root), *_told(card, root)]


def files_of(root: Path, slug: str) -> list[Path]:
    """The text files of a paper: its part, its tests and its study."""
    stem = slug.replace("-", "_")
    folders = (PACKAGE / "methods" / stem, root / "tests" / "methods" / stem, source_index.card_path(slug).parent)
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".toml")]
    golden = root / "tests" / "golden" / f"test_{stem}.py"
    return [*found, golden] if golden.is_file() else found


def _unfilled(root: Path, slug: str) -> Iterator[str]:
    for path in files_of(root, slug):
        lines = path.read_text(encoding="utf-8").splitlines()
        if places := [str(number) for number, line in enumerate(lines, start=1) if UNFILLED in line]:
            yield f"{source_index.shown(path)}: {UNFILLED} in line {', '.join(places)}"


def _facts(card: Card) -> Iterator[str]:
    if not 1990 <= card.year <= 2100:
        yield f"{FILE}: the year"
    if not card.arxiv and not card.code:
        yield f"{FILE}: arxiv, or code as owner/name"
    texts = [source_index.part_place(part).path.read_text(encoding="utf-8") for part in card.parts]
    if card.arxiv and not any(card.arxiv in text for text in texts):
        yield f"no part names {card.arxiv} as its source"
    if card.claim.kind != "property" and card.claim.margin <= 0:
        yield "study: a margin above 0"
    if card.minutes <= 0:
        yield "study: the minutes that all seeds take"


def _measured(card: Card, root: Path) -> Iterator[str]:
    if not source_index.test_places(card):
        yield "no test imports its parts"
    if source_index.vector_path(card.slug) is None:
        yield f"no figures of the official code, tests/golden/vectors/{card.slug}.npz; none need be where there is none"
    if not source_index.result_path(card.slug).is_file():
        yield f"no result: commit the claim, then tether-lab reproduce {card.slug}, and commit its result.json"
    elif (record := stored_record()) and card.slug not in record["papers"]:
        yield f"its short trial is not on record: tether-lab reproduce {card.slug} --smoke --record"
    method = PACKAGE / "methods" / card.slug.replace("-", "_") / FILE
    benched = {name for kind, name, _ in read_method(method, package="").registered() if kind in BENCHED} - read_json(
        root / RESULT
    )["guards"].keys()
    if benched:
        yield f"{', '.join(sorted(benched))} in no row of the bench: tether-lab bench stability --publish, two minutes"


def _told(card: Card, root: Path) -> Iterator[str]:
    names = {card.slug, card.arxiv, *(part.rpartition(".")[2] for part in card.parts)} - {""}
    named = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, sorted(names)))})(?!\w)")
    guide = source_index.guide_path(card)
    if guide is None or not named.search(guide.read_text(encoding="utf-8")):
        yield f"docs/guides/{card.guide} names neither the paper nor its parts: when to use it, what it costs, figures"
    if not source_index.result_path(card.slug).is_file() and not named.search(
        (root / "CHANGELOG.md").read_text("utf-8")
    ):
        yield "CHANGELOG.md has no line on it"
