"""MTA-CLIP's contrast of masks and texts, its answer and its decoder layer against the figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.losses.mask_text import Negatives, best_prompts, mask_text_logits, mask_text_loss, mask_text_similarity
from tether.models.heads.mask_decoder import MaskTextLayer, semantic_map

V = load("mta-clip")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
TEMPERATURE = float(HYPER["temperature"])
ATTENTIONS = {"cross": "ca", "own": "sa"}
PLAIN = {"linear1": "fc1", "linear2": "fc2"}


def tensor(name: str) -> Tensor:
    value = torch.from_numpy(V[name].copy())
    return value.double() if value.is_floating_point() else value


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-3)


@pytest.mark.parametrize("negatives", ["separate", "mix"])
def test_the_contrast_and_its_gradient(negatives: Negatives) -> None:
    masks, texts = tensor("mask_embed").requires_grad_(), tensor("text_embed")
    loss = mask_text_loss(masks, texts, tensor("labels"), negatives=negatives, temperature=TEMPERATURE)
    loss.backward()
    assert masks.grad is not None
    check(loss, f"loss_{negatives}")
    check(masks.grad, f"grad_{negatives}")


def test_prompts_and_the_answer() -> None:
    masks, texts, labels = tensor("mask_embed"), tensor("text_embed"), tensor("labels")
    best = best_prompts(mask_text_similarity(masks, texts, temperature=TEMPERATURE), labels)
    np.testing.assert_array_equal(best[labels >= 0].numpy(), V["best_prompt"])
    logits = mask_text_logits(masks, texts, temperature=TEMPERATURE)
    check(logits, "class_logits")
    check(semantic_map(logits, tensor("mask_logits")), "semseg")


def test_a_layer_of_the_decoder() -> None:
    layer = MaskTextLayer(int(HYPER["dim"]), heads=int(HYPER["heads"]), inner=len(V["w/fc1"])).double()
    weights = {}
    for ours, theirs in ATTENTIONS.items():
        for name, what in (("in_proj_", "qkv"), ("out_proj.", "out")):
            weights[f"{ours}.{name}weight"] = tensor(f"w/{theirs}_{what}")
            weights[f"{ours}.{name}bias"] = tensor(f"w/{theirs}_{what}_b")
    for ours, theirs in PLAIN.items():
        weights |= {f"{ours}.weight": tensor(f"w/{theirs}"), f"{ours}.bias": tensor(f"w/{theirs}_b")}
    for number in (1, 2, 3):
        weights |= {f"norm{number}.{name}": tensor(f"w/ln{number}_{name[0]}") for name in ("weight", "bias")}
    layer.load_state_dict(weights)
    seen = ~tensor("dec_blocked")  # the figures say what is blocked
    queries, texts = layer(tensor("dec_queries"), tensor("dec_image"), texts=tensor("dec_text"), seen=seen)
    assert texts is not None
    check(queries, "dec_queries_out")
    check(texts, "dec_text_out")
