"""Several sources as one; images that evaluation sets hold too; how long captions are."""

import io
from collections import Counter

import pytest
import torch
from PIL import Image

from tether.core.errors import InputError
from tether.core.types import Block, Row
from tether.data import open_source
from tether.data.captions import caption_lengths
from tether.data.sources.mixture import MixtureSource, mix, mixed_counts
from tether.methods.scientific_papers import decontaminate
from tether.methods.scientific_papers.contamination import THRESHOLD


class Listed:
    """Rows in memory, in blocks of 7, which say how long they are or do not."""

    def __init__(self, name: str, count: int, *, tells: bool = True) -> None:
        self.name, self.version, self.count, self.tells = name, "1", count, tells
        self.reads = 0

    def blocks(self):
        rows = range(0, self.count, 7)
        return [Block(str(at), min(7, self.count - at) if self.tells else None) for at in rows]

    def read(self, block, *, start=0):
        self.reads += 1
        first = int(block.id)
        for number in range(first + start, min(first + 7, self.count)):
            yield Row(f"r{number}", None, (f"{self.name} {number}",), {"number": number})


def rows_of(source):
    return [row for block in source.blocks() for row in source.read(block)]


@pytest.mark.parametrize("tells", [True, False])
def test_the_union_holds_every_row_once(tells):
    mixture = mix([Listed("web", 86, tells=tells), Listed("arxiv", 8), Listed("pmc", 6, tells=tells)])
    rows = rows_of(mixture)
    assert mixture.counts == [86, 8, 6]
    assert len(mixture) == len(rows) == len({row.key for row in rows}) == 100
    assert sorted(row.texts[0] for row in rows) == sorted(
        f"{name} {number}" for name, count in (("web", 86), ("arxiv", 8), ("pmc", 6)) for number in range(count)
    )
    assert {row.meta["part"] for row in rows} == {"web", "arxiv", "pmc"}
    parts = [row.meta["part"] for row in rows]
    assert parts != sorted(parts, reverse=True)  # mixed, not one after the other
    assert [row.meta["number"] for row in rows if row.meta["part"] == "web"] == list(range(86))


def test_proportions_are_exact_to_a_row():
    mixture = mix([Listed("a", 500), Listed("b", 40), Listed("c", 9)], weights=(0.86, 0.08, 0.06), rows=1000)
    assert mixture.counts == [860, 80, 60]
    rows = rows_of(mixture)
    assert Counter(row.meta["part"] for row in rows) == {"a": 860, "b": 80, "c": 60}
    assert len({row.key for row in rows}) == 1000
    assert {row.key for row in rows if row.key.endswith("#7")} == {f"2/r{number}#7" for number in range(6)}
    for start in range(0, 1000, 250):
        share = sum(row.meta["part"] == "a" for row in rows[start : start + 250]) / 250
        assert abs(share - 0.86) < 0.08


def test_any_place_can_be_read_from(monkeypatch):
    monkeypatch.setattr("tether.data.sources.mixture._BLOCK_ROWS", 64)
    mixture = mix([Listed("a", 100), Listed("b", 13)], weights=(1.0, 1.0), rows=300)
    assert len(mixture.blocks()) == 5
    keys = [row.key for row in rows_of(mixture)]
    assert len(set(keys)) == 300
    for index, block in enumerate(mixture.blocks()):
        for start in (0, 1, 40):
            found = [row.key for row in mixture.read(block, start=start)]
            assert found == keys[64 * index + start : 64 * (index + 1)]
    with pytest.raises(InputError, match="no block"):
        next(mixture.read(Block("7")))


