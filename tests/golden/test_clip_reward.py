"""Rewards, their loss and RefCLIP-S against the release's: settings and tolerance from the file."""

from __future__ import annotations

import re

import numpy as np
import torch
from loading import load
from torch import Tensor

from tether.losses import self_critical_loss
from tether.tasks.caption import GrammarHead, Rewards, clip_s, ref_clip_s, self_critical_rewards

V = load("clip-reward")
HYPER = V.meta["hyper"]
CLOSE = {"rtol": float(re.findall(r"rtol ([\d.e+-]+)", V.meta["tolerance"])[0]), "atol": 1e-12}
WEIGHT = float(HYPER["clip_s_weight"])


def given(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def close(ours: Tensor | None, name: str) -> None:
    assert ours is not None
    np.testing.assert_allclose(ours.detach().numpy(), V[name], **CLOSE)


def rewards() -> Rewards:
    image, sample, greedy = given("img_feat"), given("gen_text_pre"), given("greedy_text_pre")
    formed: dict[str, Tensor] = {}
    if HYPER["grammar"]:
        head = GrammarHead(sample.shape[1]).to(sample.dtype)
        head.load_state_dict({"hidden.weight": given("W1"), "out.weight": given("W2")})
        formed["grammar"] = head.probability(sample)
        if HYPER["grammar_baseline"]:
            formed["greedy_grammar"] = head.probability(greedy)
    samples = len(sample) // len(image)
    return self_critical_rewards(
        clip_s(image.repeat_interleave(samples, 0), sample, weight=WEIGHT),
        clip_s(image, greedy, weight=WEIGHT),
        weight=float(HYPER["clip_reward_weight"]),
        **formed,
    )


def test_rewards() -> None:
    found = rewards()
    close(found.clip, "reward_clip")
    close(found.score.mean(), "mean_clip_s")
    close(found.greedy_score, "clip_s_greedy")
    if HYPER["grammar"]:
        close(found.grammar, "reward_grammar")


def test_loss_and_gradient() -> None:
    tokens = given("gen")
    logp = given("logp").gather(2, tokens[..., None])[..., 0].requires_grad_(True)
    loss = self_critical_loss(logp, tokens, rewards().total, eos_id=0)
    close(loss, "loss")
    loss.backward()
    close(logp.grad, "grad_logp_gathered")


def test_cross_entropy_is_the_loss_with_rewards_of_one() -> None:
    """The release's criterion leaves the ends out where its mask does."""
    tokens = given("gen")
    logp = given("logp").gather(2, tokens[..., None])[..., 0]
    close(self_critical_loss(logp, tokens, torch.ones(len(tokens)), mask=tokens > 0), "xe_loss")


def test_reference_score() -> None:
    image, greedy = given("img_feat"), given("greedy_text_pre")
    found = ref_clip_s(image, greedy, given("ref_feats"), mask=given("ref_mask"), weight=WEIGHT)
    close(found, "refclip_s_greedy")
