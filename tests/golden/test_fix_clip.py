"""FIX-CLIP's stretched positions, attention masks, groups of layers and losses against a transcription of the paper."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load

from tether.methods.fix_clip.loss import fix_clip_loss, group_token_aggregate, group_weights
from tether.methods.fix_clip.region_prompts import regional_attention_mask
from tether.models.towers.positions import stretch

V = load("fix-clip")
CLOSE = {"rtol": V.meta["tolerance"]["float64"], "atol": V.meta["tolerance"]["float64"]}


def test_positions() -> None:
    V.need("pos_old", "pos_new", "pos_cfg")
    keep, ratio = V["pos_cfg"].tolist()
    found = stretch(torch.from_numpy(V["pos_old"]), keep=keep, ratio=ratio)
    np.testing.assert_allclose(found.numpy(), V["pos_new"], **CLOSE)


@pytest.mark.parametrize("name", sorted(name for name in V.arrays if re.fullmatch(r"mask_[^_]+", name)))
def test_masks(name: str) -> None:
    patches, prompts = V[f"{name}_cfg"].tolist()
    classes = len(V[name]) - patches - prompts
    found = regional_attention_mask(patches, n_prompts=prompts, n_class=classes)
    np.testing.assert_array_equal(found.numpy(), V[name])


def test_groups() -> None:
    V.need("gta_in", "gta_out", "gta_groups")
    groups = int(V["gta_groups"])
    found = group_token_aggregate(torch.from_numpy(V["gta_in"]), groups=groups)
    np.testing.assert_allclose(found.numpy(), V["gta_out"], **CLOSE)
    np.testing.assert_allclose(group_weights(len(V["gta_in"]) // groups).numpy(), V["gta_weights"], **CLOSE)


def test_loss() -> None:
    names = ("image", "image_masked", "text_long", "text_short")
    V.need(*(f"loss_{name}" for name in names), "loss_total")
    rows = [F.normalize(torch.from_numpy(V[f"loss_{name}"]), dim=1) for name in names]
    found = fix_clip_loss(
        *rows,
        float(V["loss_scale"]),
        img_groups=torch.from_numpy(V["loss_gmf_image"]),
        txt_groups=torch.from_numpy(V["loss_gmf_text"]),
        first_group=int(V["loss_first_group"]),
        omega=V["loss_omega"].tolist(),
    )
    for part, value in (("long", found.long), ("short", found.short), ("mid", found.groups), ("total", found.total)):
        np.testing.assert_allclose(value.numpy(), V[f"loss_{part}"], **CLOSE)
