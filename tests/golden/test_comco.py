"""Object retrieval and matching captions against the official functions: cases and settings from the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.comco import matching_pairs, object_retrieval

V = load("comco")
CLOSE = V.meta.get("tolerance", {"rtol": 1e-9, "atol": 1e-12})
NAMES = V.meta["names"]
CASES = [name.removesuffix("objects") for name in V.arrays if name.endswith("objects")]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


def retrieved(case: str, listing: str):
    return object_retrieval(
        torch.from_numpy(V[f"{case}img"]),
        prototypes=torch.from_numpy(V[f"{case}proto"]),
        present=torch.from_numpy(V[f"{case}objects"]),
        listing=listing,
    )


def test_retrieval(case: str) -> None:
    found = retrieved(case, "best_last")
    np.testing.assert_array_equal(found.predicted, V[f"{case}predicted"])
    assert found.topn_correct == V[f"{case}topn_correct"]
    np.testing.assert_array_equal(found.first_in_correct, V[f"{case}first_in_correct_topn"])
    np.testing.assert_array_equal(found.best_counts, V[f"{case}most_similar_counts"])
    for ours, theirs in (
        (found.precision, "precision"),
        (found.recall, "recall"),
        (found.f1, "f1"),
        (found.precision_at, "p_at"),
        (found.recall_at, "r_at"),
        (found.map, "map"),
        (found.ndcg, "ndcg"),
    ):
        np.testing.assert_allclose(ours, V[case + theirs], **CLOSE)


def test_the_other_way_round_only_what_depends_on_order_differs(case: str) -> None:
    ours = retrieved(case, "best_first")
    np.testing.assert_array_equal(ours.predicted.flip(1), V[f"{case}predicted"])
    assert ours.topn_correct == V[f"{case}topn_correct"]
    np.testing.assert_array_equal(ours.first_in_correct, V[f"{case}first_in_correct_topn"])
    np.testing.assert_allclose(ours.f1, V[f"{case}f1"], **CLOSE)
    np.testing.assert_allclose(ours.precision_at[:, -1], V[f"{case}p_at"][:, -1], **CLOSE)


@pytest.mark.parametrize("scenario", ["first", "last"])
def test_matching_captions(case: str, scenario: str) -> None:
    if f"{case}itm_pairs" not in V:
        return
    rows = json.loads(str(V[f"{case}itm_pairs"]))[{"first": "first", "last": "second"}[scenario]]
    files = list(dict.fromkeys(file for file, _, _ in rows))
    made = [
        [file, pair.correct, pair.wrong]
        for file in files
        for pair in matching_pairs(
            file.removesuffix(".png").split("_"),
            biased=int(V.meta["biased_position"]) - 1,
            classes=NAMES,
            scenario=scenario,
        )
    ]
    assert made[: len(rows)] == rows
