"""CLIP-DINOiser's patches, affinities, pooling, background and loss against the released code, in both precisions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from open_clip_names import clip_of
from tether.losses import dinoiser_loss
from tether.methods.clip_dinoiser.patch_affinity import patch_affinity, pool_alike, pool_map
from tether.methods.clip_dinoiser.segmenter import with_background
from tether.models.features.dense import DensePath, dense_from
from tether.models.features.find import tower_of
from tether.models.features.parts import Layout, TokenStream
from tether.models.features.patch_grouping import DinoiserHead

V = load("clip-dinoiser")
HYPER = V.meta["hyper"]
RTOL = dict(zip((torch.float64, torch.float32), map(float, re.findall(r"\d+e-\d+", V.meta["tolerance"])), strict=True))
GAMMA, GRID = float(HYPER["gamma"]), (int(HYPER["H"]), int(HYPER["W"]))
both = pytest.mark.parametrize("dtype", RTOL, ids=str)


def array(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(V[name].copy()).to(dtype)


def check(ours: Tensor, name: str) -> None:
    limit = RTOL[ours.dtype]
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=limit, atol=limit * 0.1, err_msg=name)


def as_map(rows: Tensor) -> Tensor:
    return rows.transpose(1, 2).unflatten(2, GRID)


def inner(dtype: torch.dtype) -> Tensor:
    return as_map(array("inter_tokens", dtype)[:, 1:])


def head(dtype: torch.dtype) -> DinoiserHead:
    made = DinoiserHead(features=int(HYPER["width"]), dim=int(HYPER["in_dim"]), kernel=V["obj_proj_weight"].shape[-1])
    given = {"obj_proj": "obj_proj", "bkg_decoder": "bkg"}
    made.load_state_dict(
        {f"{ours}.{w}": array(f"{name}_{w}") for ours, name in given.items() for w in ("weight", "bias")}
    )
    return made.to(dtype)


@both
def test_patches_kept_to_themselves(dtype: torch.dtype) -> None:
    tokens, (width, _) = array("tokens_in", dtype), V["proj"].shape
    block = {f"transformer.resblocks.0.{name.removeprefix('blk/')}": array(name) for name in V.arrays if "blk/" in name}
    weights = {
        **block,
        "class_embedding": torch.zeros(width),
        "positional_embedding": torch.zeros(tokens.shape[1], width),
        "conv1.weight": torch.zeros(width, 3, 2, 2),
        "ln_pre.weight": torch.ones(width),
        "ln_pre.bias": torch.zeros(width),
        "ln_post.weight": array("ln_post_weight"),
        "ln_post.bias": array("ln_post_bias"),
        "proj": array("proj"),
    }
    model = clip_of(weights, heads=int(HYPER["heads"])).to(dtype)
    stream = TokenStream(tokens, Layout.first(tokens, grid=GRID))
    (found,) = dense_from(tower_of(model), stream, path=DensePath())
    check(as_map(found.tokens), "maskclip_feat")
    unit = torch.nn.functional.normalize(found.tokens, dim=2)
    text = torch.nn.functional.normalize(array("text", dtype), dim=1)
    check(as_map((float(HYPER["logit_scale"]) * unit @ text.T).softmax(dim=2)), "maskclip_prob")


@both
def test_affinities_and_pooling(dtype: torch.dtype) -> None:
    feats = array("teacher_feats", dtype)
    per_patch = feats if feats.shape[1] == GRID[0] * GRID[1] else feats.transpose(1, 2)
    check(patch_affinity(per_patch, threshold=GAMMA).unflatten(2, GRID), "teacher_corr")
    values = array("maskclip_feat", dtype)
    check(pool_map(values, array("teacher_corr", dtype)), "pooled")
    check(pool_map(values, array("corr_other_size", dtype)), "pooled_other_size")
    few = pool_alike(values.flatten(2).transpose(1, 2), per_patch, threshold=GAMMA, at_once=100)
    check(as_map(few), "pooled")


@both
def test_head_and_probabilities(dtype: torch.dtype) -> None:
    keys, things = head(dtype)(inner(dtype))
    check(things, "bkg_logits")
    check(patch_affinity(keys).unflatten(2, GRID), "learned_corr")
    values = array("maskclip_feat", dtype)
    pooled = pool_map(values, patch_affinity(keys, threshold=GAMMA).unflatten(2, GRID))
    assert torch.allclose(as_map(pool_alike(values.flatten(2).mT, keys, threshold=GAMMA)), pooled)
    unit = torch.nn.functional.normalize(pooled, dim=1)
    text = torch.nn.functional.normalize(array("text", dtype), dim=1)
    scale = float(HYPER["logit_scale"])
    found = (scale * torch.einsum("bdrc,kd->bkrc", unit, text)).softmax(dim=1)
    check(found, "prob_no_background")
    shown = with_background(array("prob_no_background", dtype), things, delta=float(HYPER["delta"]))
    check(shown, "prob_with_background")


@both
def test_loss_and_gradients(dtype: torch.dtype) -> None:
    made = head(dtype)
    keys, things = made(inner(dtype))
    teacher = array("teacher_corr", dtype).flatten(2)
    found = dinoiser_loss(patch_affinity(keys), teacher, things=things, saliency=array("saliency_target", dtype))
    found.total.backward()
    check(found.affinity, "loss_corr")
    check(found.things, "loss_bkg")
    check(made.obj_proj.weight.grad, "grad_obj_proj_weight")
    check(made.bkg_decoder.weight.grad, "grad_bkg_weight")
