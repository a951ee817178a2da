"""Classifiers on frozen embeddings: what a few images add to the texts, and what is refused."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tether.adaptation.training_free import TRAINING_FREE, TipAdapter
from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.gda import GDAClassifier
from tether.models import create

FIXED = {"gda": {"alpha": 1.0}, "tip_adapter": {"alpha": 1.0, "beta": 5.5}}
NAMES = ["zebra", "cat", "emu", "dog"]
every = pytest.mark.parametrize("name", TRAINING_FREE)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cloud(shots, *, seed=0, noise=0.3, classes=4, width=12):
    """Embeddings around what the texts say vaguely, with one loud direction that means nothing."""
    rng, always = np.random.default_rng(seed), np.random.default_rng(9)
    means = unit(always.normal(size=(classes, width)))
    y = np.repeat(np.arange(classes), shots)
    X = means[y] + noise * rng.normal(size=(len(y), width))
    X[:, 0] += 2 * rng.normal(size=len(y))
    return X, y, unit(means + 0.3 * always.normal(size=means.shape))


def made(name, **settings):
    return TRAINING_FREE[name](**FIXED[name], **settings)


@every
def test_it_does_better_than_the_texts(name):
    X, y, texts = cloud(16)
    test, labels, _ = cloud(100, seed=2)
    head = TRAINING_FREE[name]().fit(X, y, text_weights=texts, validation=cloud(8, seed=1)[:2])
    zero_shot = (head.zero_shot(test).argmax(axis=1) == labels).mean()
    assert head.score(test, labels) > zero_shot + 0.02


@every
def test_names_in_the_order_of_the_texts(name):
    X, y, texts = cloud(5)
    plain = made(name).fit(X, y, text_weights=texts)
    named = made(name).fit(X, np.array(NAMES)[y], text_weights=torch.from_numpy(texts), classes=NAMES)
    assert named.classes_.tolist() == NAMES
    np.testing.assert_array_equal(named.logits(X), plain.logits(torch.from_numpy(X)))
    assert named.predict(X).tolist() == [NAMES[code] for code in plain.predict(X)]
    assert named.predict_proba(X).sum(axis=1) == pytest.approx(np.ones(len(X)))


@every
def test_length_of_a_row_does_not_matter(name):
    X, y, texts = cloud(5)
    lengths = np.random.default_rng(3).uniform(0.1, 9, size=(len(X), 1))
    one, other = made(name).fit(X, y, text_weights=texts), made(name).fit(X * lengths, y, text_weights=5 * texts)
    np.testing.assert_allclose(one.logits(X), other.logits(3 * X), rtol=1e-9)


@every
def test_saved_for_one_encoder_alone(name, tmp_path):
    model, other = create("tiny", seed=1), create("tiny", seed=2)
    X, y, texts = cloud(3, width=model.dim)
    head = TRAINING_FREE[name].for_encoder(model, **FIXED[name])
    assert head.logit_scale == pytest.approx(float(model.logit_scale.detach()))
    head.fit(X, np.array(NAMES)[y], text_weights=texts, classes=NAMES).save(tmp_path / "head.safetensors")
    again = TRAINING_FREE[name].load(tmp_path / "head.safetensors", encoder=model)
    assert again.get_params() == head.get_params()
    np.testing.assert_array_equal(again.logits(X), head.logits(X))
    np.testing.assert_array_equal(again.predict(X), head.predict(X))
    with pytest.raises(InputError, match="fit it again"):
        TRAINING_FREE[name].load(tmp_path / "head.safetensors", encoder=other)
    with pytest.raises(InputError, match="encoder or its digest"):
        made(name).fit(X, y, text_weights=texts).save(tmp_path / "other.safetensors")


def test_another_geometry_is_refused():
    with pytest.raises(UnsupportedModelError, match="cosine"):
        GDAClassifier.for_encoder(create("tiny", geometry="euclidean"))


@every
def test_bad_input(name):
    X, y, texts = cloud(3)
    fit = made(name).fit
    validation = cloud(1, seed=1)[:2]
    with pytest.raises(InputError, match=r"class 'dog' has no image"):
        fit(X[y < 3], np.array(NAMES)[y[y < 3]], text_weights=texts, classes=NAMES)
    with pytest.raises(InputError, match=r"row 6: 'emu' is none of the 2 classes"):
        fit(X, np.array(NAMES)[y], classes=["zebra", "cat"])
    with pytest.raises(InputError, match="at least two different classes"):
        fit(X, np.zeros(len(X)))
    with pytest.raises(InputError, match="at least two different classes"):
        fit(X, y, classes=[0, 1, 2, 3, 3])
    with pytest.raises(InputError, match="one row for each of 4 classes, got 3"):
        fit(X, y, text_weights=texts[:3])
    with pytest.raises(InputError, match="rows of 12 coordinates"):
        fit(X, y, text_weights=texts[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        fit(X, np.where(y == 0, np.nan, y))
    with pytest.raises(InputError, match=r"validation.*for 'search', got none"):
        TRAINING_FREE[name]().fit(X, y, text_weights=texts)
    with pytest.raises(InputError, match="validation: y: row 0: 7 is none"):
        TRAINING_FREE[name]().fit(X, y, text_weights=texts, validation=(validation[0], validation[1] + 7))
    with pytest.raises(InputError, match="a class for each of 4 rows, got 3"):
        TRAINING_FREE[name]().fit(X, y, text_weights=texts, validation=(validation[0], y[:3]))


def test_one_image_a_class_is_the_nearest_mean():
    X, y, texts = cloud(1)
    head = GDAClassifier(alpha=1.0).fit(X, y, text_weights=texts)
    np.testing.assert_array_equal(head.precision_, np.eye(12))
    many, _, _ = cloud(20, seed=4)
    distance = ((unit(many)[:, None] - head.means_) ** 2).sum(axis=2)
    np.testing.assert_array_equal(head.discriminant(many).argmax(axis=1), distance.argmin(axis=1))
    copies = GDAClassifier(alpha=1.0).fit(np.tile(X, (3, 1)), np.tile(y, 3), text_weights=texts)
    np.testing.assert_array_equal(copies.precision_, np.eye(12))  # rounding is no scatter
    alone = GDAClassifier(alpha=1.0, precision="mean_class_pinv").fit(X, y, text_weights=texts)
    np.testing.assert_array_equal(alone.precision_, np.eye(12))


def test_a_class_of_one_image_adds_no_covariance():
    X, y, texts = cloud(20)
    fewer = (y > 0) | (np.arange(len(y)) == 0)
    head = GDAClassifier(alpha=1.0, precision="mean_class_pinv").fit(X[fewer], y[fewer], text_weights=texts)
    expected = np.mean([np.cov(unit(X[y == c]).T) for c in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(head.precision_ @ expected, np.eye(12), atol=1e-8)


def test_priors():
    X, y, texts = cloud(8)
    kept = np.concatenate([np.flatnonzero(y == 0), *(np.flatnonzero(y == c)[:2] for c in (1, 2, 3))])
    X, y = X[kept], y[kept]
    heads = [
        GDAClassifier(alpha=1.0, priors=priors).fit(X, y, text_weights=texts)
        for priors in ("uniform", "empirical", (8.0, 2.0, 2.0, 2.0))
    ]
    np.testing.assert_allclose(heads[1].priors_, [8 / 14, *[2 / 14] * 3])
    np.testing.assert_allclose(heads[1].intercept_ - heads[0].intercept_, np.log(4 * heads[1].priors_))
    np.testing.assert_allclose(heads[2].intercept_, heads[1].intercept_)
    with pytest.raises(InputError, match="priors: expected a number for each of 4"):
        GDAClassifier(alpha=1.0, priors=(1.0, 2.0)).fit(X, y)


def test_the_smaller_of_equal_alphas_and_what_is_left_when_none_helps():
    X, y, texts = cloud(8, noise=0.01)
    X[:, 0] = 0
    head = GDAClassifier(alphas=(100.0, 0.01, 1.0)).fit(X, y, text_weights=texts, validation=(X, y))
    assert head.alpha_ == 0.01
    assert head.validation_accuracy_.tolist() == [1.0] * 3
    wrong = GDAClassifier().fit(X, y, text_weights=texts, validation=(X, (y + 1) % 4))
    assert wrong.alpha_ == 0.1


def test_without_labels_better_than_the_texts_and_bad_input():
    X, y, texts = cloud(50, noise=0.2)
    head = GDAClassifier(alpha=30.0).fit_unlabelled(X, text_weights=texts, classes=NAMES)
    found = (head.predict(X) == np.array(NAMES)[y]).mean()
    assert found > (head.zero_shot(X).argmax(axis=1) == y).mean()
    later = GDAClassifier(alpha=30.0).fit_unlabelled(X, text_weights=texts, n_iter=10)
    assert np.ptp(later.discriminant(X), axis=1).max() < 1e-6 < np.ptp(head.discriminant(X), axis=1).min()
    empirical = GDAClassifier(alpha=1.0, priors="empirical").fit_unlabelled(X, text_weights=texts)
    assert empirical.priors_.sum() == pytest.approx(1)
    assert np.ptp(empirical.priors_) > 0
    with pytest.raises(InputError, match="'ks'"):
        GDAClassifier(alpha=1.0, precision="mean_class_pinv").fit_unlabelled(X, text_weights=texts)
    with pytest.raises(InputError, match="at least two different classes"):
        GDAClassifier(alpha=1.0).fit_unlabelled(X, text_weights=texts[:1])
    with pytest.raises(InputError, match="for 'search'"):
        GDAClassifier().fit_unlabelled(X, text_weights=texts)


def test_a_class_that_no_row_is_given_to():
    X, _, texts = cloud(5)
    far = np.vstack([texts, -1e3 * texts[0] + texts[1]])
    head = GDAClassifier(alpha=1.0, logit_scale=1e4).fit_unlabelled(unit(X) * 0 + texts[0], text_weights=far, n_iter=3)
    assert np.isfinite(head.logits(X)).all()


def test_further_classes():
    X, y, texts = cloud(6)
    head = GDAClassifier(alpha=0.5, priors=(1.0, 2.0, 3.0, 4.0)).fit(X, y, text_weights=texts)
    more = unit(np.random.default_rng(5).normal(size=(3, 12)))
    with pytest.warns(UserWarning, match="24 rows are fewer than k = 64"):
        new = head.extend(X, text_weights=more, classes=["a", "b", "c"])
    np.testing.assert_allclose(new.means_, (unit(X).sum(axis=0) + 16 * more) / (24 + 16))
    assert new.alpha_ == 0.5
    assert set(new.predict(more)) <= {"a", "b", "c"}
    alone = head.extend(X, text_weights=more, classes=["a", "b", "c"], k=1)
    np.testing.assert_array_equal(alone.precision_, np.eye(12))
    with pytest.raises(InputError, match="one row for each of 2 classes, got 3"):
        head.extend(X, text_weights=more, classes=["a", "b"])
    with pytest.raises(InputError, match="rows of 12 coordinates"):
        head.extend(X, text_weights=more[:, :4], classes=["a", "b", "c"])


def test_the_cache_by_the_paper_equations():
    X, y, texts = cloud(3)
    test, _, _ = cloud(2, seed=1)
    alpha, beta, scale = 1.7, 3.3, 40.0
    head = TipAdapter(alpha=alpha, beta=beta, logit_scale=scale).fit(X, y, text_weights=texts)
    expected = np.zeros((len(test), 4))
    for row, image in enumerate(unit(test)):
        for c in range(4):
            expected[row, c] = scale * float(image @ texts[c])
            for key, label in zip(unit(X), y, strict=True):
                expected[row, c] += alpha * math.exp(-beta * (1 - float(image @ key))) * (label == c)
    np.testing.assert_allclose(head.logits(test), expected, rtol=1e-12)


def test_the_search_takes_the_first_best_pair():
    X, y, texts = cloud(6)
    validation = cloud(10, seed=1)[:2]
    head = TipAdapter(alphas=(0.5, 1.0, 3.0), betas=(1.0, 4.0)).fit(X, y, text_weights=texts, validation=validation)
    tried = {
        (alpha, beta): TipAdapter(alpha=alpha, beta=beta).fit(X, y, text_weights=texts).score(*validation)
        for beta in (1.0, 4.0)
        for alpha in (0.5, 1.0, 3.0)
    }
    assert (head.alpha_, head.beta_) == max(tried, key=tried.__getitem__)
    assert head.validation_accuracy_ == max(tried.values())
    fixed = TipAdapter(beta=4.0).fit(X, y, text_weights=texts, validation=validation)
    assert fixed.beta_ == 4.0


def test_tuned_keys_learn_from_queries():
    X, y, texts = cloud(4)
    further = cloud(40, seed=6)[:2]
    plain, tuned, again, seeded = (
        TipAdapter(**FIXED["tip_adapter"], **settings).fit(X, y, text_weights=texts, queries=further)
        for settings in (
            {},
            {"keys": "tuned", "epochs": 10, "batch_size": 32},
            {"keys": "tuned", "epochs": 10, "batch_size": 32},
            {"keys": "tuned", "epochs": 10, "batch_size": 32, "random_state": 1},
        )
    )
    np.testing.assert_array_equal(tuned.keys_, again.keys_)
    assert not np.array_equal(tuned.keys_, seeded.keys_)

    def loss(head):
        return float(F.cross_entropy(torch.from_numpy(head.logits(further[0])), torch.from_numpy(further[1])))

    assert loss(tuned) < loss(plain)
    itself = TipAdapter(**FIXED["tip_adapter"], keys="tuned", epochs=1).fit(X, y, text_weights=texts)
    assert not np.array_equal(itself.keys_, plain.keys_)
