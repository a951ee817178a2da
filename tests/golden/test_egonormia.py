"""Answers against the official scorer, and a perfect answerer through the order; everything from the file."""

from __future__ import annotations

import numpy as np
from loading import load

from tether.data.sets.norms import MultipleChoice, NormItem
from tether.evaluate.norms import choice_scores, evaluate_egonormia

V = load("egonormia")
MODELS = V.meta["models"]


def options(mask: int) -> list[int]:
    return [option for option in range(5) if mask >= 0 and mask >> option & 1]


def answers() -> dict[str, dict[str, dict[str, dict[str, list[int]]]]]:
    found = {}
    for clip in range(len(V["best_result"])):
        there = [at for at in range(len(MODELS)) if V["best_result"][clip, at, 0] != -9]
        found[str(clip)] = {
            MODELS[at]: {
                "best": {
                    name: V[f"best_{key}"][clip, at].tolist()
                    for name, key in (("results", "result"), ("correct", "correct"))
                },
                "sensible": {
                    name: options(int(V[f"sensible_{key}"][clip, at]))
                    for name, key in (("results", "result"), ("correct", "correct"))
                },
            }
            for at in there
        }
    return found


def test_figures_of_every_model():
    found = evaluate_egonormia(answers())
    for at, model in enumerate(MODELS):
        if V["sums"][at, 4] == 0:
            assert model not in found
            continue
        got = found[model]
        np.testing.assert_allclose([*got.sums, got.n], V["sums"][at], rtol=1e-12)
        np.testing.assert_allclose(got.percent, V["percent"][at], rtol=1e-9)


def test_a_perfect_answerer_is_right_always():
    """The released evaluator gives one a third of the actions; positions are mapped back with the order itself."""
    rng = np.random.default_rng(0)
    for correct in range(5):
        item = NormItem("a", tuple("vwxyz"), tuple("12345"), correct, (correct,), ((),) * 5, "a scene")
        for _ in range(20):
            view = MultipleChoice.shuffle(item, rng)
            said = [
                view.to_original(texts.index(right))
                for texts, right in (
                    (view.behaviors, item.behaviors[correct]),
                    (view.justifications, item.justifications[correct]),
                )
            ]
            assert said == [correct, correct]


def test_two_empty_sets_agree_and_no_answer_is_wrong():
    given = np.array([[0, 0], [0, 1]])
    found = choice_scores(given, correct=np.array([[0, 0], [0, 0]]), sensible=[[], None], sensible_correct=[[], [1]])
    assert found.sums == (2.0, 1.0, 1.0, 1.0)
