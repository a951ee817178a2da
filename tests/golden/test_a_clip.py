"""What A-CLIP's released code keeps of an image, adds to the loss, and averages."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor, nn

from tether.losses import clip_loss, nt_xent_loss, siamese_loss
from tether.models.features.patch_attention import attentive_scores, map_scores
from tether.models.towers.patch_selection import AttentiveTokens, best_tokens, removed_tokens, take_tokens
from tether.training.ema import MovingEncoder

V = load("a-clip")
RATIOS = sorted(match[1] for name in V.arrays if (match := re.fullmatch(r"mask_removed_r(\d+)", name)))


def at(name: str) -> Tensor:
    return torch.from_numpy(V[name])


def close(found: Tensor, expected: Tensor) -> None:
    kind = str(expected.dtype).removeprefix("torch.")
    torch.testing.assert_close(found, expected, rtol=0, atol=V.meta["tolerance"][kind])


def side(scores: Tensor) -> int:
    return round(scores.shape[1] ** 0.5)


def test_scores() -> None:
    close(attentive_scores(at("attn_layers")[:, :, :, 0].movedim(0, 1)), at("attn_score"))


@pytest.mark.parametrize("ratio", RATIOS)
def test_kept_cells(ratio: str) -> None:
    scores = at("mask_scores")
    keep = AttentiveTokens(keep=int(ratio) / 100)(scores, grid=(side(scores), side(scores)))
    assert torch.equal(removed_tokens(keep, tokens=scores.shape[1]), at(f"mask_removed_r{ratio}"))


def test_scores_of_another_view() -> None:
    scores, (view, reference) = at("map_scores"), (at(f"map_{name}_tlhw") for name in ("view", "ref"))
    grid = (side(scores), side(scores))
    close(map_scores(scores, view=view, reference=reference, grid=grid), at("map_out"))


def test_kept_tokens() -> None:
    x, removed = at("select_x"), at("select_removed")
    prefix = x.shape[1] - removed.shape[1]
    keep = best_tokens(removed.double(), count=int((~removed[0]).sum()), end="smallest")
    expected = at("select_out")
    close(take_tokens(x, keep, prefix=prefix)[:, -expected.shape[1] :], expected)


TEMPERATURE = float(V["ssl_temp"]) if "ssl_temp" in V else 0.1


def test_losses_and_their_gradients() -> None:
    V.need("loss_in_image_embed")
    names = [name.removeprefix("loss_grad_") for name in V.arrays if name.startswith("loss_grad_")]
    given = {name: at(f"loss_in_{name}").requires_grad_() for name in names}
    texts, scale = F.normalize(given["text_embed"], dim=1), given["logit_scale"]
    contrasts = [clip_loss(F.normalize(view, dim=1), texts, scale) for view in given["image_embed"].chunk(2)]
    first, second = given["image_ssl_embed"].chunk(2)
    likeness = siamese_loss(given["byol_feats"], at("loss_in_byol_feats_e").repeat(2, 1))
    found = {"contra_loss_1": contrasts[0], "contra_loss_2": contrasts[1], "im_byol_loss": likeness}
    found["simclr_loss"] = nt_xent_loss(first, first, temperature=TEMPERATURE)  # the release gives it one view twice
    rest = sum(contrasts) / 2 + 2 * likeness
    found["loss"] = rest + found["simclr_loss"]
    for name, value in found.items():
        close(value, at(f"loss_out_{name}"))
    found["loss"].backward(retain_graph=True)
    for name, one in given.items():
        close(one.grad if one.grad is not None else torch.zeros_like(one), at(f"loss_grad_{name}"))
    between = nt_xent_loss(first, second, temperature=TEMPERATURE)
    close(between, at("simclr_two_view"))
    close(rest + between, at("loss_total_two_view"))


def test_the_average_that_attends() -> None:
    V.need("ema_shadow")
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(at("ema_shadow").clone()))
    ema = MovingEncoder(model, momentum=float(V["ema_m"]), steps=1)
    with torch.no_grad():
        model.weight.copy_(at("ema_online"))
    ema.update_(step=0)
    close(ema.tensors()["weight"], at("ema_new"))
