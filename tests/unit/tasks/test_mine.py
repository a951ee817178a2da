"""Mining hard negatives: against a loop, the table that comes of it, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data.sources.text_pairs import TextPairsSource
from tether.models.presets import create
from tether.tasks.retrieve.mine import mine_hard_negatives
from tether.workflows.mine import mine

QUERIES, DOCS = [f"q{i}" for i in range(5)], [f"d{i}" for i in range(12)]


def rows(seed: int = 0) -> dict[str, np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(17, 4))
    return dict(zip([*QUERIES, *DOCS], values, strict=True))


ROWS = rows()


def encode(texts):
    return np.stack([ROWS[text] for text in texts])


def cosine(query: str, doc: str) -> float:
    a, b = ROWS[query], ROWS[doc]
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("skip_top", [0, 1, 3])
@pytest.mark.parametrize("margin", [None, 0.1])
@pytest.mark.parametrize("known", [True, False])
def test_a_loop_gives_the_same(skip_top, margin, known):
    own = [[i, i + 5] for i in range(5)] if known else None
    found = mine_hard_negatives(encode, QUERIES, DOCS, k=2, skip_top=skip_top, margin=margin, own=own)
    for number, query in enumerate(QUERIES):
        ranking = sorted(range(12), key=lambda j, q=query: -cosine(q, DOCS[j]))
        best = max(cosine(query, DOCS[j]) for j in (own[number] if own else ranking))
        left = [j for j in ranking if own is None or j not in own[number]][skip_top:]
        left = [j for j in left if margin is None or cosine(query, DOCS[j]) <= best - margin][:2]
        assert found.places[number].tolist() == left
        np.testing.assert_allclose(found.scores[number], [cosine(query, DOCS[j]) for j in left], rtol=1e-5)
        np.testing.assert_allclose(found.mean[number], np.mean([cosine(query, text) for text in DOCS]), atol=1e-6)
        np.testing.assert_allclose(found.own[number], best if own else np.nan, rtol=1e-5)


def test_a_document_with_the_text_of_the_answer_or_of_the_query_is_no_negative():
    docs = [*DOCS, "d3", "q0"]
    found = mine_hard_negatives(encode, ["q0"], docs, k=11, skip_top=0, own=[[3]])
    assert sorted(found.places[0].tolist()) == [i for i in range(12) if i != 3]


@pytest.mark.parametrize("query", ["asked", "near the first"])
def test_neither_the_query_nor_its_answers_are_the_texts_that_are_skipped(query):
    docs = ["own", "near", "far", "farther", "asked"]
    angles = dict(zip([*docs, "near the first"], [0.1, 0.2, 0.3, 0.4, 0.0, 0.0], strict=True))

    def at(texts):
        return np.stack([[np.cos(angles[text]), np.sin(angles[text])] for text in texts])

    settings = {"queries": [query], "docs": docs if query == "asked" else docs[:4], "k": 2}
    found = [mine_hard_negatives(at, own=[[0]], skip_top=skip, **settings).places[0].tolist() for skip in (0, 1)]
    assert found == [[1, 2], [2, 3]]
    unknown = [mine_hard_negatives(at, skip_top=skip, **settings).places[0].tolist() for skip in (0, 1)]
    assert unknown == [[0, 1], [1, 2]]
    margin = np.cos(0.1) - np.cos(0.25)  # of the answer, not of the query itself
    for own in ([[0]], [[0, 4]] if query == "asked" else [[0]], None):
        assert mine_hard_negatives(at, own=own, skip_top=0, margin=margin, **settings).places[0].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 12}, r"query 0 \('q0'\): expected 12 hard negatives, only 11 of 12 documents are left"),
        ({"margin": 5.0}, r"query 0 \('q0'\): expected 2 hard negatives, only 0"),
        ({"queries": ["q0", " "]}, "query 1: expected a text, got an empty one"),
        ({"docs": ["d1", ""]}, "document 1: expected a text, got an empty one"),
        ({"own": [[0]]}, "own: expected places for each of 5 queries, got 1"),
        ({"own": [[12]] * 5}, "own: query 0: expected places of 0 to 11, got 12"),
        ({"docs": []}, "expected queries and documents, got 5 and 0"),
    ],
)
def test_refusals(settings, said):
    with pytest.raises(InputError, match=said):
        mine_hard_negatives(encode, **{"queries": QUERIES, "docs": DOCS, "k": 2, **settings})


def test_captions_of_images_become_a_table_of_pairs_with_negatives_of_other_images(tmp_path):
    table = tmp_path / "captions.csv"
    lines = [f"{image}.jpg,{word} {image}" for image in range(6) for word in ("a", "the", "one")]
    table.write_text("\n".join(["image,caption", *lines, "alone.jpg,alone"]))
    model = create("tiny", seed=0).eval()
    out = tmp_path / "pairs.jsonl"
    done = mine(f"csv:path={table}", model=model, out=out, negatives=3)
    assert done.hardest > done.random
    assert 0 <= done.above <= 1
    assert f"positives {done.positive:.2f}, hardest negatives {done.hardest:.2f}" in done.line()
    assert (done.pairs, done.groups, done.negatives, done.left_out) == (18, 6, 3, 1)
    read = [json.loads(line) for line in out.read_text().splitlines()]
    for line in read:
        image = line["group"].removesuffix(".jpg")
        assert line["query"].endswith(f" {image}")
        assert line["positive"].endswith(f" {image}")
        assert line["query"] != line["positive"]
        assert len(set(line["negatives"])) == 3
        assert not any(text.endswith(f" {image}") for text in line["negatives"])
    source = TextPairsSource(str(out), group="group")
    assert (len(source), source.negatives, len(source.row(0).texts)) == (6, 3, 3)
    again = tmp_path / "again.jsonl"
    assert mine(f"text_pairs:path={out},group=group", model=model, out=again, negatives=3).pairs == 18
    assert again.read_text() == out.read_text()


def test_sources_and_names_that_cannot_be(tmp_path):
    model = create("tiny", seed=0).eval()
    with pytest.raises(InputError, match=r"pairs\.csv: expected a name that ends in \.jsonl"):
        mine("digits", model=model, out=tmp_path / "pairs.csv")
    with pytest.raises(InputError, match="no row has a text pair"):
        mine("digits", model=model, out=tmp_path / "pairs.jsonl")
