"""Ties, several captions, named variants and bad input of the measures."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.evaluate.clip_score import clip_score, ref_clip_score
from tether.evaluate.geometry import alignment, effective_rank, gap_vector, modality_gap
from tether.evaluate.inspect.pairing import beaten, chance_of, pair_up
from tether.evaluate.inspect.shortcut_scores import aligned, cramers_v, pull, strength
from tether.evaluate.inspect.towers import agreement
from tether.evaluate.metric import RetrievalRecall
from tether.evaluate.retrieval import ranks, recall_at_k
from tether.evaluate.zero_shot import logits, top_k_accuracy, zero_shot
from tether.tasks.classify.zero_shot import weights_of_prompts

GENERATOR = torch.Generator().manual_seed(0)


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=GENERATOR, dtype=torch.float64), dim=-1)


def test_collapsed_model_scores_nothing():
    same = torch.ones(20, 4)
    found = recall_at_k(same, same)
    assert found["image_to_text_r10"] == found["text_to_image_r10"] == 0
    assert found["text_to_image_mean_rank"] == 20


def test_own_captions_do_not_count_against_each_other():
    image = torch.eye(3)
    text = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0.9, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    found = ranks(image, text, text_to_image=torch.tensor([0, 0, 0, 1, 2]))
    assert found.image_to_text.tolist() == [1, 1, 1]
    assert found.text_to_image.tolist() == [1, 1, 1, 1, 1]


def test_order_of_captions_does_not_matter():
    image, text = unit(9, 5), unit(30, 5)
    owner = torch.arange(30) % 9
    shuffled = torch.randperm(30, generator=GENERATOR)
    plain, mixed = (
        ranks(image, text, text_to_image=owner),
        ranks(image, text[shuffled], text_to_image=owner[shuffled]),
    )
    assert torch.equal(plain.image_to_text, mixed.image_to_text)
    assert torch.equal(plain.text_to_image[shuffled], mixed.text_to_image)


def test_image_without_a_caption_asks_nothing_but_competes():
    image = torch.tensor([[1.0, 0], [0.9, 0.1], [0.0, 1.0]])
    text = torch.tensor([[0.9, 0.1], [0.0, 1.0]])
    found = ranks(image, text, text_to_image=torch.tensor([1, 2]))
    assert found.image_to_text.tolist() == [0, 1, 1]
    assert found.text_to_image.tolist() == [2, 1]
    assert found.summary()["image_to_text_r1"] == 1
    assert found.summary()["text_to_image_r1"] == 0.5


def test_depth_beyond_the_pool_is_a_hit():
    assert recall_at_k(unit(3, 4), unit(3, 4), k=(50,))["text_to_image_r50"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_to_image": torch.zeros(4, dtype=torch.int64)}, r"\(5,\) integers"),
        ({"text_to_image": torch.zeros(5)}, "integers"),
        ({"text_to_image": torch.tensor([0, 1, 2, 3, 9])}, "rows 0 to 4"),
    ],
)
def test_retrieval_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        recall_at_k(unit(5, 4), unit(5, 4), **arguments)


PAIR_MEASURES = [recall_at_k, gap_vector, modality_gap, alignment, clip_score]


@pytest.mark.parametrize("measure", PAIR_MEASURES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_names_the_row(measure, value):
    bad = unit(5, 4)
    bad[3, 1] = value
    with pytest.raises(InputError, match="image: 1 of 5 rows hold NaN or infinity, the first is row 3"):
        measure(bad, unit(5, 4))
    with pytest.raises(InputError, match="text: 1 of 5 rows"):
        measure(unit(5, 4), bad)


@pytest.mark.parametrize("measure", PAIR_MEASURES)
def test_shapes_that_do_not_fit(measure):
    with pytest.raises(InputError, match=r"\(5, 4\) and \(5, 3\)"):
        measure(unit(5, 4), unit(5, 3))
    with pytest.raises(InputError, match="at least 1 rows, got 0"):
        measure(unit(0, 4), unit(0, 4))
    with pytest.raises(InputError, match=r"expected float embeddings \(n, d\)"):
        measure(unit(4), unit(4))
    with pytest.raises(InputError, match="expected float embeddings"):
        measure(torch.zeros(2, 2, dtype=torch.int64), unit(2, 2))


def test_unequal_pairs():
    for measure in (recall_at_k, alignment, clip_score):
        with pytest.raises(InputError, match="pairs"):
            measure(unit(5, 4), unit(6, 4))


def test_half_precision_is_upcast():
    image, text = unit(40, 8), unit(40, 8)
    assert recall_at_k(image.bfloat16(), text) == recall_at_k(image.bfloat16().double(), text)
    assert alignment(image.half(), text.half()).dtype == torch.float32


def test_gap_variants_are_one_vector():
    image, text = unit(30, 8) + 0.3, unit(20, 8)
    distance = modality_gap(image, text)
    assert torch.allclose(modality_gap(image, text, variant="squared"), distance**2)
    assert torch.allclose(modality_gap(image, text, variant="mean_squared"), distance**2 / 8)


def test_uniformity_equals_all_pairs_across_blocks(monkeypatch):
    from tether.core import uniformity as potential
    from tether.evaluate.geometry import uniformity

    rows = unit(50, 6)
    plain = torch.pdist(rows).pow(2).mul(-2).exp().mean().log()
    for block in (1, 7, 49, 50, 1024):
        monkeypatch.setattr(potential, "BLOCK_ROWS", block)
        assert torch.allclose(uniformity(rows), plain, atol=1e-12)
    with pytest.raises(InputError, match="at least 2"):
        uniformity(rows[:1])


def test_effective_rank_of_known_spaces():
    assert torch.isclose(effective_rank(torch.eye(6)), torch.tensor(6.0, dtype=torch.float64))
    assert torch.isclose(effective_rank(torch.eye(6).repeat(3, 1)), torch.tensor(6.0, dtype=torch.float64))
    assert torch.isclose(effective_rank(torch.ones(9, 6)), torch.tensor(1.0, dtype=torch.float64))
    wide = unit(4, 9)
    assert torch.isclose(effective_rank(wide), effective_rank(wide.T), atol=1e-9)
    with pytest.raises(InputError, match="zero"):
        effective_rank(torch.zeros(3, 3))


def test_ref_clip_score_is_zero_where_a_side_is_not_positive():
    image = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0]])
    caption = torch.tensor([[1.0, 0], [-1.0, 0], [1.0, 0]])
    references = torch.tensor([[-1.0, 0], [-1.0, 0], [0.0, 1.0], [1.0, 0]])
    counts = torch.tensor([1, 1, 2])
    released = ref_clip_score(image, caption, references=references, counts=counts, negative="keep")
    assert math.isclose(released[0], 2 * 2.5 * -1 / (2.5 - 1), rel_tol=1e-6)
    score = ref_clip_score(image, caption, references=references, counts=counts)
    assert score[:2].tolist() == [0, 0]
    assert math.isclose(score[2], 2 * 2.5 / 3.5, rel_tol=1e-6)


def test_ref_clip_score_counts_must_add_up():
    for counts, message in ((torch.tensor([1, 1]), "add up to 2"), (torch.tensor([3, 0]), "at least 1")):
        with pytest.raises(InputError, match=message):
            ref_clip_score(unit(2, 4), unit(2, 4), references=unit(3, 4), counts=counts)


def test_top_k_counts_ties_against_and_allows_few_classes():
    scores = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    labels = torch.tensor([0, 1])
    assert top_k_accuracy(scores, labels=labels) == {"top1": 0.5, "top5": 1.0}


def test_zero_shot_confusion_adds_up():
    weights = weights_of_prompts(unit(4, 3, 8))
    labels = torch.arange(40) % 3  # the fourth class has no image
    result = zero_shot(logits(unit(40, 8), weights=weights), labels=labels)
    assert result.confusion.sum() == 40
    assert result.confusion.sum(dim=1).tolist() == [14, 13, 13, 0]
    assert math.isclose(result.top1, result.confusion.diagonal().sum().item() / 40)
    by_class = result.confusion.diagonal()[:3] / torch.tensor([14, 13, 13])
    assert math.isclose(result.mean_per_class, by_class.mean().item(), rel_tol=1e-6)


def test_zero_shot_bad_input():
    with pytest.raises(InputError, match="0 to 2"):
        top_k_accuracy(unit(4, 3), labels=torch.tensor([0, 1, 2, 3]))
    with pytest.raises(InputError, match=r"\(4,\) integers"):
        top_k_accuracy(unit(4, 3), labels=torch.tensor([0, 1]))
    with pytest.raises(InputError, match="none of them 0"):
        weights_of_prompts(unit(3, 0, 4))
    with pytest.raises(InputError, match="prompts: 1 of 6"):
        weights_of_prompts(torch.full((6, 1, 2), 1.0).index_fill(0, torch.tensor([2]), math.nan))


def test_metric_over_batches_equals_all_at_once():
    image, text = unit(12, 6), unit(24, 6)
    owner = torch.arange(24) // 2
    metric = RetrievalRecall(k=(1, 3))
    for start in range(0, 12, 5):
        stop = min(12, start + 5)
        metric.update(image[start:stop], text[2 * start : 2 * stop], owner[2 * start : 2 * stop] - start)
    assert metric.compute() == recall_at_k(image, text, k=(1, 3), text_to_image=owner)
    metric.reset()
    with pytest.warns(UserWarning, match="before the"), pytest.raises(InputError, match="no batch"):
        metric.compute()
    with pytest.raises(InputError, match="pairs"):
        metric.update(image, text)


def test_pairing_counts_equal_captions_once():
    image = torch.eye(4)
    text = torch.eye(4)[[0, 0, 1, 2, 3]]
    found = pair_up(
        image, text, owner=torch.tensor([0, 1, 1, 2, 3]), captions=("same", "same", "other", "third", "last")
    )
    assert found.texts == ("same", "other", "third", "last")
    assert found.text_ranks.tolist() == [1, 1, 1, 1]
    assert found.image_ranks.tolist() == [1, 1, 1, 1]
    assert found.beats_images.tolist()[0] == 1.0  # images 0 and 1 own "same": 2 and 3 are wrong
    with pytest.raises(InputError, match="two different captions"):
        pair_up(image, text, owner=torch.arange(5) % 4, captions=["one"] * 5)


def test_blocks_of_pairing_change_nothing(monkeypatch):
    chance = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(n, 8, generator=chance), dim=1) for n in (30, 50))
    owner, captions = torch.arange(50) % 30, [f"text {at % 45}" for at in range(50)]
    whole = pair_up(image, text, owner=owner, captions=captions)
    monkeypatch.setattr("tether.evaluate.inspect.pairing.CELLS", 64)
    parts = pair_up(image, text, owner=owner, captions=captions)
    for name in ("beats_texts", "beats_images", "image_ranks", "text_ranks"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    scores = image @ whole.unit.T
    for at in (0, 7, 20):
        row, group = int(whole.image[at]), int(whole.group[at])
        own = set(whole.group[whole.image == row].tolist())
        wrong = [scores[row, other] < scores[row, group] for other in range(len(whole.texts)) if other not in own]
        assert float(whole.beats_texts[at]) == pytest.approx(sum(map(int, wrong)) / len(wrong))
    again = beaten(whole, image, rows=whole.image[:5], groups=whole.group[:5])
    assert all(0 <= float(value) <= 1 for side in again for value in side)


def test_ties_count_half_and_chance_is_exact():
    flat = pair_up(torch.ones(4, 2), torch.ones(4, 2), owner=torch.arange(4), captions=list("abcd"))
    assert flat.told_apart.tolist() == [0.5] * 4
    assert flat.text_ranks.tolist() == [4] * 4
    assert chance_of(torch.full((3,), 1 / 10, dtype=torch.float64), pool=10, k=3) == pytest.approx(0.3)
    assert chance_of(torch.full((1,), 2 / 4, dtype=torch.float64), pool=4, k=2) == pytest.approx(1 - 1 / 6)


def test_pull_is_zero_without_a_shortcut_and_one_with_it():
    rng = np.random.default_rng(0)
    truth, values = rng.integers(0, 4, 4000), rng.integers(0, 4, 4000)
    names, keys = [f"v{value}" for value in values], [str(at) for at in range(4000)]
    weak = np.where(rng.random(4000) < 0.5, truth, rng.integers(0, 4, 4000))
    free = pull(weak, truth, names, keys=keys)
    assert abs(float(free.values.mean())) < 0.03
    bound = pull(values, truth, names, keys=keys)
    assert float(bound.values.mean()) == pytest.approx(1.0, abs=0.01)
    assert set(bound.favours) == {(f"v{value}", value) for value in range(4)}


def test_strength_of_a_pull_is_a_difference_of_cosines():
    rng = np.random.default_rng(0)
    truth, values = rng.integers(0, 3, 600), rng.integers(0, 3, 600)
    names = [f"v{value}" for value in values]
    scores = np.eye(3)[values] * 0.6 + np.eye(3)[truth]
    favours = [(f"v{value}", value) for value in range(3)]
    assert strength(scores, truth, names, favours=favours) == pytest.approx(0.6, abs=0.05)
    assert strength(np.eye(3)[truth], truth, names, favours=favours) == pytest.approx(0.0, abs=0.05)
    assert strength(scores, truth, names, favours=[]) == 0.0
    assert aligned(truth, names, favours=[*favours, ("v0", 2)]).tolist() == (truth == values).tolist()


def test_cramers_v_of_bound_and_free():
    truth = np.arange(400) % 4
    assert cramers_v(truth, [str(value) for value in truth]) == pytest.approx(1.0)
    assert cramers_v(truth, [str(at // 4 % 5) for at in range(400)]) == pytest.approx(0.0, abs=1e-9)
    assert cramers_v(truth, ["one"] * 400) == 0.0


def test_agreement_ignores_rotation_and_scale():
    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 6, generator=chance)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=chance))[0]
    assert agreement(rows, 3 * rows @ turn + 2) == pytest.approx(1.0)
    assert agreement(rows, torch.ones(50, 2)) == 0.0
