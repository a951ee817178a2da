"""Generated pages: what they say, and that checking finds every kind of staleness."""

from __future__ import annotations

import ast
from dataclasses import asdict

import pytest

from tether.core.errors import InputError
from tether.core.markdown import cell, escaped, table
from tether_lab.lab import docs, figures, pages, part_reference, source_index
from tether_lab.lab.card import Card, Claim, Condition
from tether_lab.lab.results import PaperStatus

CARD = Card(
    slug="some-paper",
    title="Some | Paper",
    year=2024,
    arxiv="2401.00001",
    parts=("tether.space.whiten.Whitener",),
    needs=("pairs", "a trained encoder"),
    gives="a space without the gap",
    claim=Claim(
        says="It closes the gap.",
        metric="gap, cosine",
        better="lower",
        margin=0.25,
        baseline="nothing done",
        scale="512 pairs",
        equal="steps",
        conditions=(Condition(says="The norm is kept.", ours="norm", than=1.0, better="higher"),),
    ),
    minutes=2.0,
    guide="no-such-guide.md",
    venue="A Conference",
    code="owner/name",
    differences=("Runs on a small model.",),
    authors=("Ada", "Bell"),
    tried={"Larger steps": "no difference: -0.01"},
)
ASKED = {"says": "The norm is kept.", "ours": "norm", "than": 1.0, "better": "higher", "least": 0.25}
KEPT = ASKED | {"mean": 1.0, "lower": 0.5, "holds": True}
RESULT = {
    "verdict": "reproduced",
    "mean": 0.51239,
    "lower": 0.41239,
    "upper": 0.61239,
    "kind": "better",
    "margin": 0.25,
    "conditions": [KEPT],
    "fresh": {
        "verdict": "in part",
        "mean": 0.3,
        "lower": 0.1,
        "upper": 0.5,
        "conditions": [KEPT | {"holds": False}],
        "seeds": [{"seed": 5, "baseline": 1.2, "ours": 0.9, "notes": {"norm": 0.5}}],
    },
    "seeds": [
        {"seed": 0, "baseline": 1.0, "ours": 0.5, "notes": {"norm": 2.0, "side_figure": 2.0}},
        {"seed": 1, "baseline": 1.1, "ours": 0.6, "notes": {}},
    ],
    "machine": {"processor": "A processor", "cores": 2},
    "versions": {"python": "3.11.7"},
    "wall_seconds": 3.5,
    "cpu_seconds": 3.25,
    "threads": 1,
    "commit": "0123456789ab",
    "measured": "2026-01-02",
    "fingerprint": "f",
    "fixed_before": {"holds": False, "claim": ""},
}
FRESH = PaperStatus(CARD, RESULT)
MOVED = PaperStatus(CARD, RESULT, moved=True)
NEVER = PaperStatus(CARD, None)
PHOTOS = (
    asdict(CARD.claim)
    | RESULT
    | {"says": "On photographs too.", "differs": "the data", "verdict": "not shown", "cpu_seconds": 9.5}
)


def test_the_readme_counts_verdicts():
    assert pages.verdicts([FRESH, MOVED, NEVER]) == "3 papers: 2 reproduced, 1 not run."
    shown = pages.verdicts([PaperStatus(CARD, RESULT, photos=PHOTOS)])
    assert shown == "1 papers: 1 reproduced. 1 are checked on real photographs too: 1 not shown."
    assert pages.verdicts([]) == "0 papers: none is measured yet."


def test_the_index_lists_by_room_needs_and_gives():
    text = pages.index([FRESH])
    for heading in ("## By package\n\n### space", "### pairs", "### a trained encoder", "## By what you get"):
        assert heading in text
    assert "papers/some-paper\n" in text
    for verdict in pages.VERDICTS:
        assert f"**{verdict}**" in text


def test_a_paper_page_holds_claim_seeds_and_circumstances():
    text = pages.paper(FRESH)
    for words in (
        "# Some | Paper",
        "https://arxiv.org/abs/2401.00001",
        "https://github.com/owner/name",
        "`tether.space.whiten.Whitener` in `src/tether/space/whiten.py`",
        "| metric | gap, cosine; lower is better |",
        "| equal on both sides | steps |",
        "**reproduced**: improvement 0.5124 (0.4124 to 0.6124), 0.25 asked; 1 of 1 condition holds ([",
        "2 paired seeds, with one-sided 95 % bounds",
        "| The norm is kept. | 2 | at least 1.25 | 1 (0.5) | holds |",
        "say *in part*: improvement 0.3 (0.1 to 0.5), 0.25 asked; a condition fails: The norm is kept.",
        "| figure | seed 5 | mean |\n| --- | --- | --- |\n| baseline | 1.2 | 1.2 |",
        "- Larger steps. No difference: -0.01.",
        "| ours | 0.5 | 0.6 | 0.55 |",
        "| side figure | 2 |  | 2 |",
        "does not prove that claim",
        "A processor, 2 cores",
        "commit `0123456789ab`",
        "- Runs on a small model.",
    ):
        assert words in text
    assert "How to use it" not in text  # the guide is not there, so nothing may link to it


