"""Adapters that find defects: what they promise beside the figures of the released code."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
from tether.models.features.value_attention import ValueFeatures
from tether.models.heads.defect_adapters import PromptQueryAdapter, ResidualAdapter, nearest_rows

PLACES = {"grid": (3, 3), "size": (12, 12)}


@pytest.fixture(autouse=True)
def weights() -> None:
    torch.manual_seed(0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_image_alone_cannot_train() -> None:
    advice = "expected 2 images or more in training mode.*larger batch_size, or call eval"
    adapter = AdaptClip(drawn(2, 8), layers=2, hidden=16)
    seen = ValueFeatures(drawn(1, 8), drawn(2, 1, 9, 8))
    with pytest.raises(InputError, match=advice):
        adapter.by_texts(seen, **PLACES)
    with pytest.raises(InputError, match=advice):
        adapter.compare(seen.patches, drawn(2, 1, 1, 9, 8), **PLACES)
    adapter.eval()
    assert adapter.by_texts(seen, **PLACES)[0].maps.shape == (1, 2, 12, 12)
    assert adapter.compare(seen.patches, drawn(2, 1, 1, 9, 8), **PLACES).logits.shape == (2, 1, 2)


def test_an_image_does_not_depend_on_others_once_trained() -> None:
    adapter, seen = AdaptClip(drawn(2, 8), layers=2, hidden=16), ValueFeatures(drawn(5, 8), drawn(2, 5, 9, 8))
    good = drawn(2, 5, 3, 9, 8, seed=1)
    adapter.by_texts(seen, **PLACES), adapter.compare(seen.patches, good, **PLACES)  # statistics of its own
    adapter.eval()
    one = ValueFeatures(seen.image[3:4], seen.patches[:, 3:4])
    for all_of, alone in zip(adapter.by_texts(seen, **PLACES), adapter.by_texts(one, **PLACES), strict=True):
        torch.testing.assert_close(all_of.logits[3:4], alone.logits)
        torch.testing.assert_close(all_of.maps[3:4], alone.maps)
    many, alone = adapter.compare(seen.patches, good, **PLACES), adapter.compare(one.patches, good[:, 3:4], **PLACES)
    torch.testing.assert_close(many.maps[:, 3:4], alone.maps)
    torch.testing.assert_close(many.away[:, 3:4], alone.away)


def test_few_places_are_all_the_largest() -> None:
    rows = drawn(1, 2, 4, 8)
    adapter = PromptQueryAdapter(8, 1, hidden=16).eval()
    found = adapter(rows, rows[:, :, None], grid=(2, 2), size=(8, 8))
    unit = torch.nn.functional.normalize(rows[0], dim=2)
    pooled = adapter.norms[0](unit.mT.unflatten(2, (2, 2))).flatten(2).mean(dim=2)
    torch.testing.assert_close(found.logits[0], adapter.whole(pooled))


def test_places_of_good_images_do_not_count_and_context_does() -> None:
    rows, good = drawn(1, 2, 9, 8), drawn(1, 2, 3, 9, 8, seed=1)
    with_it, without = (PromptQueryAdapter(8, 1, hidden=16, context=context).eval() for context in (True, False))
    without.load_state_dict(with_it.state_dict())
    found = with_it(rows, good, **PLACES)
    torch.testing.assert_close(found.maps, with_it(rows, good.flip(3).flip(2), **PLACES).maps)
    assert not torch.allclose(found.maps, without(rows, good, **PLACES).maps)
    same = without(rows, rows[:, :, None], **PLACES)  # nothing differs, so every place is alike
    torch.testing.assert_close(same.logits[0, 0], same.logits[0, 1])
    assert not torch.allclose(with_it(rows, rows[:, :, None], **PLACES).logits[0, 0], same.logits[0, 0])


def test_the_nearest_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, known = (torch.nn.functional.normalize(drawn(3, n, 8, seed=n), dim=2) for n in (9, 50))
    place, cosine = nearest_rows(rows, known)
    near = torch.stack([some[numbers] for some, numbers in zip(known, place, strict=True)])
    torch.testing.assert_close(cosine, torch.nn.functional.cosine_similarity(rows, near, dim=2))
    torch.testing.assert_close(cosine, (rows @ known.mT).amax(dim=2))
    monkeypatch.setattr("tether.models.heads.defect_adapters._MOST", 100)
    for whole, piece in zip((place, cosine), nearest_rows(rows, known), strict=True):
        torch.testing.assert_close(whole, piece)


def test_joint_is_one_answer_of_both() -> None:
    seen, texts = ValueFeatures(drawn(2, 8), drawn(2, 2, 9, 8)), drawn(2, 8, seed=3)
    apart, joint = (AdaptClip(drawn(2, 8), layers=2, reduction=1, apart=apart).eval() for apart in (True, False))
    joint.load_state_dict(apart.state_dict())
    first, second = apart.by_texts(seen, learnt=texts, **PLACES)
    (both,) = joint.by_texts(seen, learnt=texts, **PLACES)
    moved = joint.visual.whole(seen.image)
    cosines = torch.nn.functional.cosine_similarity(moved[:, None], texts, dim=2)
    torch.testing.assert_close(both.logits, cosines / 0.07)
    assert not torch.allclose(both.logits, first.logits)
    assert not torch.allclose(both.logits, second.logits)


def test_bad_shapes() -> None:
    with pytest.raises(InputError, match="reduction: expected at most 8, the length of the rows, got 9"):
        ResidualAdapter(8, reduction=9)
    with pytest.raises(InputError, match="hidden: expected 2 or more, got 1"):
        PromptQueryAdapter(8, 2, hidden=1)
    with pytest.raises(InputError, match=r"fixed: expected \(2, d\) rows, got \(3, 8\)"):
        AdaptClip(drawn(3, 8), layers=2)
    with pytest.raises(InputError, match=r"layers: expected 2, got \(0, 1, 2\)"):
        TrainedAdapters(AdaptClip(drawn(2, 8), layers=2), (0, 1, 2))
    adapter, rows = PromptQueryAdapter(8, 2, hidden=16).eval(), drawn(2, 3, 9, 8)
    with pytest.raises(InputError, match="grid: expected 9 places, got 2 x 3"):
        adapter(rows, rows[:, :, None], grid=(2, 3), size=(12, 12))
    for good in (drawn(2, 3, 1, 16, 8), drawn(2, 3, 0, 9, 8), drawn(2, 2, 1, 9, 8), drawn(3, 3, 1, 9, 8)):
        with pytest.raises(InputError, match="prompt: expected patches"):
            adapter(rows, good, **PLACES)
    for known in (drawn(2, 3, 0, 8), drawn(2, 1, 4, 8), drawn(1, 3, 4, 8)):
        with pytest.raises(InputError, match="known: expected patches of 2 blocks for each image, one at least"):
            adapter.against(rows, known, **PLACES)
