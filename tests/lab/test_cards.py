"""What every card promises: its parts are there, its guide exists, its result follows from its own numbers."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.core.method_files import FILE, FOLDER, method_files
from tether_lab.lab import history, real_photos, smoke_record, source_index
from tether_lab.lab.card import Card
from tether_lab.lab.method_text import brought_up_to_date
from tether_lab.lab.results import PaperStatus, rows
from tether_lab.lab.stored_result import stored
from tether_lab.papers import CARDS, LISTED, Cards, card, module
from tether_lab.stability.guide import RESULT

SLUGS = list(CARDS)
UNFILLED = "TO FILL IN"
"""Stands in a skeleton wherever a person must write."""


def every_text(one: Card) -> list[str]:
    claim = one.claim
    return [one.title, one.gives, *one.needs, *one.differences, claim.says, claim.metric, claim.baseline, claim.scale]


def test_there_are_cards_and_each_file_is_one_of_them():
    assert SLUGS
    assert sorted(SLUGS) == SLUGS == LISTED.read_text().split()


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([*SLUGS, "zzz-lost"], r"slugs\.txt names zzz-lost, of which .*papers has no card"),
        (SLUGS[1:], rf"papers has cards of {SLUGS[0]}, which .*slugs\.txt does not name"),
    ],
)
def test_no_listing_passes_over_a_paper_that_vanished_or_is_on_no_list(listed, said, tmp_path):
    (tmp_path / "slugs.txt").write_text("\n".join(listed))
    cards = Cards(listed=tmp_path / "slugs.txt")
    assert SLUGS[1] in cards
    for ask in (list, len):
        with pytest.raises(InputError, match=said):
            ask(cards)


def test_every_method_has_a_card():
    assert [one.slug for one in method_files() if one.package.startswith("tether.methods.")] == SLUGS


def test_finding_and_reading_every_card_imports_nothing_heavy():
    code = (
        "import sys; from tether_lab.papers import CARDS; dict(CARDS); heavy ="
        " {'torch', 'numpy', 'sklearn', 'pyarrow', 'pydantic', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@functools.cache
def _statuses() -> dict[str, PaperStatus]:
    return {row.card.slug: row for row in rows()}


@pytest.mark.parametrize("slug", SLUGS)
class TestCard:
    def test_slug_is_the_folder_s_name(self, slug):
        assert card(slug).slug == slug
        assert Path(str(module(slug).__file__)).parent.name == slug.replace("-", "_")

    def test_facts_are_filled_in(self, slug):
        one = card(slug)
        assert (source_index.PACKAGE / one.package).is_dir()
        assert 1990 <= one.year <= 2100
        assert re.fullmatch(r"(\d{4}\.\d{4,5})?", one.arxiv)
        assert re.fullmatch(r"([\w.-]+/[\w.-]+)?", one.code)
        assert one.needs
        assert one.minutes > 0
        assert all(text and text == text.strip() for text in every_text(one))
        assert not any(UNFILLED in text for text in every_text(one))

    def test_claim_can_be_missed(self, slug):
        claim = card(slug).claim
        assert claim.better in ("higher", "lower")
        assert (claim.margin > 0) == (claim.kind != "property")

    def test_parts_are_there_and_found_without_import(self, slug):
        assert card(slug).parts
        for part in card(slug).parts:
            home, _, name = part.rpartition(".")
            found = getattr(importlib.import_module(home), name)
            place = source_index.part_place(part)
            assert inspect.isclass(found) or inspect.isfunction(found), part
            assert place.path.samefile(inspect.getfile(inspect.unwrap(found)))
            assert re.search(
                rf"\b{found.__name__}\b", place.path.read_text(encoding="utf-8").splitlines()[place.line - 1]
            )

    def test_its_method_says_what_each_part_does(self, slug):
        text = (FOLDER / slug.replace("-", "_") / FILE).read_text(encoding="utf-8")
        assert brought_up_to_date(text, _statuses()[slug]) == text, "run: tether-lab docs --write"
        parts = tomllib.loads(text)["parts"]
        assert tuple(parts) == card(slug).parts
        assert all(parts.values())

    def test_parts_say_where_they_come_from(self, slug):
        if not card(slug).arxiv:
            pytest.skip("a paper without an arXiv id")
        texts = [source_index.part_place(part).path.read_text(encoding="utf-8") for part in card(slug).parts]
        assert any(card(slug).arxiv in text for text in texts)

    def test_guide_exists_and_names_the_paper(self, slug):
        guide = source_index.guide_path(card(slug))
        assert guide is not None, f"docs/guides/{card(slug).guide} is not there"
        assert len(guide.read_text(encoding="utf-8").split()) > 50

    def test_tests_are_there(self, slug):
        assert source_index.test_places(card(slug))

    def test_result_is_whole_and_its_verdict_computed(self, slug):
        path = source_index.result_path(slug)
        assert path is not None
        if not path.is_file():
            pytest.skip(f"{slug} is not measured yet")  # its claim is committed before its first run
        assert stored(slug) == read_json(path)


@pytest.mark.parametrize("latest", [1, pytest.param(None, marks=pytest.mark.nightly)], ids=["latest", "all"])
def test_every_seed_was_measured_from_source_of_its_results_fingerprint(latest):
    """So no result was carried over to other code than the commits of its seeds have: of the latest commit, of all."""
    root = source_index.need_checkout("this test")
    asked = ["git", "-C", str(root), "rev-parse", "--is-shallow-repository"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if answer != "false":
        pytest.skip("no whole history here")  # a shallow clone, or source without git: the commits cannot be read
    results = [result for slug in SLUGS if (result := stored(slug))]
    runs = [(run["commit"], result) for result in results for run in _runs(result)]
    names = sorted({name for name, _ in runs})
    if latest:
        newest = subprocess.run(
            ["git", "-C", str(root), "log", "--no-walk=sorted", "--abbrev=12", "--format=%h", f"-{latest}", *names],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        names = newest.stdout.split()
        assert len(names) == latest
    for name in names:
        with history.fingerprints_at(name) as fingerprint:
            for slug, expected in {(result["slug"], result["fingerprint"]) for at, result in runs if at == name}:
                assert fingerprint(slug) == expected, f"{slug} at {name}"


def test_fingerprints_of_today_s_layout_are_found():
    source_index.need_checkout("this test")
    with history.fingerprints_at("HEAD") as fingerprint:
        assert re.fullmatch(r"[0-9a-f]{24}", fingerprint("zclip"))
        assert fingerprint("zclip") != fingerprint("alignclip")


def _runs(result):
    return [*result["seeds"], *(result["fresh"]["seeds"] if result["fresh"] else [])]


def test_every_result_belongs_to_a_card_or_a_bench():
    benches = {Path(RESULT).stem, Path(real_photos.FILE).stem, "curated-training", Path(smoke_record.FILE).stem}
    assert {path.stem for path in source_index.results_folder().glob("*.json")} == benches
    stems = {path.parent.name.replace("_", "-") for path in source_index.LAB.glob("papers/*/result.json")}
    assert stems <= set(SLUGS)
