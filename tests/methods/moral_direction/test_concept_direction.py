"""Directions fitted on poles: sign, scale, templates, encoders of every kind, the filter, state, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_models_wrapped import BUILDERS as WRAPPED

from tether.core.errors import InputError
from tether.methods.moral_direction import (
    ConceptDirection,
    DirectionLogitsProcessor,
    MoralDirection,
    QuestionAnswerScore,
    question_answer_score,
)
from tether.methods.moral_direction.moral_direction import NO, QUESTIONS, YES
from tether.models import create
from tether.models.embed import encode_texts

GOOD, BAD = ["help", "thank", "love", "greet"], ["kill", "steal", "harm", "cheat"]
WORDS = {**dict.fromkeys(GOOD, 1.0), **dict.fromkeys(BAD, -1.0)}


@pytest.fixture
def poles():
    """Twelve rows along one direction of ten, the first six good."""
    rng = np.random.default_rng(0)
    way, y = rng.standard_normal(10), np.repeat([1.0, 0.0], 6)
    return 5 + np.outer(2 * y - 1, way) + 0.2 * rng.standard_normal((12, 10)), y


def toy_encoder(texts):
    """Embeds by the words it finds: their polarity, their length and the text's length."""
    rows = []
    for text in texts:
        words = text.lower().strip("?.").split()
        polarity = sum(WORDS.get(word, 0.0) for word in words)
        rows.append([3 * polarity, 0.1 * len(text), 0.2 * sum(map(ord, text)) % 1.0, 1.0])
    return np.array(rows)


def fitted(encoder=toy_encoder, **settings):
    return MoralDirection(encoder, n_components=3, **settings).fit(good=GOOD, bad=BAD)


# On embeddings.


def test_scores_run_from_one_pole_to_the_other_within_one(poles):
    rows, y = poles
    direction = ConceptDirection().fit(rows, y)
    scores = direction.score_samples(rows)
    assert (scores[:6] > 0).all()
    assert (scores[6:] < 0).all()
    assert np.abs(scores).max() == pytest.approx(1.0)
    assert scores.mean() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_array_equal(direction.transform(rows), scores[:, None])
    assert direction.clarity_ > 10


def test_it_is_the_first_principal_component(poles):
    from sklearn.decomposition import PCA

    rows, y = poles
    direction, plain = ConceptDirection(n_components=4).fit(rows, y), PCA(4, svd_solver="full").fit(rows)
    np.testing.assert_allclose(direction.explained_variance_ratio_, plain.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(direction.coordinates(rows)), np.abs(plain.transform(rows)), atol=1e-10)


def test_turning_the_poles_turns_the_sign_and_nothing_else(poles):
    rows, y = poles
    one, other = ConceptDirection().fit(rows, y), ConceptDirection().fit(rows, 1 - y)
    np.testing.assert_allclose(other.score_samples(rows), -one.score_samples(rows))
    mirrored = ConceptDirection().fit(-rows, y)
    np.testing.assert_allclose(mirrored.score_samples(-rows), one.score_samples(rows))


@pytest.mark.parametrize("order", [range(12), range(11, -1, -1), [6, 0, 7, 1, 8, 2, 9, 3, 10, 4, 11, 5]])
def test_the_anchor_rule_gives_the_same_sign_in_any_order(poles, order):
    """The release's cluster numbers depend on the order of its verbs; the sign must not."""
    rows, y = poles
    order = list(order)
    direction = ConceptDirection(anchor=order.index(8)).fit(rows[order])
    np.testing.assert_allclose(direction.score_samples(rows), ConceptDirection().fit(rows, y).score_samples(rows))
    assert set(direction.labels_) == {0, 1}


def test_a_scale_of_ones_own(poles):
    rows, y = poles
    plain = ConceptDirection().fit(rows, y)
    scaled = ConceptDirection(scale=2.0).fit(rows, y)
    np.testing.assert_allclose(scaled.score_samples(rows) * 2.0, plain.score_samples(rows) * plain.scale_)


