"""Retrieval among the captions of one image: against a loop, chance, and as a measure of ``evaluate``."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

import tether
from tether.core.errors import InputError
from tether.data import open_source
from tether.evaluate.measures import evaluate
from tether.evaluate.metric_names import describe
from tether.evaluate.text_retrieval import bag_of_words_ranks, text_chance, text_ranks
from tether.models.presets import create

OWNER = torch.tensor([0, 0, 1, 2, 2, 2, 3])


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("cells", [1, 30, 1 << 24])
@pytest.mark.parametrize("more", [0, 5])
def test_a_loop_gives_the_same(cells, more):
    text, others = rows(7), rows(more, seed=1)
    text[1] = text[2]  # a tie
    found = text_ranks(text, OWNER, others=others if more else None, block_cells=cells)
    for i in range(7):
        own = [float(text[i] @ text[j]) for j in range(7) if j != i and OWNER[j] == OWNER[i]]
        wrong = [float(text[i] @ text[j]) for j in range(7) if OWNER[j] != OWNER[i]]
        wrong += [float(text[i] @ other) for other in others]
        expected = 1 + sum(score >= max(own) - 1e-7 for score in wrong) if own else 0
        assert int(found[i]) == expected


def test_a_collapsed_model_finds_nothing():
    assert text_ranks(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])).tolist() == [3, 3, 3, 3]


def test_chance_is_what_random_rankings_reach():
    generator = torch.Generator().manual_seed(0)
    hits = torch.zeros(2)
    for _ in range(3000):
        found = text_ranks(torch.randn(7, 64, generator=generator), OWNER)
        hits += torch.stack([(found[found > 0] <= depth).float().mean() for depth in (1, 3)])
    told = text_chance(OWNER, k=(1, 3))
    assert (hits / 3000).tolist() == pytest.approx(
        [told["text_to_text_r1_chance"], told["text_to_text_r3_chance"]], abs=0.02
    )


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_it_is_a_measure_that_is_asked_for():
    model, source = create("tiny", seed=0).eval(), open_source("scenes:rows=20,size=64,captions=both")
    found = evaluate(model, source, measures=["text_retrieval"], limit=20, bootstrap=50)
    assert 0 <= found["text_to_text_r1_low"] <= found["text_to_text_r1"] <= found["text_to_text_r1_high"] <= 1
    assert 0 < found["text_to_text_r1_chance"] < 1
    assert found["text_to_text_median_rank"] >= 1
    assert "text_to_image_r1" not in found
    words = [found[f"text_to_text_bag_of_words_r1{end}"] for end in ("_low", "", "_high")]
    assert 0 <= words[0] <= words[1] <= words[2] <= 1


def test_one_caption_an_image_is_no_text_pair():
    model, source = create("tiny", seed=0).eval(), open_source("digits")
    with pytest.raises(InputError, match="nothing to measure: text_retrieval expects rows with two different captions"):
        evaluate(model, source, measures=["text_retrieval"], limit=20)
    asked = tether.eval(model, source, measures=["retrieval", "text_retrieval"], limit=20, bootstrap=0)
    assert "text_to_image_r1" in asked.metrics
    assert "text_to_text_r1" not in asked.metrics
    assert "text_retrieval is left out: no row of" in asked.remark


def test_words_alone_are_compared_as_scikit_learn_compares_them():
    texts = ["A dog runs", "the dog", "a cat", "🐈", "🐈 !", "dog dog cat", "a cat sleeps"]
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = torch.from_numpy(TfidfVectorizer(token_pattern=r"\w+|[^\w\s]").fit_transform(texts).toarray())
    owner = torch.tensor([0, 0, 1, 2, 2, 3, 1])
    assert bag_of_words_ranks(texts, owner).tolist() == text_ranks(rows, owner).tolist()
    assert describe("text_to_text_bag_of_words_r10") == "by shared words alone R@10"


def test_refusals():
    with pytest.raises(InputError, match=r"owner: expected \(3,\), got \(2,\)"):
        text_ranks(rows(3), torch.tensor([0, 0]))
    with pytest.raises(InputError, match="owner: expected numbers of at least 0"):
        text_ranks(rows(2), torch.tensor([-1, -1]), others=rows(1))
