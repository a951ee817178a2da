"""Orders, masks, both decoders, the loss with its gradients, and reading, against the released code's figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.tasks.read import Charset, DualDecoder, PermutedDecoder, permutation_masks, permutations

V = load("clip4str")
RTOL = float(str(V.meta["tolerance"]).split()[-1])
CASES = sorted(name.removesuffix("image_memory") for name in V.arrays if name.endswith("image_memory"))
NAMES = {
    "pos_queries": "positions",
    "text_embed.embedding.weight": "characters",
    "cross_attn": "multihead_attn",
    "norm1": "norm2",
    "norm2": "norm3",
    "norm_q": "norm1",
    "norm_c": "norm_context",
}


def hyper(prefix: str) -> dict:
    """The settings of a case: those of its own name over those of the file."""
    own = V.meta.get("cases", {})
    found = V.meta["hyper"] | (own.get(prefix.strip("/_"), {}) if isinstance(own, dict) else {})
    return found | found.get(prefix.strip("/_"), {})


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found.double() if found.is_floating_point() else found


def close(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-2)


def branch(prefix: str, heads: int) -> PermutedDecoder:
    weights = {}
    for name in V.arrays:
        if name.startswith(prefix):
            own = name.removeprefix(prefix)
            parts = own.split(".")
            weights[NAMES.get(own) or ".".join(NAMES.get(part, part) for part in parts)] = array(name)
    places, dim = weights["positions"].shape[1:]
    decoder = PermutedDecoder(
        dim,
        heads=heads,
        depth=len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
        charset=Charset("".join(chr(0x100 + one) for one in range(len(weights["head.bias"]) - 1))),
        max_length=places - 1,
        mlp_ratio=weights["layers.0.linear1.weight"].shape[0] // dim,
        dropout=0.0,
    ).double()
    decoder.load_state_dict(weights)
    return decoder


def dual(prefix: str) -> DualDecoder:
    heads = int(hyper(prefix)["heads"])
    return DualDecoder(visual=branch(f"{prefix}visual/", heads), cross=branch(f"{prefix}cross/", heads))


@pytest.mark.parametrize("prefix", CASES)
def test_masks(prefix: str) -> None:
    for order, content, query in zip(
        array(f"{prefix}perms"), V[f"{prefix}content_masks"], V[f"{prefix}query_masks"], strict=True
    ):
        ours = permutation_masks(order)  # True is seen here and blocked there
        np.testing.assert_array_equal(~ours.content.numpy(), content)
        np.testing.assert_array_equal(~ours.query.numpy(), query)


@pytest.mark.parametrize("prefix", CASES)
def test_orders_are_of_the_same_kind(prefix: str) -> None:
    theirs, wanted = array(f"{prefix}perms"), int(hyper(prefix)["perms"])
    ours = permutations(theirs.shape[1] - 2, wanted, generator=torch.Generator().manual_seed(0))
    assert ours.shape == theirs.shape
    assert torch.equal(ours[:2], theirs[:2])
    assert torch.equal(theirs[2::2, 1:-1], theirs[3::2, 1:-1].flip(1))
    assert torch.equal(ours[2::2, 1:-1], ours[3::2, 1:-1].flip(1))


@pytest.mark.parametrize("prefix", [prefix for prefix in CASES if "labels" in hyper(prefix)])
def test_targets(prefix: str) -> None:
    charset = dual(prefix).visual.charset
    words = ["".join(charset.characters[one - 1] for one in label) for label in hyper(prefix)["labels"]]
    ids = charset.encode(words, longest=max(map(len, words)))
    np.testing.assert_array_equal(ids.numpy(), V[f"{prefix}targets"])


@pytest.mark.parametrize("prefix", CASES)
def test_training(prefix: str) -> None:
    decoder, ids, image, text = (
        dual(prefix),
        *(array(prefix + name) for name in ("targets", "image_memory", "text_memory")),
    )
    there = (ids[:, :-1] != decoder.visual.charset.pad) & (ids[:, :-1] != 0)
    for turn, order in enumerate(array(f"{prefix}perms")):
        if (name := f"{prefix}visual_logits_perm_{turn}") in V:
            seen = permutation_masks(order)
            ours = decoder.visual(
                ids[:, :-1], image, query_mask=seen.query, content_mask=seen.content, token_mask=there
            )
            close(ours, name)
    loss = decoder.loss(ids, image, text_memory=lambda guess: text, orders=array(f"{prefix}perms"))
    close(loss, f"{prefix}loss")
    loss.backward()
    for name, ours in (
        ("grad_visual_head", decoder.visual.head.weight),
        ("grad_cross_pos", decoder.cross.positions),
        ("grad_visual_pos", decoder.visual.positions),
        ("grad_cross_head", decoder.cross.head.weight),
    ):
        if prefix + name in V:
            assert ours.grad is not None
            close(ours.grad, prefix + name)


@pytest.mark.parametrize("prefix", CASES)
def test_reading(prefix: str) -> None:
    decoder, image, text = dual(prefix).eval(), *(array(prefix + name) for name in ("image_memory", "text_memory"))
    refine = int(hyper(prefix)["refine"])
    places = decoder.visual.max_length + 1
    length = places - 1 if V[f"{prefix}visual_ar_logits"].shape[1] == places else None
    plain = decoder.read(image, text_memory=lambda guess: text, refine=0, length=length)
    close(plain.visual, f"{prefix}visual_ar_logits")
    close(plain.cross, f"{prefix}infer_no_refine")
    refined = decoder.read(image, text_memory=lambda guess: text, refine=refine, length=length)
    close(refined.cross, f"{prefix}infer_cross_logits")


def test_there_are_cases() -> None:
    assert CASES