def test_a_page_shows_the_check_on_photographs_as_it_came_out():
    shown = pages.paper(PaperStatus(CARD, RESULT, photos=PHOTOS)).partition("## On real photographs")[2]
    for words in (
        "On photographs too.",
        "above: the data.",
        "**not shown**: improvement 0.5124 (0.4124 to",
        "9.5 s",
        "| ours | 0.5 | 0.6 | 0.55 |",
    ):
        assert words in shown
    assert "On real photographs" not in pages.paper(FRESH)
    assert "| **not shown**: improvement 0.5124 (0.4124 to 0.6124), 0.25 asked |" in pages.claims(
        [PaperStatus(CARD, RESULT, photos=PHOTOS)]
    )


def test_a_page_says_what_has_moved_or_is_not_run():
    assert "1 of 1 condition holds; figures moved since measured ([what" in pages.paper(MOVED)
    assert "- The norm is kept." in pages.paper(NEVER)
    assert "takes about 2 minutes" in pages.paper(NEVER)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no_worse", "improvement 0.5124 (0.4124 to 0.6124), 0.25 worse allowed"),
        ("property", "0.5124 inside its bound on average"),
    ],
)
def test_other_kinds_of_claims_show_what_they_are_held_against(kind, said):
    assert said in pages.outcome(PaperStatus(CARD, RESULT | {"kind": kind}))


@pytest.mark.parametrize(
    ("than", "better", "least", "asked"),
    [
        (1.0, "higher", 0.25, "at least 1.25"),
        (1.0, "lower", 0.25, "at most 0.75"),
        ("baseline", "lower", -0.5, "at most 1.55"),
        ("ours", "higher", 0.0, "at least 0.55"),
    ],
)
def test_a_condition_says_what_its_figure_must_reach(than, better, least, asked):
    one = KEPT | {"than": than, "better": better, "least": least, "holds": False}
    shown = figures.conditions(RESULT | {"conditions": [one]})
    assert f"| 2 | {asked} | 1 (0.5) | **fails** |" in shown


def test_the_table_of_claims_goes_by_verdict():
    text = pages.claims([NEVER, FRESH])
    assert text.index("## Reproduced") < text.index("## Not run")
    assert "| better | nothing done | steps | improvement 0.5124 (0.4124 to 0.6124), 0.25 asked; 1 of 1" in text
    assert "| 2 | in part: 0.3 |  |" in text
    assert "| better | nothing done | steps |  |  |  |  |" in text


def test_the_bibliography_cites():
    line = pages.bibliography([NEVER])
    assert "Ada, Bell. *Some | Paper*, 2024. A Conference. [arXiv 2401.00001]" in line


def test_cells_stay_on_one_line():
    assert cell("a\n b | c") == r"a b \| c"
    assert table(["x"], [["1"], ["2"]]) == "| x |\n| --- |\n| 1 |\n| 2 |"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("`<b>` and ``a`<b>``", "`<b>` and ``a`<b>``"),
        ("`<b>", "&#96;&lt;b>"),
        (r"\`<b>`", r"\`&lt;b>&#96;"),
        ("` <b> ``", "&#96; &lt;b> &#96;&#96;"),
    ],
)
def test_html_is_shown_and_not_taken(text, shown):
    assert escaped(text) == shown


def test_html_of_a_result_does_not_get_into_a_page():
    bad = "<script>alert(1)</script>"
    result = RESULT | {"conditions": [KEPT | {"says": bad}], "machine": {"processor": bad, "cores": 2}}
    result["fresh"] = RESULT["fresh"] | {"conditions": [KEPT | {"says": bad, "holds": False}]}
    result["seeds"] = [run | {"notes": {bad: 1.0, "norm": 1.0}} for run in RESULT["seeds"]]
    text = pages.paper(PaperStatus(CARD, result, photos=PHOTOS | {"says": bad, "differs": bad}))
    assert "<script" not in text
    assert text.count("&lt;script") == 6


def test_only_the_text_between_the_markers_changes():
    readme = f"# Title\n\n{docs.START}\nold\n{docs.END}\n\nafter\n"
    changed = docs.with_block(readme, "new", where="README.md")
    assert changed == f"# Title\n\n{docs.START}\nnew\n{docs.END}\n\nafter\n"
    assert docs.with_block(changed, "new", where="README.md") == changed


@pytest.mark.parametrize(
    "readme", ["", docs.START, docs.END + docs.START, f"{docs.START}{docs.END}{docs.START}{docs.END}", docs.END * 2]
)
def test_a_readme_without_one_pair_of_markers_is_refused(readme):
    with pytest.raises(InputError, match=r"README\.md: expected one <!-- tether:papers -->"):
        docs.with_block(readme, "new", where="README.md")


