"""Texts for a head, ablation and heat maps: exact identities, the pitfalls, bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from tether.core.decomposition import Decomposition
from tether.core.errors import InputError
from tether.methods.text_decomposition import embeddings_from_texts, mean_ablate, replace_heads
from tether.space import TextSpan, patch_scores, segment_by_parts, text_span
from tether.space.heat_maps import best_class, grid_of, stretched


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def rows(rng):
    return rng.standard_normal((80, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5]) @ rng.standard_normal((6, 12)) + 1


@pytest.fixture
def texts(rng):
    return unit(rng.standard_normal((50, 12)))


def test_enough_texts_rebuild_the_rows_exactly(rows, texts):
    found = text_span(rows, texts=texts, count=20)
    assert len(found.indices) <= 7  # six directions, and the mean in a seventh that the uncentred rows have
    np.testing.assert_allclose(found.reconstruction, rows, atol=1e-9)
    assert found.explained_variance[-1] == pytest.approx(1, abs=1e-12)


def test_shares_are_those_of_the_reconstruction_and_rise(rows, texts):
    total = ((rows - rows.mean(0)) ** 2).sum()
    for count in (1, 3, 5):
        found = text_span(rows, texts=texts, count=count)
        share = 1 - ((rows - found.reconstruction) ** 2).sum() / total
        assert found.explained_variance[-1] == pytest.approx(share, abs=1e-12)
    assert (np.diff(text_span(rows, texts=texts, count=6).explained_variance) > 0).all()


def test_never_better_than_principal_directions(rows, texts):
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    best = values.cumsum() / values.sum()
    explained = text_span(rows, texts=texts, count=6).explained_variance
    assert (explained <= best[: len(explained)] + 1e-12).all()


def test_the_planted_texts_are_found_in_their_order(rng, texts):
    rows = rng.standard_normal((200, 3)) @ np.diag([9, 3, 1]) @ np.linalg.qr(texts[[4, 11, 30]].T)[0].T + 2 * texts[7]
    found = text_span(rows, texts=texts[[4, 11, 30]], count=3)
    np.testing.assert_array_equal(found.indices, [0, 1, 2])


def test_a_copy_of_a_text_is_never_taken_and_ties_go_to_the_first(rows, texts):
    twice = np.concatenate([texts, texts])
    found = text_span(rows, texts=twice, count=6)
    np.testing.assert_array_equal(found.indices, text_span(rows, texts=texts, count=6).indices)
    assert found.indices.max() < len(texts)


def test_it_stops_when_no_direction_is_left(rng, texts):
    rows = np.outer(rng.standard_normal(40), rng.standard_normal(12))
    assert len(text_span(rows, texts=texts, count=10).indices) == 1
    assert len(text_span(rows + 3, texts=texts, count=10).indices) <= 2


def test_a_rank_beyond_the_rows_is_their_own(rows, texts):
    few = rows[:4]
    one, other = (text_span(few, texts=texts, count=5, rank=rank) for rank in (4, 80))
    np.testing.assert_array_equal(one.indices, other.indices)
    assert len(text_span(rows, texts=texts, count=5, rank=1).indices) == 1


def test_other_rows_are_told_by_the_same_texts(rows, texts):
    span = TextSpan(texts=texts, count=3).fit(rows)
    np.testing.assert_allclose(span.components_ @ span.components_.T, np.eye(3), atol=1e-10)
    made = span.inverse_transform(span.transform(rows[:5] + 1))
    np.testing.assert_allclose(span.inverse_transform(span.transform(made)), made, atol=1e-10)
    np.testing.assert_allclose(span.transform(rows).mean(0), 0, atol=1e-10)
    with pytest.raises(InputError, match="rows of 3 coordinates"):
        span.inverse_transform(rows)


def test_without_texts_the_axes_stand_in(rng):
    rows = rng.standard_normal((30, 4)) * [1, 10, 3, 0.1]
    np.testing.assert_array_equal(TextSpan(count=2).fit(rows).chosen_, [1, 2])


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (np.ones((3, 5)), "texts: expected rows of 12 coordinates"),
        (np.ones((0, 12)), "texts: expected at least 1 rows"),
        (np.full((3, 12), np.nan), "NaN"),
    ],
)
def test_bad_texts(rows, texts, why):
    with pytest.raises(InputError, match=why):
        text_span(rows, texts=texts)


def test_bad_rows(rows, texts):
    for bad in (np.full((4, 12), 0.3), np.zeros((4, 12)), rows[:1]):
        with pytest.raises(ValueError, match=r"equal|minimum"):
            text_span(bad, texts=texts)
    rows[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        text_span(rows, texts=texts)


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Decomposition(draw(7, 3, 5, 2, 8), draw(7, 4, 8), draw(7, 8))


def summed(parts, reduce):
    attention = parts.attention.sum(2 if reduce == "tokens" else 3)
    return Decomposition(attention, parts.mlp, parts.representation, reduce=reduce)


def test_ablating_nothing_is_the_embedding_and_everything_is_the_mean(parts):
    torch.testing.assert_close(mean_ablate(parts), parts.total())
    everything = mean_ablate(parts, attention="all", mlp="all")
    torch.testing.assert_close(everything, parts.total().mean(0, keepdim=True).expand(7, -1))


def test_parts_ablated_apart_add_up(parts):
    lost = parts.total() - mean_ablate(parts, attention="all")
    by_layer = sum(parts.total() - mean_ablate(parts, attention=[layer]) for layer in range(3))
    by_head = sum(parts.total() - mean_ablate(parts, attention=[(la, h)]) for la in range(3) for h in range(2))
    torch.testing.assert_close(lost, by_layer)
    torch.testing.assert_close(lost, by_head)
    for reduce in ("tokens", "heads"):
        torch.testing.assert_close(mean_ablate(summed(parts, reduce), attention=[1]), mean_ablate(parts, attention=[1]))


def test_class_to_class_attention_alone(parts):
    left = parts.attention.clone()
    left[:, :, 0] = left[:, :, 0].mean(0)
    expected = left.sum((1, 2, 3)) + parts.mlp.sum(1)
    torch.testing.assert_close(mean_ablate(parts, attention="all", source="class"), expected)
    torch.testing.assert_close(mean_ablate(summed(parts, "heads"), attention="all", source="class"), expected)
    left = parts.attention.clone()
    left[:, 2, 0, 1] = left[:, 2, 0, 1].mean(0)
    one = mean_ablate(parts, attention=[(2, 1)], source="class")
    torch.testing.assert_close(one, left.sum((1, 2, 3)) + parts.mlp.sum(1))


def test_means_of_another_data_set(parts):
    zero = Decomposition(*(torch.zeros_like(x[:1]) for x in (parts.attention, parts.mlp, parts.representation)))
    torch.testing.assert_close(mean_ablate(parts, mlp="all", means=zero), parts.attention.sum((1, 2, 3)))
    with pytest.raises(InputError, match="means: expected one row"):
        mean_ablate(parts, means=parts)
    with pytest.raises(InputError, match="means: expected one row"):
        mean_ablate(parts, means=summed(parts, "tokens").mean())


@pytest.mark.parametrize(
    ("keywords", "why"),
    [
        ({"attention": [3]}, "layers 0 to 2"),
        ({"attention": [(0, 2)]}, "heads 0 to 1"),
        ({"attention": [1, 1]}, "each part once"),
        ({"attention": [1, (1, 0)]}, "each part once"),
        ({"attention": "last"}, "expected a list, or 'all'"),
        ({"mlp": [4]}, "mlp: expected 0 to 3"),
    ],
)
def test_parts_that_are_not_there(parts, keywords, why):
    with pytest.raises(InputError, match=why):
        mean_ablate(parts, **keywords)
    with pytest.raises(InputError, match="summed away"):
        mean_ablate(summed(parts, "heads"), attention=[(0, 0)])
    with pytest.raises(InputError, match="needs the tokens"):
        mean_ablate(summed(parts, "tokens"), source="class")


def test_heads_replaced(parts):
    torch.testing.assert_close(replace_heads(parts, heads={(1, 0): parts.heads[:, 1, 0]}), parts.total())
    gone = replace_heads(parts, heads={(1, 0): torch.zeros(7, 8)})
    torch.testing.assert_close(gone, parts.total() - parts.heads[:, 1, 0])
    with pytest.raises(InputError, match="expected \\(7, 8\\)"):
        replace_heads(parts, heads={(1, 0): torch.zeros(1, 8)})


def test_embeddings_told_in_words(parts, rng):
    texts = unit(rng.standard_normal((60, 8)))
    # With as many texts as dimensions the heads are told whole: only the earlier layers are lost.
    told = embeddings_from_texts(parts, texts=texts, count=8, layers=2)
    torch.testing.assert_close(told, mean_ablate(parts, attention=[0]), atol=1e-9, rtol=0)
    nothing = embeddings_from_texts(parts, texts=texts, layers=0)
    torch.testing.assert_close(nothing, mean_ablate(parts, attention="all"))
    torch.testing.assert_close(embeddings_from_texts(parts, texts=texts, count=8, layers=9), parts.total())


def test_a_head_that_says_the_same_of_every_image_is_told_by_its_mean(parts, rng):
    texts = unit(rng.standard_normal((60, 8)))
    attention = parts.attention.clone()
    attention[..., 0, :] = attention[:1, ..., 0, :]
    same = dataclasses.replace(parts, attention=attention)
    torch.testing.assert_close(embeddings_from_texts(same, texts=texts, count=8, layers=9), same.total())


def test_scores_of_patches(parts):
    weights = torch.eye(8, dtype=torch.float64)[:3]
    scores = patch_scores(parts, weights=weights, classes=torch.full((7,), 2))
    plain = parts.attention[:, :, 1:].sum((1, 3))[..., :3]
    torch.testing.assert_close(scores, plain[..., 2] - plain.mean(-1))
    torch.testing.assert_close(
        patch_scores(summed(parts, "heads"), weights=weights, classes=torch.full((7,), 2)), scores
    )
    own = patch_scores(parts, weights=weights, classes=best_class(parts, weights=weights))
    torch.testing.assert_close(patch_scores(parts, weights=weights), own)
    assert not patch_scores(parts, weights=weights[:1]).any()  # a class alone has nothing to stand out from


def test_masks(parts):
    weights = torch.eye(8, dtype=torch.float64)[:3]
    found = segment_by_parts(parts, weights=weights, grid=(2, 2), size=(8, 6))
    assert found.heat.shape == found.mask.shape == (7, 8, 6)
    assert float(found.heat.min()) == 0
    assert float(found.heat.max()) == 1
    torch.testing.assert_close(found.mask, found.heat > found.heat.mean((1, 2), keepdim=True))
    alone = segment_by_parts(
        Decomposition(parts.attention[2:3], parts.mlp[2:3], parts.representation[2:3]),
        weights=weights,
        grid=(2, 2),
        size=(8, 6),
    )
    torch.testing.assert_close(alone.heat[0], found.heat[2])
    nothing = segment_by_parts(parts, weights=weights[:1], grid=(2, 2), size=(8, 6))
    assert not nothing.mask.any()
    assert torch.isfinite(nothing.heat).all()


def test_the_grid_follows_the_shape():
    assert grid_of(49, size=(224, 224)) == (7, 7)
    assert grid_of(12, size=(64, 48)) == (4, 3)
    assert grid_of(12, size=(48, 64)) == (3, 4)
    with pytest.raises(InputError, match="7 patches do not cover"):
        grid_of(7, size=(64, 64))


def test_a_lit_patch_is_where_the_heat_is():
    heat = stretched(torch.tensor([[0.0, -3.0, 0.0, 2.0]]), grid=(2, 2), size=(20, 20))[0]
    assert heat[19, 19] == 1
    assert not heat[:5, :].any()


def test_bad_classes(parts):
    weights = torch.eye(8)[:3]
    for keywords, why in (
        ({"weights": torch.eye(7)}, r"expected \(c, 8\)"),
        ({"weights": weights * torch.nan}, "NaN"),
        ({"weights": weights, "classes": torch.full((7,), 3)}, "expected 0 to 2"),
        ({"weights": weights, "classes": torch.zeros(7)}, "whole numbers"),
    ):
        with pytest.raises(InputError, match=why):
            patch_scores(parts, **keywords)
    with pytest.raises(InputError, match="summed away"):
        patch_scores(summed(parts, "tokens"), weights=weights)
    with pytest.raises(InputError, match="4 patches"):
        segment_by_parts(parts, weights=weights, grid=(3, 2), size=(8, 8))