def test_the_seed_changes_the_order_alone():
    sources = [Listed("a", 50), Listed("b", 50)]
    one, same, other = (mix(sources, seed=seed) for seed in (0, 0, 1))
    keys = [[row.key for row in rows_of(each)] for each in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
    assert sorted(keys[0]) == sorted(keys[2])
    assert one.version == same.version != other.version


@pytest.mark.parametrize(
    ("sizes", "weights", "rows", "wanted"),
    [
        ([10, 20], "size", None, [10, 20]),
        ([10, 20], "size", 3, [1, 2]),
        ([10, 20], (1.0, 1.0), None, [10, 10]),
        ([10, 0], (1.0, 0.0), None, [10, 0]),
        ([10, 0], "size", None, [10, 0]),
        ([5, 5, 5], (1.0, 1.0, 1.0), 4, [2, 1, 1]),
        ([1, 1000], (0.5, 0.5), None, [1, 1]),
    ],
)
def test_counts(sizes, weights, rows, wanted):
    assert mixed_counts(sizes, weights=weights, rows=rows) == wanted


@pytest.mark.parametrize(
    ("sizes", "weights", "rows", "match"),
    [
        ([1, 1], (1.0,), None, "expected 2 shares"),
        ([1, 1], (1.0, -1.0), None, "expected 2 shares"),
        ([1, 1], (0.0, 0.0), None, "not all 0"),
        ([1, 1], (float("nan"), 1.0), None, "expected 2 shares"),
        ([0, 0], "size", None, "not all 0"),
        ([1, 0], (0.5, 0.5), None, "source 1 is empty"),
    ],
)
def test_counts_that_cannot_be(sizes, weights, rows, match):
    with pytest.raises(InputError, match=match):
        mixed_counts(sizes, weights=weights, rows=rows)


def test_a_mixture_from_a_recipe(tmp_path):
    for name, count in (("one", 6), ("two", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4)).save(buffer, "PNG")
            (tmp_path / name / f"{number}.png").write_bytes(buffer.getvalue())
            (tmp_path / name / f"{number}.txt").write_text(f"{name} {number}")
    sources = [str(tmp_path / "one"), str(tmp_path / "two")]
    mixture = open_source({"name": "mixture", "sources": sources, "weights": [1, 1]})
    assert isinstance(mixture, MixtureSource)
    assert mixture.counts == [3, 3]
    assert open_source({"name": "mixture", "sources": sources}).counts == [6, 3]
    with pytest.raises(InputError, match="at least one source"):
        open_source({"name": "mixture", "sources": []})
    with pytest.raises(InputError, match="mixture"):
        open_source({"name": "mixture", "sources": ["no such thing"]})


def test_a_source_that_has_shrunk_is_said():
    shrinking = Listed("a", 20)
    mixture = mix([shrinking])
    shrinking.count = 10
    with pytest.raises(InputError, match="fewer rows than before"):
        rows_of(mixture)


def test_identical_images_are_kept_at_a_threshold_of_one():
    rows = torch.randn(500, 37, generator=torch.Generator().manual_seed(0))
    found = decontaminate(rows, eval_features=rows, threshold=1.0)
    assert found.keep.all()
    assert found.score.max() == 1.0


def test_images_too_like_the_evaluation_set():
    draws = torch.Generator().manual_seed(0)
    pool, held = torch.randn(200, 16, generator=draws), torch.randn(9, 16, generator=draws)
    pool[3] = held[5] * 7.0
    found = decontaminate(pool, eval_features=held)
    cosines = torch.nn.functional.cosine_similarity(pool[:, None], held[None], dim=-1)
    torch.testing.assert_close(found.score, cosines.max(1).values)
    assert torch.equal(found.nearest, cosines.argmax(1))
    assert torch.equal(found.keep, found.score <= THRESHOLD)
    assert not found.keep[3]
    assert found.nearest[3] == 5
    assert decontaminate(pool, eval_features=held, threshold=1.0).keep.sum() >= 199
    assert not decontaminate(pool, eval_features=held, threshold=-1.0).keep.any()
    assert len(decontaminate(pool[:0], eval_features=held).keep) == 0


def test_a_score_at_the_threshold_is_kept():
    pool = torch.eye(2, dtype=torch.float64)
    held = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert decontaminate(pool, eval_features=held, threshold=0.8).keep.tolist() == [True, True]
    assert decontaminate(pool, eval_features=held, threshold=0.79).keep.tolist() == [True, False]


def test_blocks_change_nothing(monkeypatch):
    draws = torch.Generator().manual_seed(1)
    pool, held = torch.randn(50, 8, generator=draws), torch.randn(20, 8, generator=draws)
    whole = decontaminate(pool, eval_features=held)
    monkeypatch.setattr("tether.methods.scientific_papers.contamination._CELLS", 45)
    parts = decontaminate(pool, eval_features=held)
    torch.testing.assert_close(parts.score, whole.score)
    assert torch.equal(parts.nearest, whole.nearest)


@pytest.mark.parametrize(
    ("pool", "held", "keywords", "match"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), {}, r"\(2, 3\) and \(2, 4\)"),
        (torch.ones(3), torch.ones(2, 3), {}, r"\(3,\)"),
        (torch.ones(2, 3), torch.ones(0, 3), {}, "at least one row"),
        (torch.zeros(2, 3), torch.ones(2, 3), {}, "features: row 0 is zero"),
        (torch.ones(2, 3), torch.tensor([[1.0, 1, 1], [1, float("nan"), 1]]), {}, "eval_features: row 1"),
        (torch.ones(2, 3), torch.ones(2, 3), {"threshold": 2.0}, "threshold"),
        (torch.ones(2, 3), torch.ones(2, 3), {"threshold": float("nan")}, "threshold"),
    ],
)
def test_features_that_cannot_be_compared(pool, held, keywords, match):
    with pytest.raises(InputError, match=match):
        decontaminate(pool, eval_features=held, **keywords)


def test_lengths_of_captions():
    texts = ["ab cd", " ", "abcdefghij", "x"]
    found = caption_lengths(texts)
    assert (found.captions, found.mean, found.median, found.longest) == (3, 16 / 3, 5.0, 10)
    assert found.mean_words == 4 / 3
    assert found.cut is None
    assert caption_lengths(texts, tokens=len, limit=5).cut == 1 / 3
    assert caption_lengths(Listed("web", 20)).captions == 20
    with pytest.raises(InputError, match="at least one caption"):
        caption_lengths(["", " "])