def test_check_finds_changed_missing_and_left_over_files(tmp_path):
    wanted = {"docs/gen/a.md": "a\n", "docs/gen/papers/b.md": "b\n", "README.md": "r\n"}
    assert docs.stale(tmp_path, wanted) == sorted(wanted)
    assert docs.write(tmp_path, wanted) == sorted(wanted)
    assert docs.stale(tmp_path, wanted) == []
    assert docs.write(tmp_path, wanted) == []
    (tmp_path / "docs/gen/a.md").write_text("edited by hand\n")
    (tmp_path / "docs/gen/papers/gone.md").write_text("of a paper that was removed\n")
    assert docs.stale(tmp_path, wanted) == ["docs/gen/a.md", "docs/gen/papers/gone.md"]
    docs.write(tmp_path, wanted)
    assert not (tmp_path / "docs/gen/papers/gone.md").exists()
    assert docs.stale(tmp_path, wanted) == []


@pytest.mark.nightly
def test_generating_twice_gives_the_same(tmp_path):
    first = docs.generate(tmp_path, more={"cli.md": "x\n"})
    assert docs.generate(tmp_path, more={"cli.md": "x\n"}) == first
    assert {"docs/gen/papers.md", "docs/gen/parts.md", "docs/gen/cli.md"} <= first.keys()
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in first.values())


class TestMarkers:
    def test_figures_are_brought_up_to_date(self, monkeypatch):
        monkeypatch.setattr(docs, "stored", lambda slug: RESULT if slug == "some-paper" else None)
        text = "mean <!--= some-paper.mean:.2f -->9<!--/-->, <!--= some-paper.verdict -->?<!--/-->; plain 1.5"
        once = docs.filled(text, where="guide.md")
        assert f"-->{RESULT['mean']:.2f}<!--/-->" in once
        assert once.endswith(f"{RESULT['verdict']}<!--/-->; plain 1.5")
        assert docs.filled(once, where="guide.md") == once
        ours = sum(seed["ours"] for seed in RESULT["seeds"]) / len(RESULT["seeds"])
        assert f">{ours:.3f}<" in docs.filled("<!--= some-paper.ours:.3f --><!--/-->", where="guide.md")
        monkeypatch.setattr(docs.real_photos, "stored", lambda: {"some-paper": {"verdict": "not shown"}})
        assert ">not shown<" in docs.filled("<!--= some-paper.on_photographs --><!--/-->", where="guide.md")

    @pytest.mark.parametrize(
        "key",
        [
            "some-paper.men",
            "some-paper.on_photographs",
            "some-paper.notes.gone",
            "some-paper.mean:q",
            "other.mean",
            "x",
        ],
    )
    def test_a_marker_without_a_figure_is_refused(self, monkeypatch, key):
        monkeypatch.setattr(docs, "stored", lambda slug: RESULT if slug == "some-paper" else None)
        with pytest.raises(InputError, match=r"guide\.md: marker"):
            docs.filled(f"<!--= {key} --><!--/-->", where="guide.md")

    def test_the_readme_the_guides_and_the_methods_are_committed(self, repository):
        wanted = docs.committed(repository)
        assert "README.md" in wanted
        assert all(name == "README.md" or name.startswith(("docs/guides/", "src/tether/methods/")) for name in wanted)
        assert docs.stale(repository, wanted) == []


def test_every_mapping_of_parts_is_in_the_reference_and_nothing_else():
    """A public mapping from names to classes is a ``Registry``."""
    found = {registry.dotted for registry in part_reference.registries()}
    public = {
        f"{source_index.dotted(path)}.{node.target.id}"
        for path in source_index.PACKAGE.rglob("*.py")
        if "type[" in path.read_text(encoding="utf-8")
        for node in source_index.tree(path).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if "[str, type[" in ast.unparse(node.annotation) and not node.target.id.startswith("_")
    }
    assert public == set()
    assert {"tether.tasks.classify.CLASSIFIER_HEADS", "tether.data.augment.AUGMENTATIONS"} <= found
    assert not [name for name in found if name.startswith("tether_lab") or name.endswith(".PICKS")]


@pytest.mark.parametrize("registry", part_reference.registries(), ids=lambda registry: registry.dotted)
def test_every_part_has_a_signature_and_a_sentence(registry):
    for name, part in registry.parts().items():
        assert part_reference.signature(part).startswith(f"{part.__name__}("), name
        assert "*args" not in part_reference.signature(part), name
        assert len(part_reference.first_line(part)) > 10, f"{registry.dotted}[{name!r}] has no docstring"


def test_a_signature_without_fixed_text_is_refused():
    class Odd:
        def __init__(self, *, key: object = object()) -> None: ...

    with pytest.raises(InputError, match="no fixed text"):
        part_reference.signature(Odd)
