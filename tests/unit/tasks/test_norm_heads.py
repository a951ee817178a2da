"""Heads on norms: what they read, that their files come back, and what they refuse."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

import tether
from tether.core.errors import InputError
from tether.data.sets.norms import NormItem, NormTable
from tether.methods.norm_conflicts import (
    CLAUSE_FEATURES,
    CentroidConflict,
    ConflictClassifier,
    PairFeatures,
    clause_features,
)
from tether.methods.normbank import NormPrompts
from tether.tasks.norms import (
    AskedChooser,
    EmbeddingChooser,
    ModelTexts,
    NormClassifier,
    NormThinker,
    TfidfEncoder,
    combined,
    norm_encoder,
)

PLACES, ACTS = ("bus", "park", "choir", "library"), ("sing", "shout", "read", "sleep")


def table(n: int = 48) -> NormTable:
    rng = np.random.default_rng(0)
    where, what = rng.integers(4, size=n), rng.integers(4, size=n)
    labels = tuple(("bad", "good", "fine")[2 if a == 2 else int(p == 2)] for p, a in zip(where, what, strict=True))
    return NormTable(
        "mine",
        {"place": tuple(PLACES[p] for p in where), "act": tuple(ACTS[a] for a in what)},
        labels,
        ("bad", "good", "fine"),
        tuple(map(str, range(n))),
        tuple(range(2, n + 2)),
        "one person",
        numbers={"length": rng.normal(size=n), "same": np.ones(n)},
    )


@pytest.mark.parametrize("head", ["svm", "logistic", "mlp"])
@pytest.mark.parametrize("two", [True, False])
def test_a_head_learns_and_comes_back_from_its_file(tmp_path, head, two):
    known = (
        table() if two else replace(table(), labels=tuple("bad" if one == "bad" else "good" for one in table().labels))
    )
    whole = NormClassifier("tfidf", fields=["place", "act"], head=head, numbers=True).fit(known)
    assert np.mean([a == b for a, b in zip(whole.predict(known), known.labels, strict=True)]) > 0.8
    whole.save(tmp_path / "head.safetensors")
    again = NormClassifier.load(tmp_path / "head.safetensors")
    np.testing.assert_allclose(again.scores(known), whole.scores(known), rtol=1e-12)
    assert again.classes_ == whole.classes_


def test_scores_are_those_of_scikit_learn():
    from sklearn.svm import LinearSVC

    known = table()
    found = NormClassifier("tfidf", fields=["place", "act"]).fit(known)
    svm = LinearSVC(class_weight="balanced", random_state=0, max_iter=5000).fit(found.rows(known), known.codes)
    np.testing.assert_allclose(found.scores(known), svm.decision_function(found.rows(known)))


def test_what_is_not_a_head_is_refused(tmp_path):
    known = table()
    whole = NormClassifier("tfidf", fields=["act"])
    with pytest.raises(InputError, match="fit it first"):
        whole.scores(known)
    with pytest.raises(InputError, match="fit it first"):
        whole.save(tmp_path / "head.safetensors")
    with pytest.raises(InputError, match="all 48 rows have the label 'bad'"):
        whole.fit(replace(known, labels=("bad",) * 48))
    with pytest.raises(InputError, match="fields: expected some of place, act, got 'why'"):
        NormClassifier("tfidf", fields=["why"]).fit(known)
    with pytest.raises(InputError, match="expected tfidf, tfidf-letters, minilm"):
        NormClassifier(3, fields=["act"])
    with pytest.raises(InputError, match="no numbers"):
        NormClassifier("tfidf", fields=["act"], numbers=True).fit(replace(known, numbers={}))
    (tmp_path / "odd.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="not a safetensors file"):
        NormClassifier.load(tmp_path / "odd.safetensors")


def test_a_head_is_bound_to_its_encoder(tmp_path):
    model, known = tether.load("tiny", random_weights=True), table()
    whole = NormClassifier(model, fields=["place", "act"]).fit(known)
    whole.save(tmp_path / "head.safetensors")
    again = NormClassifier.load(tmp_path / "head.safetensors", encoder=model)
    np.testing.assert_allclose(again.scores(known), whole.scores(known), rtol=1e-6)
    with one_weight_moved(model) as other, pytest.raises(InputError, match="was fitted on"):
        NormClassifier.load(tmp_path / "head.safetensors", encoder=other)


@contextlib.contextmanager
def one_weight_moved(model):
    weight = next(value for name, value in model.state_dict().items() if name.startswith("text"))
    weight += 1
    yield ModelTexts(model)
    weight -= 1


class Broken:
    name, digest = "broken", "0"

    def fit(self, texts):
        return self

    def encode(self, texts):
        return np.full((len(texts), 3), np.nan)


def test_an_encoder_that_gives_nan_is_refused():
    with pytest.raises(InputError, match="NaN or infinity"):
        NormClassifier(Broken(), fields=["act"]).fit(table())


@pytest.mark.parametrize("how", ["pair", "concat", "offset", "mean", "both"])
def test_pairs_are_equal_dense_and_sparse(how):
    a, b = np.random.default_rng(1).normal(size=(2, 5, 3))
    np.testing.assert_allclose(
        combined(sparse.csr_matrix(a), sparse.csr_matrix(b), how=how).toarray(), combined(a, b, how=how)
    )
    if how == "pair":
        np.testing.assert_allclose(combined(a, b), np.hstack([a, b, a * b, np.abs(a - b)]))
    if how == "mean":
        np.testing.assert_allclose(combined(a, b, how=how), combined(b, a, how=how))
    with pytest.raises(InputError, match="two arrays"):
        combined(a, b[:, :2], how=how)


def test_tfidf_says_what_it_cannot_read():
    with pytest.raises(InputError, match="fit it first"):
        TfidfEncoder().encode(["a"])
    with pytest.raises(InputError, match="texts"):
        TfidfEncoder().fit(["...", "!"])
    with pytest.raises(InputError, match="shortest <= longest"):
        TfidfEncoder(ngrams=(3, 1))
    one, two = (TfidfEncoder().fit(texts) for texts in (["a b", "b"], ["a c", "c"]))
    assert one.digest != two.digest
    assert TfidfEncoder(components=2).fit(["a b", "b c", "c d"]).encode(["a", "zzz"]).shape == (2, 2)
    assert norm_encoder("tfidf-letters").fit(["你好"]).encode(["你"]).nnz > 0


def test_clauses_by_what_they_say():
    rows = clause_features(["The bank must pay 3 euros."], ["The bank must not pay 4 euros unless asked."])
    told = {name for name, value in zip(CLAUSE_FEATURES, rows[0], strict=True) if value == 1}
    assert rows.shape == (1, 17)
    assert {"prohibition_differs", "negation_differs", "condition_second", "numbers_differ"} <= told
    with pytest.raises(InputError, match="as many second ones"):
        clause_features(["a"], [])


@pytest.mark.parametrize("part", [CentroidConflict(), ConflictClassifier()])
def test_pairs_of_clauses_that_are_none(part):
    good, labels = np.random.default_rng(2).normal(size=(6, 2, 4)), np.array([0, 1, 0, 1, 0, 1])
    part.fit(good, labels)
    for rows, message in ((good[:, :1], r"expected \(n, 2, d\)"), (good * np.nan, "NaN"), (good[0], r"\(n, 2, d\)")):
        with pytest.raises(InputError, match=message):
            part.fit(rows, labels[: len(rows)])
    with pytest.raises(InputError, match="labels"):
        part.fit(good, np.zeros(6, dtype=int))
    with pytest.raises(InputError, match="labels"):
        part.fit(good, labels[:3])
    with pytest.raises(InputError, match="labels"):
        part.fit(good, labels - 1)


def test_a_tie_and_a_row_of_zeros_are_no_conflict():
    pairs = np.array([[[1.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    for distance in ("euclidean", "cosine"):
        found = CentroidConflict(distance=distance).fit(pairs[:2], np.array([1, 0]))
        assert found.predict(pairs).tolist() == [1, 0, 0]
    with pytest.raises(InputError, match="expected rows of 2 numbers"):
        found.predict(np.zeros((1, 2, 3)))


def item(name: str, desc: str, *, right: int = 0) -> NormItem:
    options = ("wait in line", "push ahead", "")
    return NormItem(name, options, ("they came first", "no time", ""), right, (right,), ((), (), ()), desc)


def test_choosers_need_a_scene_and_never_look_at_the_one_asked():
    known = [item("1", "a full bakery"), item("2", "a quiet lake"), item("3", "a bakery counter")]
    with pytest.raises(InputError, match="fit it first"):
        EmbeddingChooser("tfidf").answer(known)
    with pytest.raises(InputError, match="item '9': no desc of its scene"):
        EmbeddingChooser("tfidf").fit(known).answer([item("9", " ")])
    with pytest.raises(InputError, match="none has a desc"):
        NormThinker("tfidf").fit([item("9", "")])
    with pytest.raises(InputError, match="at least one"):
        EmbeddingChooser("tfidf").fit([])
    blind = EmbeddingChooser("tfidf", context="blind").fit(known)
    assert blind.answer([item("9", "")]).best.tolist()[0][0] == 0
    thinker = NormThinker("tfidf", k=2).fit(known)
    assert thinker.neighbours(known[0]) == ("3", "2")
    assert thinker.answer(known).best.shape == (3, 2)


def _changed(path, *, settings=None, arrays=None):
    from safetensors.numpy import load_file, save_file

    told = {"classes": ["bad", "good", "fine"], "columns": []} | {
        "fields": ["act"], "combine": "pair", "head": "svm", "C": 1.0, "numbers": False, "seed": 0,
    }  # fmt: skip
    known = NormClassifier("tfidf", fields=["act"]).fit(table())
    words, _ = known.encoder.state()
    told |= {"digest": known.encoder.digest, "encoder": "tfidf", "tfidf": words} | (settings or {})
    known.save(path)
    save_file(
        load_file(path) | (arrays or {}), path, {"format": "tether-norm-classifier-1", "settings": json.dumps(told)}
    )
    return path


def test_a_forged_head_is_read_where_nothing_is_changed(tmp_path):
    assert NormClassifier.load(_changed(tmp_path / "h.safetensors")).predict(table())[0] in ("bad", "good", "fine")


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": {"weight0": np.full((4, 3), np.nan)}},
        {"arrays": {"weight0": np.zeros((4, 5)), "bias0": np.zeros(5)}},
        {"arrays": {"weight0": np.zeros(4)}},
        {"arrays": {"weight1": np.zeros((9, 3)), "bias1": np.zeros(3)}},
        {"settings": {"columns": ["depth"]}},
        {"settings": {"classes": ["bad"]}},
        {"settings": {"classes": [1, None, "x"]}},
        {"settings": {"tfidf": "ab"}},
        {"settings": {"tfidf": {"words": ["a", "a", "b", "c"], "ngrams": [1, 2]}}},
        {"settings": {"tfidf": {"words": [1, 2, 3, 4], "ngrams": [1, 2]}}},
    ],
)
def test_heads_whose_weights_do_not_fit(tmp_path, change):
    with pytest.raises(InputError):
        NormClassifier.load(_changed(tmp_path / "h.safetensors", **change))


@pytest.mark.parametrize("head", ["svm", "logistic", "mlp"])
def test_a_seed_beyond_what_scikit_learn_takes(head):
    assert NormClassifier("tfidf", fields=["act"], head=head, seed=2**40).fit(table()).predict(table())


def test_a_head_of_other_rows_is_refused(tmp_path):
    path = _changed(tmp_path / "h.safetensors", arrays={"weight0": np.zeros((7, 3)), "bias0": np.zeros(3)})
    with pytest.raises(InputError, match="expected rows of 7 numbers"):
        NormClassifier.load(path).predict(table())


def test_a_head_never_says_which_model_is_opened(tmp_path, monkeypatch):
    path = _changed(tmp_path / "h.safetensors", settings={"encoder": "hf:evil/model", "tfidf": None})
    monkeypatch.setattr("tether.models.load.load", lambda *_, **__: pytest.fail("opened what the file names"))
    with pytest.raises(InputError, match="fitted on 'hf:evil/model'; give that model as the encoder"):
        NormClassifier.load(path)


def test_each_text_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr("tether.tasks.norms.encoders.encode_texts", lambda _, texts: read.append(list(texts)) or ROWS)
    encoder = ModelTexts(tether.load("tiny", random_weights=True))
    first, second = encoder.encode(["a", "b", "a"]), encoder.encode(["b"])
    assert read == [["a", "b"]]
    np.testing.assert_array_equal(first[1], second[0])


ROWS = torch.eye(2)


@pytest.mark.parametrize("encoder", ["tfidf", "letters in twos"])
@pytest.mark.parametrize("head", [None, LinearSVC, LogisticRegression(C=5.0)])
def test_pairs_of_texts_by_the_names_of_the_sheet(encoder, head):
    texts = [(f"the {a} shall pay", f"the {a} {b} pay") for a in ("bank", "tenant", "buyer") for b in ("may", "shall")]
    chosen = TfidfEncoder(analyzer="char_wb", ngrams=(2, 2)) if encoder != "tfidf" else encoder
    found = ConflictClassifier(chosen, "offset", head=head).fit(texts, [1.0, 0.0] * 3)
    assert found.predict(texts).tolist() == [1, 0] * 3
    assert set(found.get_params()) >= {"encoder", "mode", "head"}
    with pytest.raises(InputError, match="two texts each"):
        found.predict([("one",)])


def test_pair_features_are_a_step_of_scikit_learn():
    rows, labels = np.random.default_rng(0).normal(size=(6, 2, 4)), np.array([0, 1] * 3)
    np.testing.assert_array_equal(PairFeatures("both").fit_transform(rows)[:, 8:], rows[:, 0] - rows[:, 1])
    assert make_pipeline(PairFeatures(mode="concat"), LinearSVC()).fit(rows, labels).predict(rows).shape == (6,)
    with pytest.raises(InputError, match="combine: expected"):
        PairFeatures("sum").transform(rows)


def test_a_label_by_the_sentence_that_says_it():
    known = table()
    found = NormPrompts(tether.load("tiny", random_weights=True), fields=["place", "act"]).fit(known)
    assert found.scores(known).shape == (48, 3)
    assert np.abs(found.scores(known)).max() <= 1 + 1e-6
    with pytest.raises(InputError, match="fit them first"):
        NormPrompts("tfidf", fields=["act"]).predict(known)
    with pytest.raises(InputError, match="where the label goes"):
        NormPrompts("tfidf", fields=["act"], template="so")


def test_a_perfect_language_model_is_right_and_nonsense_is_no_answer():
    items = [item(str(number), "a full bakery") for number in range(20)]
    right = ("wait in line", "they came first")

    def ask(question):
        return next(line.split(".")[0] for line in question.splitlines() if line.endswith(right))

    assert AskedChooser(ask).answer(items).best.tolist() == [[0, 0]] * 20
    odd = AskedChooser(lambda _: "7 or so").answer(items[:1])
    assert (odd.best.tolist(), odd.sensible) == ([[-1, -1]], (None,))
