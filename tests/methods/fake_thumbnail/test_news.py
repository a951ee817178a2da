"""Pictures against headlines: incongruity, profiles, mismatched pairs and the pair classifier."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from encoders import ENCODERS
from tether.core.errors import InputError
from tether.core.types import Batch
from tether.methods.fake_thumbnail import (
    LowRankBilinear,
    PairClassifier,
    PairNetwork,
    group_profile,
    incongruity,
    make_mismatched_pairs,
    pair_incongruity,
)
from tether.models import create
from tether.models.embed import encode_images, encode_texts

D = 8


def vectors(n: int = 80, *, seed: int = 0, d: int = D) -> tuple[np.ndarray, np.ndarray]:
    """Titles, and pictures that are near them."""
    rng = np.random.default_rng(seed)
    texts = rng.normal(size=(n, d))
    return texts, texts + 0.5 * rng.normal(size=(n, d))


@pytest.mark.parametrize("kind", ENCODERS)
def test_incongruity_is_one_less_the_cosine_on_any_encoder(kind, tmp_path: Path):
    model = ENCODERS[kind](tmp_path)
    pixels = torch.randint(
        0, 256, (5, 3, *model.image_spec.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    titles = ["a cat", "the red dog", "a small cat sits", "sun", "a cat"]
    found = incongruity(model, images=pixels, texts=titles)
    image, text = encode_images(model, [pixels]), encode_texts(model, titles)
    np.testing.assert_allclose(found, 1 - F.cosine_similarity(image, text).numpy(), atol=1e-6)
    np.testing.assert_allclose(incongruity(model, images=iter(pixels.split(2)), texts=titles), found, atol=1e-6)
    assert ((found >= 0) & (found <= 2)).all()


def test_zeros_after_the_end_of_a_title_change_nothing():
    model = create("tiny").eval()
    ids = model.tokenizer(["a red star in the night"])
    padded = torch.cat([ids, ids.new_zeros(1, model.tokenizer.context_length - ids.shape[1])], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(padded).pooled, model.encode_text(ids).pooled)


def test_incongruity_of_a_pair_and_of_its_opposite():
    texts, _ = vectors()
    np.testing.assert_allclose(pair_incongruity(3 * texts, texts=texts), 0, atol=1e-12)
    np.testing.assert_allclose(pair_incongruity(-texts, texts=1e-180 * texts), 2, atol=1e-12)


def test_wrong_vectors_are_refused():
    texts, images = vectors()
    empty = images.copy()
    empty[7] = 0
    for wrong, match in (
        (empty, "first is row 7"),
        (images[:-1], "as many"),
        (images[:, :3], "as many"),
        (np.where(np.arange(D) == 2, np.nan, images), "NaN"),
        (images[0], "shape"),
    ):
        with pytest.raises(InputError, match=match):
            pair_incongruity(wrong, texts=texts)


def test_profile_of_groups():
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0.6, 0.1, 30), rng.normal(0.5, 0.2, 40), [0.7]])
    groups = ["fake"] * 30 + ["general"] * 40 + ["single"]
    profile = group_profile(scores, groups=groups)
    assert [(one.name, one.n) for one in profile.table] == [("fake", 30), ("general", 40), ("single", 1)]
    assert math.isnan(profile.table[2].deviation)
    (test,) = profile.tests  # one score cannot be compared
    a, b = scores[:30], scores[30:70]
    assert test.difference == pytest.approx(a.mean() - b.mean())
    pooled = math.sqrt((29 * a.var(ddof=1) + 39 * b.var(ddof=1)) / 68)
    assert test.cohens_d == pytest.approx((a.mean() - b.mean()) / pooled)
    u, p = mannwhitneyu(a, b, alternative="two-sided")
    assert (test.u, test.p) == (u, p)
    assert test.auroc == pytest.approx((a[:, None] > b).mean())
    np.testing.assert_allclose(profile.means[:2], [a.mean(), b.mean()])


def test_groups_that_do_not_vary():
    same = group_profile([0.5, 0.5, 0.5, 0.5], groups=["a", "a", "b", "b"]).tests[0]
    assert (same.cohens_d, same.auroc, same.difference) == (0.0, 0.5, 0.0)
    apart = group_profile([0.6, 0.6, 0.5, 0.5], groups=["a", "a", "b", "b"]).tests[0]
    assert apart.cohens_d == math.inf


@pytest.mark.parametrize(
    ("scores", "groups"), [([0.1], ["a", "b"]), ([], []), ([float("nan")], ["a"]), ([[0.1]], ["a"]), ([0.1], "a")]
)
def test_wrong_scores_are_refused(scores, groups):
    with pytest.raises(InputError):
        group_profile(scores, groups=groups)


@pytest.mark.parametrize("strategy", ["random", "band", "same_group"])
def test_mismatched_pairs_never_hold_the_true_picture_or_a_copy(strategy):
    texts, images = vectors(120)
    images[5], images[6] = images[4], 2.0 * images[4]  # the same picture at three articles
    images[9] = images[8] + 1e-3 * images[9]  # and one that is nearly another
    texts[21] = 3.0 * texts[20]  # the same title twice
    groups = [row % 3 for row in range(120)]
    pairs = make_mismatched_pairs(images, texts=texts, groups=groups, strategy=strategy, band=(0.1, 1.5))
    true, false = pairs.label == 0, pairs.label == 1
    assert sorted(pairs.text[true]) == list(range(120))
    np.testing.assert_array_equal(pairs.text[true], pairs.image[true])
    assert (pairs.text[false] != pairs.image[false]).all()
    near = F.normalize(torch.from_numpy(images))
    cosine = (near[pairs.text[false]] * near[pairs.image[false]]).sum(dim=1)
    assert float(cosine.max()) <= 0.95
    assert not {(20, 21), (21, 20)} & set(zip(pairs.text[false].tolist(), pairs.image[false].tolist(), strict=True))
    assert false.sum() + len(pairs.without) == 120
    if strategy == "same_group":
        assert (pairs.text[false] % 3 == pairs.image[false] % 3).all()
    if strategy == "band":
        score = 1 - pair_incongruity(images[pairs.image], texts=texts[pairs.text])
        own = 1 - pair_incongruity(images, texts=texts)
        below = own[pairs.text[false]] - score[false]
        assert below.min() >= 0.1 - 1e-9
        assert below.max() <= 1.5 + 1e-9


def test_all_copies_are_refused_even_when_any_similarity_is_allowed():
    texts, images = vectors(30)
    images[1] = images[0]
    pairs = make_mismatched_pairs(images, texts=texts, duplicate=1.0, ratio=20)
    made = set(zip(pairs.text[pairs.label == 1].tolist(), pairs.image[pairs.label == 1].tolist(), strict=True))
    assert not made & {(0, 1), (1, 0)}


def test_pictures_of_one_event_are_not_swapped():
    texts, images = vectors(60)
    events = np.arange(60) // 20
    pairs = make_mismatched_pairs(images, texts=texts, events=events.tolist(), duplicate=1.0)
    false = pairs.label == 1
    assert (events[pairs.text[false]] != events[pairs.image[false]]).all()
    with pytest.raises(InputError, match="events"):
        make_mismatched_pairs(images, texts=texts, events=[1])


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 40), (2.5, 100), (0.5, 20)])
def test_ratio_and_seed(ratio, count):
    texts, images = vectors(40)
    first, again, other = (
        make_mismatched_pairs(images, texts=texts, ratio=ratio, seed=seed, duplicate=1.0) for seed in (1, 1, 2)
    )
    assert int(first.label.sum()) == count
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_pairs_of_many_titles_are_those_of_chunks():
    texts, images = vectors(1100)
    pairs = make_mismatched_pairs(images, texts=texts)
    assert int(pairs.label.sum()) + len(pairs.without) == 1100
    assert pairs.image.max() < 1100
    # the order is mixed, so that batches in the given order hold both labels
    assert 0.2 < pairs.label[:100].mean() < 0.8


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"strategy": "hard"}, "strategy"),
        ({"strategy": "same_group"}, "groups"),
        ({"groups": ["a"]}, "groups"),
        ({"ratio": 0.0}, "ratio"),
        ({"band": (0.2, 0.1)}, "band"),
        ({"duplicate": 0.0}, "duplicate"),
        ({"strategy": "same_group", "groups": list(range(80))}, "none of 80 titles"),
        ({"strategy": "band", "band": (5.0, 6.0)}, "none of 80 titles"),
    ],
)
def test_wrong_pairings_are_refused(settings, match):
    texts, images = vectors()
    with pytest.raises(InputError, match=match):
        make_mismatched_pairs(images, texts=texts, **settings)


def test_low_rank_is_a_full_form():
    low = LowRankBilinear(D, units=6, rank=3, generator=torch.Generator().manual_seed(0)).double()
    full = torch.nn.Bilinear(D, D, 6).double()
    with torch.no_grad():
        full.weight.copy_(low.full_weight())
        full.bias.copy_(low.bias)
    t, v = torch.randn(2, 9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(low(t, v), full(t, v), rtol=1e-12, atol=1e-12)
    assert torch.linalg.matrix_rank(low.full_weight()).max() == 3


def test_low_rank_starts_as_wide_as_the_full_form():
    low = LowRankBilinear(32, units=64, rank=16, generator=torch.Generator().manual_seed(0))
    assert float(low.full_weight().detach().std() * math.sqrt(3 * 32)) == pytest.approx(1, abs=0.1)


def test_the_default_has_a_quarter_of_the_weights_at_the_papers_width():
    count = {
        form: sum(p.numel() for p in PairNetwork(32, hidden=16, bilinear=form, rank=4).bilayer.parameters())
        for form in ("full", "low_rank")
    }
    assert count == {"full": 16 * 32 * 32 + 16, "low_rank": 2 * 16 * 4 * 32 + 16}


def labelled(n: int = 300, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    texts, images = vectors(n, seed=seed)
    pairs = make_mismatched_pairs(images, texts=texts, seed=seed, duplicate=1.0)
    return texts[pairs.text], images[pairs.image], pairs.label


def test_it_learns_what_belongs_together():
    text, image, y = labelled()
    classifier = PairClassifier(D, hidden=32, rank=8, epochs=30, batch_size=32, lr=3e-3).fit(text, image=image, y=y)
    other = labelled(seed=3)
    report = classifier.report(other[0], image=other[1], y=other[2])
    assert report.auroc > 0.85
    assert classifier.score(other[0], image=other[1], y=other[2]) == report.accuracy
    chance = classifier.predict_proba(text, image=image)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    np.testing.assert_array_equal(classifier.predict(text, image=image), chance[:, 1] > 0.5)
    logits = classifier.logits(text, image=image)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), chance[:, 1], atol=1e-6)


def test_the_best_epoch_is_copied_not_pointed_at():
    text, image, y = labelled()
    held = labelled(120, seed=9)
    settings = {"hidden": 8, "rank": 2, "lr": 0.05, "batch_size": 16, "epochs": 12}
    chosen = PairClassifier(D, **settings).fit(text, image=image, y=y, validation=held)
    history = chosen.history
    assert history is not None
    best = 1 + int(np.argmax(history.validation))  # the first of equal ones
    assert history.best_epoch == best < 12
    assert chosen.score(held[0], image=held[1], y=held[2]) == pytest.approx(max(history.validation))
    until = PairClassifier(D, **{**settings, "epochs": best}).fit(text, image=image, y=y)
    np.testing.assert_array_equal(until.logits(text, image=image), chosen.logits(text, image=image))
    last = PairClassifier(D, **settings).fit(text, image=image, y=y)
    assert not np.array_equal(last.logits(text, image=image), chosen.logits(text, image=image))


def test_it_stops_when_nothing_gets_better():
    text, image, y = labelled()
    held = labelled(60, seed=9)
    one = PairClassifier(D, hidden=8, rank=2, lr=0.05, batch_size=16, epochs=50, stop_after=2)
    history = one.fit(text, image=image, y=y, validation=held).history
    assert history is not None
    assert len(history.validation) == history.best_epoch + 2 < 50


def test_the_rate_halves_when_the_last_batch_stalls():
    text, image, y = labelled()
    one = PairClassifier(D, hidden=4, rank=1, lr=1e-5, batch_size=64, epochs=8, weight_decay=0.0)
    history = one.fit(text, image=image, y=y).history
    assert history is not None
    # A loss must fall by a ten-thousandth to count as better; two epochs without one halve the rate.
    assert history.learning_rates[:4] == (1e-5, 1e-5, 1e-5, 5e-6)


def test_order_matters_and_fit_begins_anew():
    text, image, y = labelled()
    given, again, shuffled = (
        PairClassifier(D, hidden=8, rank=2, epochs=2, order=order).fit(text, image=image, y=y)
        for order in ("given", "given", "shuffled")
    )
    first = given.logits(text, image=image)
    np.testing.assert_array_equal(first, again.logits(text, image=image))
    assert not np.array_equal(first, shuffled.logits(text, image=image))
    np.testing.assert_array_equal(given.fit(text, image=image, y=y).logits(text, image=image), first)
    wide = PairClassifier(D, hidden=8, rank=2, epochs=2).fit(7 * text, image=1e-3 * image, y=y)
    np.testing.assert_allclose(wide.logits(text, image=image), first, atol=1e-5)  # only directions count


@pytest.mark.parametrize("form", ["full", "low_rank"])
def test_a_saved_one_knows_its_encoder(form, tmp_path: Path):
    text, image, y = labelled(60)
    model = create("tiny", dim=D, seed=1).eval()
    one = PairClassifier(D, hidden=8, rank=2, bilinear=form, epochs=1, encoder=model).fit(text, image=image, y=y)
    one.save(tmp_path / "pairs.safetensors")
    found = PairClassifier.load(tmp_path / "pairs.safetensors", encoder=model)
    np.testing.assert_array_equal(found.logits(text, image=image), one.logits(text, image=image))
    assert found.state_dict()["digest"] == one.digest
    with pytest.raises(InputError, match="not on this one"):
        PairClassifier.load(tmp_path / "pairs.safetensors", encoder=create("tiny", dim=D, seed=2).eval())
    with pytest.raises(InputError, match="either the encoder"):
        PairClassifier.load(tmp_path / "pairs.safetensors")
    with pytest.raises(InputError, match="digest"):
        PairClassifier(D, hidden=8).save(tmp_path / "never.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(InputError, match="not a safetensors file"):
        PairClassifier.load(tmp_path / "text", digest="a")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": 0.0}, "lr"),
        ({"epochs": -1}, "epochs"),
        ({"bilinear": "half"}, "bilinear"),
        ({"rank": 0}, "rank"),
        ({"order": "sorted"}, "order"),
        ({"stop_after": 0}, "stop_after"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    with pytest.raises(InputError, match=match):
        PairClassifier(D, **settings)


def test_wrong_pairs_are_refused():
    text, image, y = labelled(40)
    one = PairClassifier(D, hidden=4, rank=1, epochs=1)
    zero = text.copy()
    zero[2] = 0
    for wrong, match in (
        ((text, image, 2 * y), "labels 0 and 1"),
        ((text, image, np.zeros_like(y)), "both classes"),
        ((text, image, y[:-1]), "one label for each"),
        ((text[:-1], image, y), "as many"),
        ((zero, image, y), "first is row 2"),
        ((text[:, :3], image[:, :3], y), "width 8"),
    ):
        with pytest.raises(InputError, match=match):
            one.fit(wrong[0], image=wrong[1], y=wrong[2])
    with pytest.raises(InputError, match="validation"):
        one.fit(text, image=image, y=y, validation=(text, image, np.full_like(y, 3)))
    with pytest.raises(InputError, match="network"):
        one.start_at(PairNetwork(D, hidden=5, rank=1))
    with pytest.raises(InputError, match="width"):
        PairClassifier(D + 1, encoder=create("tiny", dim=D).eval())


def test_frozen_towers_have_no_part_in_the_limit():
    """What the release clips beside the classifier is frozen and has no gradient, so our norm is its norm."""
    model = create("tiny", dim=D).eval().requires_grad_(False)
    network = PairNetwork(D, hidden=4, rank=2)
    pixels = torch.zeros(2, 3, *model.image_spec.size, dtype=torch.uint8)
    batch = Batch(pixels, model.tokenizer(["a cat", "a dog"]))
    logits = network(model.encode_text(batch.text).unit, model.encode_image(batch.image).unit)
    F.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0])).backward()
    own = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    both = torch.nn.utils.clip_grad_norm_([*network.parameters(), *model.parameters()], 1.0)
    torch.testing.assert_close(both, own)


@pytest.mark.parametrize("value", [0.1, 0.7])
def test_rounding_of_a_constant_group_is_no_spread(value):
    groups = ["a"] * 7 + ["b"] * 10
    same = group_profile([value] * 17, groups=groups)
    assert (same.tests[0].difference, same.tests[0].cohens_d) == (0.0, 0.0)
    assert [one.deviation for one in same.table] == [0.0, 0.0]
    apart = group_profile([value] * 7 + [value + 0.1] * 10, groups=groups)
    assert apart.tests[0].cohens_d == -math.inf