def test_graded_poles_are_taken_by_their_trend(poles):
    rows, _ = poles
    grades = ConceptDirection().fit(rows, np.arange(12.0)).score_samples(rows)
    assert grades[:6].mean() < grades[6:].mean()


def test_rank_deficient_examples_are_no_trouble(poles):
    rows, y = poles
    doubled = np.column_stack([rows, rows])
    np.testing.assert_allclose(
        ConceptDirection().fit(doubled, y).score_samples(doubled), ConceptDirection().fit(rows, y).score_samples(rows)
    )
    line = np.outer(2 * y - 1, np.ones(3))
    assert ConceptDirection(n_components=1).fit(line, y).clarity_ == np.inf


def test_bad_embeddings(poles):
    rows, y = poles
    hole = rows.copy()
    hole[2, 3] = np.nan
    for settings, given, poles_given, message in (
        ({}, hole, y, "NaN"),
        ({}, rows, y[:5], "inconsistent"),
        ({}, np.ones((5, 3)), None, "all equal"),
        ({}, rows[:1], y[:1], "minimum of 2"),
        ({"n_components": 11}, rows, y, "expected 1 to 10"),
        ({"anchor": 12}, rows, None, "anchor"),
    ):
        with pytest.raises(ValueError, match=message):
            ConceptDirection(**settings).fit(given, poles_given)
    with pytest.raises(ValueError, match="features"):
        ConceptDirection().fit(rows, y).score_samples(rows[:, :4])


# On texts.


def test_phrases_are_scored_in_templates_and_bare():
    moral = fitted()
    scores = moral.transform(["help friends", "kill people", "read a book"])
    assert scores[0] > 0.3
    assert scores[1] < -0.3
    assert abs(scores[2]) < 0.3
    assert moral.sign_ in (1, -1)
    assert len(moral.explained_variance_ratio_) == 3
    asked = moral.embed(["help"])
    by_hand = np.mean([toy_encoder([template.replace("{}", "help")])[0] for template in QUESTIONS], axis=0)
    np.testing.assert_allclose(asked[0], by_hand)
    np.testing.assert_allclose(moral.embed(["help"], form="bare"), toy_encoder(["help"]))
    assert moral.transform(["They kill again."], form="bare")[0] < -0.3


def test_both_sign_rules_agree_where_the_poles_are_clear():
    anchored = MoralDirection(toy_encoder, n_components=3).fit(good=GOOD, bad=BAD, anchor="kill")
    texts = ["help friends", "kill people"]
    np.testing.assert_allclose(anchored.transform(texts), fitted().transform(texts))


def test_curly_braces_in_a_phrase_are_only_text():
    assert np.isfinite(fitted().transform(["help {0} and {}"])).all()


def test_a_muddled_direction_is_warned_of():
    words = [*GOOD, *BAD]

    def each_apart(texts):
        return np.array([[float(word in text) for word in words] for text in texts])

    with pytest.warns(UserWarning, match=r"no direction stands out: the first explains 0\.143.*, the second 0\.143"):
        MoralDirection(each_apart, n_components=3).fit(good=GOOD, bad=BAD)


@pytest.mark.parametrize("name", ["tiny", "siglip", "hugging_face_text"])
@pytest.mark.filterwarnings("ignore:no direction stands out")
def test_every_kind_of_encoder_will_do(name, tmp_path):
    model = create("tiny", seed=1).eval() if name == "tiny" else WRAPPED[name](tmp_path)
    good, bad = ["a cat", "the cat"], ["red", "the red sun"]
    moral = MoralDirection(model, templates=["{}", "the {}"], n_components=2).fit(good=good, bad=bad)
    asked = [f"the {text}" for text in good]
    both = (encode_texts(model, good).numpy() + encode_texts(model, asked).numpy()) / 2
    np.testing.assert_allclose(moral.embed(good), both, rtol=1e-4, atol=1e-5)
    same = MoralDirection(lambda texts: encode_texts(model, texts), templates=["{}", "the {}"], n_components=2)
    np.testing.assert_allclose(
        same.fit(good=good, bad=bad).transform(["dog"]), moral.transform(["dog"]), rtol=1e-3, atol=1e-4
    )


