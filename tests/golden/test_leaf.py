"""LEAF's edits, attack, constraint, loss and Charmer's against the figures: every case and setting from the file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.leaf import text_fare_loss
from tether.methods.leaf.attack import charmer_attack, leaf_attack
from tether.methods.leaf.typos import ALPHABET, WordConstraint, edit, slot_count

V = load("leaf")
TOLERANCE = V.meta["tolerance"]
RUNS = {run["tag"]: run for run in V.meta["runs"] if f"atk_{run['tag']}_out" in V}
CLOSE = {"rtol": TOLERANCE["float64"], "atol": TOLERANCE["float64"]}


def listed(name: str) -> Any:
    return json.loads(str(V[name]))


def constraint(rule: str = "strict") -> WordConstraint:
    return WordConstraint(listed("attack_words"), rule=rule)


def encode(texts: list[str]) -> torch.Tensor:
    """The toy of the file: characters' rows, weighted by place, under tanh."""
    table, weights = torch.from_numpy(V["toy_E"]), torch.from_numpy(V["toy_P"])
    rows = []
    for text in texts:
        ids = torch.tensor([min(ord(each), len(table) - 1) for each in text[: len(weights)]], dtype=torch.int64)
        real = (ids != 0).to(table.dtype)
        rows.append(((weights[: len(ids)] * real)[:, None] * table[ids]).sum(0))
    return torch.stack(rows).tanh()


def test_edits() -> None:
    V.need("edit_cases")
    for text, slot, character, alternative, expected in listed("edit_cases"):
        assert edit(text, slot, character, alternative=alternative) == expected


def test_the_alphabet_in_its_order() -> None:
    V.need("vocab")
    assert list(ALPHABET) == V["vocab"].tolist()


def test_every_place_and_every_character() -> None:
    V.need("allspace_in", "allspace_out")
    text = str(V["allspace_in"])
    if text.startswith('"'):
        text = json.loads(text)
    made = [edit(text, slot, ord(" "), alternative=-1) for slot in range(slot_count(text))]
    assert made == listed("allspace_out")
    if "allchars_out" in V:
        vocabulary, places = V["allchars_vocab"].tolist(), V["allchars_positions"].tolist()
        made = [edit(text, slot, code, alternative=-1) for slot in places for code in vocabulary]
        assert made == listed("allchars_out")


@pytest.mark.parametrize("tag", RUNS)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_attacks(tag: str, one_by_one: bool) -> None:
    run, texts = RUNS[tag], listed("attack_sentences")
    own = f"atk_{tag}_anchor"  # of a run towards other rows
    anchors = torch.from_numpy(V[own if own in V else "attack_anchor"])
    slots, chars = (torch.from_numpy(V[f"atk_{tag}_{name}"]) for name in ("positions", "chars"))
    features, out = [], []
    for rows in [[row] for row in range(len(texts))] if one_by_one else [list(range(len(texts)))]:
        found = leaf_attack(
            encode,
            [texts[row] for row in rows],
            anchors[rows],
            rho=run["rho"],
            k=run["k"],
            alphabet=V["vocab"].tolist(),
            constraint=constraint(run.get("rule", "strict")) if run["constrain"] else None,
            objective=run["objective"],
            slots=slots[:, rows],
            chars=chars[:, rows],
        )
        features.append(found.features)
        out += found.texts
    assert out == listed(f"atk_{tag}_out")
    np.testing.assert_allclose(torch.cat(features).numpy(), V[f"atk_{tag}_features"], **CLOSE)


def test_which_changes_are_allowed() -> None:
    V.need("valid_pairs", "valid_out")
    texts, changed = zip(*listed("valid_pairs"), strict=True)
    assert constraint()(changed, texts) == V["valid_out"].tolist()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss(dtype: str) -> None:
    V.need("fare_frozen", "fare_adv", "fare_loss")
    limit = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    frozen, attacked = (torch.from_numpy(V[f"fare_{name}"]).to(getattr(torch, dtype)) for name in ("frozen", "adv"))
    loss = text_fare_loss(frozen, attacked.requires_grad_())
    loss.backward()
    np.testing.assert_allclose(loss.item(), V["fare_loss"], **limit)
    np.testing.assert_allclose(attacked.grad.numpy(), V["fare_grad_adv"], **limit)


def test_charmer() -> None:
    V.need("charmer_out", "charmer_loss")
    found = charmer_attack(
        encode,
        listed("attack_sentences"),
        torch.from_numpy(V["attack_anchor"]),
        n=int(V.meta["charmer_n_positions"]),
        alphabet=V["vocab"].tolist(),
    )
    assert list(found.texts) == listed("charmer_out")
    np.testing.assert_allclose(found.trace[-1].values.numpy(), V["charmer_loss"], **CLOSE)


def test_there_are_cases() -> None:
    assert RUNS
