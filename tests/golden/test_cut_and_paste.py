"""Maps of attention, fused and injected, masks, blended samples and steps of DDIM, against a transcription."""

from __future__ import annotations

import numpy as np
import torch
from loading import load

from tether.generation.diffuse.attention import attended, weights
from tether.generation.diffuse.ddim import ddim_step
from tether.methods.cut_and_paste.attention_maps import blend, fuse_frames, inject, token_map, token_mask

V = load("cut-and-paste")
HYPER = V.meta["hyper"]
CLOSE = {"rtol": 0, "atol": float(V.meta["tol"])}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


def test_maps() -> None:
    for side in ("source", "edit"):
        found = weights(tensor(f"q_{side}"), tensor(f"k_{side}")[None])
        np.testing.assert_allclose(found.numpy(), V[f"attn_{side}"], **CLOSE)
    fused = fuse_frames(tensor("attn_source"), w=float(HYPER["fuse_weight"]))
    np.testing.assert_allclose(fused.numpy(), V["attn_fused"], **CLOSE)
    token = int(HYPER["token"])
    np.testing.assert_allclose(token_map(fused, token).numpy(), V["token_map"], **CLOSE)
    mask = token_mask(fused, token, float(HYPER["threshold"]))
    np.testing.assert_array_equal(mask.numpy(), V["token_mask"])
    blended = blend(tensor("latent_edit"), tensor("latent_source"), mask)
    np.testing.assert_allclose(blended.numpy(), V["latent_blended"], **CLOSE)


def test_injected_maps() -> None:
    injected = inject(tensor("attn_edit"), tensor("attn_fused"), HYPER["kept_tokens"])
    plain = inject(tensor("attn_edit"), tensor("attn_source"), HYPER["kept_tokens"])
    wanted = V["attn_injected"]
    assert min(np.abs(found.numpy() - wanted).max() for found in (injected, plain)) < CLOSE["atol"]


def test_reference_tokens() -> None:
    query = tensor("q_edit")
    key = torch.cat([tensor("k_edit"), tensor("k_ref")], dim=1)[None]
    value = torch.cat([tensor("v_text"), tensor("v_ref")], dim=1)[None]
    np.testing.assert_allclose(weights(query, key).numpy(), V["attn_joint"], **CLOSE)
    heads = query.shape[1]
    out = attended(query, key.expand(len(query), -1, -1, -1), value.expand(len(query), -1, -1, -1))
    np.testing.assert_allclose(out.unflatten(2, (heads, -1)).transpose(1, 2).numpy(), V["out_joint"], **CLOSE)


def test_steps_both_ways() -> None:
    x, eps, levels = tensor("ddim_x"), tensor("ddim_eps"), [float(one) for one in V["ddim_alpha_bar"]]
    np.testing.assert_allclose(ddim_step(x, eps, levels[1], levels[0]).numpy(), V["ddim_denoise"], **CLOSE)
    np.testing.assert_allclose(ddim_step(x, eps, levels[1], levels[2]).numpy(), V["ddim_invert"], **CLOSE)