def test_state_is_kept_and_another_encoder_refused(tmp_path):
    moral = fitted(templates=["{}", "Should I {}?"])
    moral.save(tmp_path / "moral.safetensors")
    again = MoralDirection.load(tmp_path / "moral.safetensors", encoder=toy_encoder)
    assert again.templates == ("{}", "Should I {}?")
    np.testing.assert_array_equal(again.transform(["kill time"]), moral.transform(["kill time"]))
    again.save(tmp_path / "again.safetensors")
    close = MoralDirection.load(tmp_path / "again.safetensors", encoder=lambda texts: toy_encoder(texts) * (1 + 1e-6))
    assert close.sign_ == moral.sign_
    for other in (lambda texts: -toy_encoder(texts), lambda texts: toy_encoder(texts)[:, :2]):
        with pytest.raises(InputError, match="fitted with another encoder: 'help' differs"):
            MoralDirection.load(tmp_path / "moral.safetensors", encoder=other)


def test_an_unfitted_direction_says_so(tmp_path):
    from sklearn.exceptions import NotFittedError

    for call in (
        lambda: MoralDirection(toy_encoder).transform(["help"]),
        lambda: MoralDirection(toy_encoder).save(tmp_path / "moral.safetensors"),
        lambda: ConceptDirection().score_samples(np.ones((2, 3))),
    ):
        with pytest.raises(NotFittedError):
            call()


