"""The direction, its sign and its scores against the figures of the official code; everything from the file."""

from __future__ import annotations

import re

import numpy as np
import pytest
from loading import load

from tether.methods.moral_direction import ConceptDirection, MoralDirection, QuestionAnswerScore, question_answer_score

V = load("moral-direction")
META = V.meta
TOLERANCE = META["tolerance"]
CLOSE = (
    TOLERANCE
    if isinstance(TOLERANCE, dict)
    else {
        "rtol": float(re.match(r"[-+.\de]+", str(TOLERANCE))[0]),
        "atol": float(re.match(r"[-+.\de]+", str(TOLERANCE))[0]),
    }
)
VERBS, HYPER = list(META["verbs"]), META["hyper"]
ANCHOR = "kill"
KEPT = int(HYPER["dim"])


@pytest.fixture(scope="module")
def official() -> ConceptDirection:
    """By the released rule, or by the poles where the anchor is not among the verbs."""
    if ANCHOR in VERBS:
        return ConceptDirection(n_components=KEPT, anchor=VERBS.index(ANCHOR)).fit(V["emb_mean"])
    return ConceptDirection(n_components=KEPT).fit(V["emb_mean"], [verb in META["good"] for verb in VERBS])


def close(got: np.ndarray, name: str) -> None:
    if name in V:
        np.testing.assert_allclose(got, V[name], **CLOSE)


def signs(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """One sign for each direction, which a principal component leaves open."""
    return np.sign((mine * theirs).sum(axis=1))


def test_principal_directions(official):
    close(official.mean_, "mean")
    close(official.explained_variance_ratio_, "evr")
    if "components" in V:
        turned = signs(official.components_, V["components"])
        np.testing.assert_allclose(official.components_ * turned[:, None], V["components"], **CLOSE)
        close(official.coordinates(V["emb_mean"]) * turned, "Y")


def test_sign_and_clusters(official):
    if "sign" in V and "components" in V:
        mine, theirs = official.sign_ * official.components_[0], float(V["sign"]) * V["components"][0]
        np.testing.assert_allclose(mine, theirs, **CLOSE)
    if "cluster" in V and official.labels_ is not None:
        together = official.labels_[:, None] == official.labels_[None]
        np.testing.assert_array_equal(together, V["cluster"][:, None] == V["cluster"][None])


def test_the_poles_give_the_same_sign(official):
    poles = ConceptDirection(n_components=KEPT).fit(V["emb_mean"], [verb in META["good"] for verb in VERBS])
    np.testing.assert_allclose(poles.score_samples(V["emb_mean"]), official.score_samples(V["emb_mean"]))


def test_scores(official):
    first = official.score_samples(V["q_emb"].mean(axis=1)) * official.scale_
    close(first / float(HYPER["norm"]), "score")
    if "plain_emb" in V:
        close(official.score_samples(V["plain_emb"]) * official.scale_, "score_plain")
    if np.isclose(np.abs(V["Y"][:, 0]).max(), float(HYPER["norm"])):  # the file's scale is ours
        np.testing.assert_allclose(official.scale_, float(HYPER["norm"]), **CLOSE)
        close(official.score_samples(V["q_emb"].mean(axis=1)), "score")


def test_a_given_scale():
    poles = [verb in META["good"] for verb in VERBS]
    fitted = ConceptDirection(n_components=KEPT, scale=float(HYPER["norm"])).fit(V["emb_mean"], poles)
    close(fitted.score_samples(V["q_emb"].mean(axis=1)), "score")


def test_moral_choice_machine():
    if {"mcm", "yes_emb", "no_emb"} <= V.arrays.keys():
        close(question_answer_score(V["q_emb"], V["yes_emb"], V["no_emb"]), "mcm")


def test_from_texts_with_an_encoder_that_knows_these(official):
    """The file's embeddings behind the text interface: templates, averaging, sign by anchor, bare phrases."""
    templates = list(META["templates"])
    known = {
        template.replace("{}", phrase): row
        for phrase, rows in zip(META["test"], V["q_emb"], strict=True)
        for template, row in zip(templates, rows, strict=True)
    }
    known |= {
        template.replace("{}", verb): row
        for verb, row in zip(VERBS, V["emb_mean"], strict=True)
        for template in templates
    }
    if "plain_emb" in V:
        known |= dict(zip(META["test"], V["plain_emb"], strict=True))
    moral = MoralDirection(
        lambda texts: np.stack([known[text] for text in texts]), templates=templates, n_components=KEPT
    )
    bad = [verb for verb in VERBS if verb not in META["good"]]
    anchor = ANCHOR if ANCHOR in bad else None
    if official.clarity_ < 1.5:
        with pytest.warns(UserWarning, match="no direction stands out"):
            moral.fit(good=[verb for verb in VERBS if verb in META["good"]], bad=bad, anchor=anchor)
    else:
        moral.fit(good=[verb for verb in VERBS if verb in META["good"]], bad=bad, anchor=anchor)
    # Verbs that are also test phrases have two embeddings; theirs are the test's, so only a fit without them compares.
    if not set(VERBS) & set(META["test"]):
        close(moral.transform(META["test"]) * moral.scale_ / float(HYPER["norm"]), "score")
        if "plain_emb" in V:
            close(moral.transform(META["test"], form="bare") * moral.scale_, "score_plain")


def test_questions_and_answers_from_texts():
    """Answers that differ from phrase to phrase in the file are asked one phrase at a time."""
    if not {"mcm", "yes_emb", "no_emb"} <= V.arrays.keys():
        return
    templates = list(META["templates"])
    for phrase, asked, yes, no, expected in zip(
        META["test"], V["q_emb"], V["yes_emb"], V["no_emb"], V["mcm"], strict=True
    ):
        known = {template.replace("{}", phrase): row for template, row in zip(templates, asked, strict=True)}
        known |= {f"yes {number}": row for number, row in enumerate(yes)}
        known |= {f"no {number}": row for number, row in enumerate(no)}
        score = QuestionAnswerScore(
            lambda texts, known=known: np.stack([known[text] for text in texts]),
            templates=templates,
            yes=[f"yes {number}" for number in range(len(yes))],
            no=[f"no {number}" for number in range(len(no))],
        )
        np.testing.assert_allclose(score.transform([phrase]), [expected], **CLOSE)
