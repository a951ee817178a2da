"""Prompts tuned on ratings, audits and words: exact identities first, then every pitfall and bad input."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from encoders import ENCODERS
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.methods.q16 import DatasetAudit, chi_squared_weights, contrast_words, word_frequencies
from tether.models import create
from tether.models.embed import encode_images, encode_texts
from tether.space.validation import checked_unit_rows
from tether.tasks.safety import PromptClassifier, prompt_loss
from tether.tasks.safety.prompt_tuning import other_share

D = 12
LABELS = ("acceptable", "inappropriate")


def rows(n: int = 60, *, seed: int = 0, apart: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X = rng.normal(size=(n, D))
    X[:, 0] += apart * (2 * y - 1)
    return 3 * X, y


def prompts(seed: int = 1) -> np.ndarray:
    return 5 * np.random.default_rng(seed).normal(size=(2, D))


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8)])
def test_loss_and_gradient_are_those_of_autograd(weights):
    X, y = rows(17)
    P = torch.tensor(prompts(), requires_grad=True)
    logits = 100 * F.normalize(torch.from_numpy(X)) @ F.normalize(P).T
    loss = F.cross_entropy(logits, torch.from_numpy(y), weight=torch.tensor(weights, dtype=torch.float64))
    loss.backward()
    found = prompt_loss(
        prompts(), features=checked_unit_rows(X, name="X"), y=y, class_weight=np.array(weights), scale=100.0
    )
    assert P.grad is not None
    np.testing.assert_allclose(found.loss, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(found.gradient, P.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((found.gradient * prompts()).sum(axis=1), 0, atol=1e-12)
    longer = prompt_loss(
        2 * prompts(), features=checked_unit_rows(X, name="X"), y=y, class_weight=np.array(weights), scale=100.0
    )
    np.testing.assert_allclose(longer.gradient, found.gradient / 2, rtol=1e-9)  # goes with 1 / length


def test_fit_is_sgd_with_momentum_of_torch():
    X, y = rows(50)
    P = torch.nn.Parameter(torch.tensor(prompts()))
    optimizer = torch.optim.SGD([P], lr=0.02, momentum=0.7)
    weight = torch.from_numpy(other_share(np.bincount(y)))
    for _ in range(4):
        for some in torch.arange(50).split(16):
            logits = 30 * F.normalize(torch.from_numpy(X)[some]) @ F.normalize(P).T
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.from_numpy(y)[some], weight=weight).backward()
            optimizer.step()
    tuned = PromptClassifier(
        prompts=prompts(), scale=30.0, lr=0.02, momentum=0.7, epochs=4, batch_size=16, order="given"
    ).fit(X, y)
    np.testing.assert_allclose(tuned.prompts_, P.detach().numpy(), rtol=1e-10)
    assert tuned.epoch_ == len(tuned.history_) == 4


def test_weights_are_the_share_of_the_other_class():
    np.testing.assert_array_equal(other_share([49, 49]), [0.5, 0.5])
    np.testing.assert_array_equal(other_share([1, 3]), [0.75, 0.25])


def test_a_common_factor_of_the_weights_changes_nothing():
    X, y = rows()
    one, two = (
        PromptClassifier(prompts=prompts(), class_weight=[a, b], epochs=5).fit(X, y).prompts_
        for a, b in ((0.5, 0.5), (3.0, 3.0))
    )
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_tuning_finds_the_classes_and_says_how_it_went():
    X, y = rows(200)
    tuned = PromptClassifier(prompts=prompts(), epochs=60).fit(X, y)
    other, truth = rows(400, seed=5)
    before = PromptClassifier(prompts=prompts()).start().report(other, truth)
    after = tuned.report(other, truth)
    assert after.balanced > max(before.balanced, 0.75) + 0.1
    assert after.confusion.sum() == 400
    np.testing.assert_allclose(after.by_class, np.diag(after.confusion) / after.confusion.sum(axis=1))
    assert tuned.history_[-1].loss < tuned.history_[0].loss


def test_accuracy_is_a_mean_over_batches():
    X, y = rows(5)
    classifier = PromptClassifier(prompts=prompts()).start()
    right = (classifier.predict(X) == y).astype(float)
    assert classifier.report(X, y, batch_size=4).accuracy == pytest.approx((right[:4].mean() + right[4]) / 2)
    assert classifier.report(X, y, batch_size=5).accuracy == pytest.approx(right.mean())


def test_length_of_rows_does_not_matter_and_a_batch_of_one_is_one():
    X, y = rows(65)
    one, two = (PromptClassifier(prompts=prompts(), epochs=3).fit(factor * X, y) for factor in (1.0, 1e-200))
    np.testing.assert_allclose(one.prompts_, two.prompts_, rtol=1e-9)  # the last batch of 64 has one row
    assert one.predict_proba(X[:1]).shape == (1, 2)
    np.testing.assert_allclose(one.predict_proba(X).sum(axis=1), 1)


def test_the_same_seed_gives_the_same_and_another_order_another():
    X, y = rows(100)
    first, again, other, given = (
        PromptClassifier(prompts=prompts(), epochs=3, **settings).fit(X, y).prompts_
        for settings in ({}, {}, {"random_state": 7}, {"order": "given"})
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, given)


def test_passes_one_by_one_are_a_fit():
    X, y = rows(90)
    whole = PromptClassifier(prompts=prompts(), epochs=6).fit(X, y)
    begun = PromptClassifier(prompts=prompts(), epochs=2).fit(X, y)
    for _ in range(4):
        begun.partial_fit(X, y)
    np.testing.assert_allclose(begun.prompts_, whole.prompts_, rtol=1e-12)
    assert begun.epoch_ == 6


def test_a_saved_one_goes_on_where_it_stopped(tmp_path: Path):
    X, y = rows(90)
    whole = PromptClassifier(prompts=prompts(), epochs=6, labels=LABELS, digest="a" * 32, backbone="mine").fit(X, y)
    part = PromptClassifier(prompts=prompts(), epochs=3, labels=LABELS, digest="a" * 32, backbone="mine").fit(X, y)
    part.save(tmp_path / "one.safetensors")
    found = PromptClassifier.load(tmp_path / "one.safetensors", digest="a" * 32)
    np.testing.assert_array_equal(found.predict_proba(X), part.predict_proba(X))
    assert (found.epoch_, found.labels_, found.backbone) == (3, LABELS, "mine")
    for _ in range(3):
        found.partial_fit(X, y)
    # counts of the rows seen grow with each call, their shares do not
    np.testing.assert_allclose(found.prompts_, whole.prompts_, rtol=1e-12)
    with pytest.raises(InputError, match="fitted on mine"):
        PromptClassifier.load(tmp_path / "one.safetensors", digest="b" * 32)
    with pytest.raises(InputError, match="either the encoder or its digest"):
        PromptClassifier.load(tmp_path / "one.safetensors")


@pytest.mark.parametrize("kind", ENCODERS)
def test_pictures_and_their_embeddings_give_the_same(kind, tmp_path: Path):
    model = ENCODERS[kind](tmp_path)
    size = model.image_spec.size
    pixels = torch.randint(0, 256, (12, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = np.arange(12) % 2
    features = encode_images(model, [pixels]).double().numpy()
    texts = ("a small cat", "the red dog")
    by_pictures = PromptClassifier(encoder=model, init_texts=texts, epochs=3).fit(pixels, y)
    start = encode_texts(model, texts).double().numpy()
    by_rows = PromptClassifier(prompts=start, digest=model_digest(model), epochs=3).fit(features, y)
    np.testing.assert_allclose(by_pictures.prompts_, by_rows.prompts_, rtol=1e-9)
    np.testing.assert_allclose(by_pictures.predict_proba(pixels), by_rows.predict_proba(features), atol=1e-9)
    by_rows.save(tmp_path / "rows.safetensors")
    assert PromptClassifier.load(tmp_path / "rows.safetensors", encoder=model).predict(pixels).shape == (12,)
    with pytest.raises(InputError, match="not on this one"):
        PromptClassifier.load(tmp_path / "rows.safetensors", encoder=create("tiny", seed=99).eval())


def test_three_classes_of_words():
    X, _ = rows(90)
    names = np.array(["bad", "fine", "good"])[np.arange(90) % 3]
    X[:, 1] += 4 * (np.arange(90) % 3 == 2)
    three = PromptClassifier(epochs=20).fit(X, names)
    assert three.classes_.tolist() == three.labels_ == ["bad", "fine", "good"] or three.labels_ == (
        "bad",
        "fine",
        "good",
    )
    assert three.predict_proba(X).shape == (90, 3)
    with pytest.raises(InputError, match="one of the classes"):
        three.report(X, np.full(90, "odd"))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"class_weight": [1.0]}, "class_weight"),
        ({"labels": ["one"]}, "labels"),
        ({"prompts": np.zeros((2, D))}, "prompts: 2 of 2 rows are zero"),
        ({"prompts": np.full((2, D), np.nan)}, "prompts"),
        ({"prompts": np.ones((2, D + 1))}, "rows of 13 features"),
        ({"prompts": np.eye(3, D)}, "expected 3 classes"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    X, y = rows(10)
    with pytest.raises(InputError, match=match):
        PromptClassifier(**{"prompts": prompts(), **settings}).fit(X, y)


def test_wrong_rows_are_refused():
    X, y = rows(10)
    fitted = PromptClassifier(prompts=prompts(), epochs=1).fit(X, y)
    empty = X.copy()
    empty[3] = 0
    for call in (lambda: fitted.predict(empty), lambda: PromptClassifier(prompts=prompts()).fit(empty, y)):
        with pytest.raises(InputError, match="first is row 3"):
            call()
    with pytest.raises(ValueError, match="features"):
        fitted.predict(X[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        fitted.predict(np.full((1, D), np.nan))
    with pytest.raises(InputError, match="one class"):
        PromptClassifier(prompts=prompts()).fit(X, np.ones(10))
    with pytest.raises(InputError, match="encoder"):
        PromptClassifier(prompts=prompts()).fit(torch.zeros(10, 3, 8, 8), y)
    with pytest.raises(InputError, match="neither"):
        PromptClassifier().start()
    with pytest.raises(InputError, match="rows of each class"):
        PromptClassifier(prompts=prompts()).partial_fit(X[::2], y[::2], classes=[0, 1])
    with pytest.raises(InputError, match="digest"):
        fitted.save("never.safetensors")


def test_no_pickle_and_no_other_file_is_loaded(tmp_path: Path):
    (tmp_path / "text").write_text("no tensors")
    for path in (tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(InputError):
            PromptClassifier.load(path, digest="a")


def test_half_precision_loses_ties_where_float64_does_not():
    near = np.ones((2, D))
    near[1, 0] += 1e-4  # gone in float16
    classifier = PromptClassifier(prompts=near).start()
    row = np.zeros((1, D))
    row[0, 0] = 1.0
    assert classifier.predict(row).tolist() == [1]
    assert PromptClassifier(prompts=near.astype(np.float16)).start().predict(row).tolist() == [0]


def audit(**settings) -> tuple[DatasetAudit, np.ndarray]:
    X, y = rows(200, apart=2.0)
    classifier = PromptClassifier(prompts=prompts(), labels=LABELS, backbone="tiny", digest="c" * 32).fit(X, y)
    return DatasetAudit(classifier, rating_source="scratches of a test", **settings), X


def test_audit_flags_by_threshold_and_says_possibly():
    one, X = audit()
    n = len(X)
    things = [("cup", "lamp", "bell", "door", "rope")[row // 2 % 5] for row in range(n)]
    captions = [(f"a {'scratched' if row % 2 else 'clean'} {thing}", f"a {thing}") for row, thing in enumerate(things)]
    report = one.run(X, ids=[f"p{row}" for row in range(n)], captions=captions, classes=["cup"] * (n - 1) + ["a|b"])
    chance = one.classifier.predict_proba(X)[:, 1]
    assert {picture.id for picture in report.flagged} == {f"p{row}" for row in np.flatnonzero(chance >= 0.9)}
    scores = [picture.score for picture in report.flagged]
    assert scores == sorted(scores, reverse=True)
    cosines = one.classifier.cosines(X)
    first = report.flagged[0]
    row = int(first.id[1:])
    assert first.margin == pytest.approx(cosines[row, 1] - cosines[row, 0])
    assert report.counts.sum() == report.total == n
    assert report.words[0][0] == "scratched"
    text = report.to_markdown()
    for expected in (
        "Possibly",
        "possibly inappropriate",
        "tiny",
        "c" * 12,
        "scratches of a test",
        "a\\|b",
        "scratched",
    ):
        assert expected in text
    assert "![" not in text
    assert "<img" not in text
    table = list(csv.reader(report.to_csv().splitlines()))
    assert len(table) == len(report.flagged) + 1


def test_a_probability_of_090_is_a_difference_of_0022_in_cosine():
    prompts_ = np.zeros((2, D))
    prompts_[0, 0] = prompts_[1, 1] = 1
    row = np.zeros((1, D))
    angle = math.pi / 4 + math.asin(0.022 / math.sqrt(2))
    row[0, 0], row[0, 1] = math.cos(angle), math.sin(angle)
    classifier = PromptClassifier(prompts=prompts_).start()
    difference = np.diff(classifier.cosines(row))[0, 0]
    assert difference == pytest.approx(0.022)
    assert classifier.predict_proba(row)[0, 1] == pytest.approx(0.9, abs=3e-3)


def test_the_dot_rule_differs_where_prompts_differ_in_length():
    X, _ = rows(200)
    base = checked_unit_rows(prompts(), name="prompts")
    classifier = PromptClassifier(prompts=base * [[1.0], [6.0]], labels=LABELS).start()
    ids = [str(row) for row in range(len(X))]
    cosine, dot = (DatasetAudit(classifier, rule=rule).run(X, ids=ids) for rule in ("cosine", "official_dot"))
    assert dot.threshold is None
    assert {picture.id for picture in dot.flagged} == set(
        map(str, np.flatnonzero((X @ base.T * [1.0, 6.0]).argmax(axis=1) == 1))
    )
    assert {picture.id for picture in cosine.flagged} != {picture.id for picture in dot.flagged}


def test_wrong_audits_are_refused():
    one, X = audit()
    ids = [str(row) for row in range(len(X))]
    with pytest.raises(InputError, match="ids"):
        one.run(X, ids=ids[:-1])
    with pytest.raises(InputError, match="captions"):
        one.run(X, ids=ids, captions=["a"])
    with pytest.raises(InputError, match="at least one image"):
        one.run(X[:0], ids=[])
    with pytest.raises(InputError, match="zero"):
        one.run(np.zeros((1, D)), ids=["a"])
    with pytest.raises(InputError, match="flagged_class"):
        audit(flagged_class=2)


def test_an_audit_without_a_flag_or_without_words_is_one():
    one, X = audit(threshold=1.0)
    ids = [str(row) for row in range(len(X))]
    report = one.run(X, ids=ids, captions=["???"] * len(X))
    assert report.words == ()
    assert (
        "0 (0.00%)"
        in DatasetAudit(PromptClassifier(prompts=prompts()).start())
        .run(checked_unit_rows(prompts(), name="p")[:1], ids=["a"])
        .to_markdown()
    )


def test_words_that_only_flagged_captions_have_are_hidden_by_a_hundred():
    observed, expected = {"only": 1.0, "both": 0.5}, {"both": 0.5, "other": 1.0}
    hidden = chi_squared_weights(observed, expected=expected, missing="hundred")
    shown = chi_squared_weights(observed, expected=expected)
    assert hidden.weights == {"only": 0.0, "both": 0.0}
    assert shown.weights["only"] == pytest.approx((1 - 0.5) ** 2 / 0.5)
    assert shown.top(5) == (("only", shown.weights["only"]),)


def test_frequencies_are_relative_and_fixed_pairs_are_terms():
    texts = ["traffic light at night"] * 30 + ["a cup", "the cup", "lamp"] * 25
    found = word_frequencies(texts)
    assert max(found.values()) == 1.0
    assert found["traffic light"] == pytest.approx(0.6)
    assert "traffic" not in found  # its every place is in the pair
    assert "the" not in found
    assert "light" in word_frequencies(texts, ngrams=(1,))
    assert "traffic light" not in word_frequencies(texts, collocation=1e9)


def test_pairs_do_not_reach_across_captions():
    assert not [term for term in word_frequencies(["red", "cup"] * 50, collocation=0.0) if " " in term]


def test_words_of_any_script_and_size():
    texts = ["Café CAFÉ cafe\u0301", "שלום עולם", "हिन्दी शब्द", "2024 10 dog's dog", "", "💥", "x" * 1_000_000]
    found = word_frequencies(texts)
    assert found["café"] == 1.0
    assert {"שלום", "עולם", "हिन्दी", "शब्द", "dog"} <= found.keys()
    assert "2024" not in found
    assert word_frequencies([]) == {}


def test_wrong_words_are_refused():
    with pytest.raises(InputError, match="no word to compare"):
        contrast_words(["a cup"], other_texts=["..."])
    with pytest.raises(InputError, match="ngrams"):
        word_frequencies(["cup"], ngrams=(2,))
    with pytest.raises(InputError, match="texts"):
        word_frequencies("cup")
    with pytest.raises(InputError, match="frequency"):
        chi_squared_weights({"a": -1.0}, expected={"a": 1.0})
    with pytest.raises(InputError, match="frequency"):
        chi_squared_weights({"a": 1.0}, expected={"a": 0.0})


def test_a_refused_pass_changes_nothing():
    X, y = rows(10)
    fresh = PromptClassifier(prompts=prompts())
    with pytest.raises(InputError, match="rows of each class"):
        fresh.partial_fit(X[::2], y[::2], classes=[0, 1])
    assert not hasattr(fresh, "prompts_")
    fresh.partial_fit(X[:6], y[:6], classes=[0, 1])
    assert fresh.class_count_.tolist() == [3, 3]
    before = fresh.prompts_.copy()
    fresh.class_weight = [1.0, 1.0, 1.0]
    with pytest.raises(InputError, match="class_weight"):
        fresh.partial_fit(X[:6], y[:6])
    assert fresh.class_count_.tolist() == [3, 3]
    assert np.array_equal(fresh.prompts_, before)
    plain = PromptClassifier(prompts=prompts(), class_weight="none").partial_fit(X[::2], y[::2], classes=[0, 1])
    assert plain.class_count_.tolist() == [5, 0]
