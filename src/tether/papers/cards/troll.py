"""TROLL: an exact trust region for language-model policies in place of the clipped ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

RATES = (1.0, 5.0, 20.0)

CARD = Card(
    slug="troll",
    title="TROLL: Trust Regions Improve Reinforcement Learning for Large Language Models",
    year=2025,
    arxiv="2510.03817",
    venue="ICLR 2026",
    authors=("Becker", "Freymuth", "Thilges", "Otto", "Neumann"),
    package="losses",
    parts=(
        "tether.losses.troll.TROLLLoss",
        "tether.losses.kl_projection.project_kl",
        "tether.losses.sparse_policy.SparseDist",
        "tether.train.trl_troll.TROLLTrainer",
    ),
    needs=("a language model that is rewarded for its answers",),
    gives="Policy-gradient steps inside an exact KL ball around the policy that sampled, several on each batch.",
    claim=Claim(
        says="What has left the trust region still learns: where PPO's clipped ratio leaves most actions outside of it "
        "without a gradient, the projection gives all of them one.",
        metric="actions with a gain or loss and a distribution outside the region that get a gradient, in per cent",
        better="higher",
        margin=50.0,
        baseline="PPO's clipped ratio (0.2), asked for the same actions on its own way of learning",
        scale="bandit of 6 states and 16 actions, 40 batches of 32 actions a state, 8 steps on each, step sizes "
        "1, 5 and 20",
    ),
    differences=(
        "The paper's gains on language models of billions of weights are out of reach here; a Llama of 132 thousand "
        "weights learns to sort digits in the guide instead.",
        "The multiplier is found in float64 by a safeguarded Newton iteration and differentiated in closed form; the "
        "paper uses an n-ary search and a differentiable convex program.",
        "The radius 0.05 and the tail mass 1e-12 come from an independent implementation; the paper's table was not "
        "seen, and no official code was found.",
    ),
    minutes=0.3,
    guide="objectives.md",
)


def reproduce(lab: Lab) -> Trial:
    """Learn with either loss at three step sizes, and ask both for gradients on the clipped one's way."""
    from tether.papers.testbeds.bandit import train

    batches = lab.steps(40, 3)
    notes: dict[str, float] = {}
    outside, clip, projection = 0, 0.0, 0.0
    gaps, excess, identical = [], [], []
    for rate in RATES:
        runs = {method: train(method, seed=lab.seed, rate=rate, batches=batches) for method in ("clip", "projection")}
        for method, run in runs.items():
            notes[f"success_{method}_{rate:g}"] = run.success
            notes[f"largest_kl_{method}_{rate:g}"] = run.largest_kl
            excess.append(run.excess)
            identical.append(run.identical)
        gaps.append(runs["projection"].success - runs["clip"].success)
        outside += runs["clip"].outside
        clip += runs["clip"].outside * runs["clip"].moved_by_clip
        projection += runs["clip"].outside * runs["clip"].moved_by_projection
    notes |= {
        "actions_outside": float(outside),
        "worst_success_gap": min(gaps),
        "largest_excess_kl": max(excess),
        "identical_inside": min(identical),
    }
    if not outside:  # a run too short to leave the region
        return Trial(100.0, 100.0, notes)
    return Trial(100 * clip / outside, 100 * projection / outside, notes)
