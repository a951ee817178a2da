"""Scores of layers from their weights, and the order in which they go, by a transcription."""

from __future__ import annotations

import torch
from loading import load

from tether.methods.gate_norm.pruner import gate_norm, gate_norm_scores
from tether.models.towers.blocks.options import BlockConfig
from tether_lab.worlds.char_lm import CharModel

V = load("gate-norm")
HYPER, CLOSE = V.meta["hyper"], {"rtol": V.meta["tolerance"]["rtol"], "atol": 0.0}
HEADS, KEYS = HYPER["heads"], HYPER["kv_heads"]
PAIRS = [(torch.from_numpy(q), torch.from_numpy(k)) for q, k in zip(V["w_q"], V["w_k"], strict=True)]


def test_whole_layers_and_their_order() -> None:
    scores = torch.stack([gate_norm(q, k, heads=HEADS) for q, k in PAIRS])
    torch.testing.assert_close(scores, torch.from_numpy(V["score_full"]), **CLOSE)
    assert scores.argsort(stable=True).tolist() == V["prune_order"].tolist()


def test_head_by_head() -> None:
    summed = torch.stack([gate_norm(q, k, heads=HEADS, per_head=True) for q, k in PAIRS])
    torch.testing.assert_close(summed, torch.from_numpy(V["score_headsum"]), **CLOSE)
    for (q, k), expected in zip(PAIRS, V["per_head_fro"], strict=True):
        groups = k.unflatten(0, (KEYS, -1)).repeat_interleave(HEADS // KEYS, 0)
        alone = [gate_norm(*pair, heads=1) for pair in zip(q.unflatten(0, (HEADS, -1)), groups, strict=True)]
        torch.testing.assert_close(torch.stack(alone), torch.from_numpy(expected), **CLOSE)


def test_through_a_model_whose_matrix_holds_queries_keys_and_values() -> None:
    width = V["w_q"].shape[2]
    if V["w_q"].shape[1] != width:
        return  # its own blocks have heads that fill the width
    shared = 0 if KEYS == HEADS else KEYS
    model = CharModel(5, width=width, layers=len(PAIRS), heads=HEADS, blocks=BlockConfig(kv_heads=shared)).double()
    with torch.no_grad():
        for block, (q, k) in zip(model.stack, PAIRS, strict=True):
            block.qkv.weight[: len(q)] = q
            block.qkv.weight[len(q) : len(q) + len(k)] = k
    found = list(gate_norm_scores(model).values())
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), torch.from_numpy(V["score_full"]), **CLOSE)