def test_bad_words_templates_and_encoders():
    def fit(good=GOOD, bad=BAD, anchor=None, encoder=toy_encoder, **settings):
        return MoralDirection(encoder, **{"n_components": 3, **settings}).fit(good=good, bad=bad, anchor=anchor)

    for call, message in (
        (lambda: fit(good=["help"]), "at least 2 good and 2 bad"),
        (lambda: fit(bad=[]), "at least 2 good and 2 bad"),
        (lambda: fit(bad="kill"), "lists of at least"),
        (lambda: fit(good=[*GOOD, "kill"]), "come twice: kill"),
        (lambda: fit(anchor="help"), "anchor: expected one of the bad words, got 'help'"),
        (lambda: fit(n_components=9), "n_components"),
        (lambda: fit(templates=["Should I?"]), r"expected one \{\} in each, got 'Should I\?'"),
        (lambda: fit(templates=["{} or {}"]), r"expected one \{\}"),
        (lambda: fit(templates=[]), "at least one"),
        (lambda: fit(encoder=lambda texts: np.full((len(texts), 4), np.nan)), "'Is it ok to help\\?' holds NaN"),
        (lambda: fit(encoder=lambda texts: np.ones((len(texts), 4))), "all equal"),
        (lambda: fit(encoder=lambda texts: np.ones(4)), "encoder: expected"),
        (lambda: fitted().transform([]), "at least one phrase"),
        (lambda: fitted().transform("kill"), "list"),
        (lambda: fitted().transform([3], form="bare"), "list of strings"),
        (lambda: QuestionAnswerScore(toy_encoder, yes=["Yes."]), "answer to each of 10 questions, got 1, 10"),
        (lambda: question_answer_score(np.ones((2, 3, 4)), np.ones((2, 4)), np.ones((3, 4))), "answers"),
        (lambda: question_answer_score(np.ones((2, 3, 4)), np.zeros((3, 4)), np.ones((3, 4))), "yes: 3 of 3"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_questions_and_answers():
    assert len(QUESTIONS) == len(YES) == len(NO) == 10

    def yes_man(texts):
        """Good questions lie along the first axis with the yeses, bad ones along the second with the noes."""
        return np.array([[1.0, 0.0] if text.startswith("Yes") or "help" in text else [0.0, 1.0] for text in texts])

    np.testing.assert_allclose(QuestionAnswerScore(yes_man).transform(["help", "kill"]), [1.0, -1.0])
    rng = np.random.default_rng(0)
    asked, yes, no = rng.standard_normal((4, 3, 5)), rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
    each = question_answer_score(asked, np.tile(yes, (4, 1, 1)), no)
    np.testing.assert_allclose(question_answer_score(asked, yes, no), each)
    np.testing.assert_allclose(question_answer_score(asked, no, yes), -each)


# The filter.


class Words:
    """Ids are places in a list of words; 0 is special."""

    words = ("<end>", "kill", "help", "read", "steal", "love")

    def decode(self, ids, *, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(self.words[place] for place in ids if place)


def polarity(texts):
    return np.array([sum(WORDS.get(word, 0.0) for word in text.split()) for text in texts])


def kept(scores, so_far=(3,), **settings):
    processor = DirectionLogitsProcessor(polarity, tokenizer=Words(), **settings)
    given = torch.tensor([scores], dtype=torch.float32)
    before = given.clone()
    found = processor(torch.tensor([so_far]), given)
    assert torch.equal(given, before)
    stay = (found > -torch.inf).nonzero()[:, 1].tolist()
    assert torch.equal(found[0, stay], given[0, stay])
    return stay


def test_tokens_above_the_threshold_stay():
    assert kept([0.0] * 6) == [2, 5]
    assert kept([0.0] * 6, threshold=-0.5) == [0, 2, 3, 5]
    assert kept([0.0] * 6, so_far=(2, 2)) == [0, 1, 2, 3, 4, 5]


def test_the_best_stay_where_hardly_any_passes():
    assert kept([0.0] * 6, threshold=5.0) == [2]
    assert kept([0.0] * 6, threshold=5.0, min_keep=3) == [0, 2, 5]
    assert kept([0.0, 0.0, 0.0, 1.0, 0.0, 0.0], threshold=5.0, min_keep=3) == [2, 3, 5]  # the likelier of two equals
    assert kept([0.0] * 6, min_keep=2) == [2, 5]
    assert kept([0.0] * 6, min_keep=4) == [0, 2, 3, 5]  # two pass, which is not more than four


def test_what_is_ruled_out_already_stays_out_and_only_the_likeliest_are_looked_at():
    gone = -np.inf
    assert kept([gone, 1.0, gone, 0.5, gone, gone], threshold=-5.0) == [1, 3]
    assert kept([0.0, 3.0, 0.1, 0.2, 2.0, 0.3], top_k=2) == [1]  # kill and steal are likeliest; kill is the likelier
    assert kept([0.0, 3.0, 0.1, 0.2, 2.0, 0.3], top_k=3) == [5]


def test_rows_are_judged_each_for_itself():
    processor = DirectionLogitsProcessor(polarity, tokenizer=Words())
    found = processor(torch.tensor([[3], [2]]), torch.zeros(2, 6))
    assert (found > -torch.inf).sum(dim=1).tolist() == [2, 4]


def test_a_fitted_direction_filters_by_the_bare_text():
    processor = DirectionLogitsProcessor(fitted(), tokenizer=Words())
    stay = (processor(torch.tensor([[3]]), torch.zeros(1, 6)) > -torch.inf).nonzero()[:, 1].tolist()
    assert {2, 5} <= set(stay)
    assert not {1, 4} & set(stay)


def test_it_works_in_generate_of_transformers():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=6, n_positions=16, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    ).eval()
    start = torch.tensor([[3, 3]])
    settings = {"max_new_tokens": 8, "do_sample": True, "pad_token_id": 0, "attention_mask": torch.ones_like(start)}
    processor = DirectionLogitsProcessor(polarity, tokenizer=Words())
    made = model.generate(start, logits_processor=[processor], **settings)[0, 2:].tolist()
    assert made
    assert made[0] in (2, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kept([0.0] * 6, min_keep=3, top_k=2), "top_k"),
        (lambda: kept([-np.inf] * 6), "row 0: every token is ruled out"),
        (lambda: DirectionLogitsProcessor(polarity, tokenizer=Words())(torch.zeros(2, 1), torch.zeros(3, 6)), "ids"),
        (
            lambda: DirectionLogitsProcessor(lambda texts: np.zeros(1), tokenizer=Words())(
                torch.tensor([[1]]), torch.zeros(1, 6)
            ),
            "6 finite scores",
        ),
    ],
)
def test_bad_filters(call, message):
    with pytest.raises(InputError, match=message):
        call()
