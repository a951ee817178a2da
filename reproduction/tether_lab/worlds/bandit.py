"""A bandit with a handful of states, learned by several gradient steps on each batch: where trust regions matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.methods.troll.kl_projection import kl_divergence, project_kl
from tether.methods.troll.loss import EPS, TROLLLoss

STATES, ACTIONS = 6, 16
GROUP, BATCHES, INNER = 32, 40, 8
"""Actions drawn in each state, batches, and gradient steps on each batch."""
LEAST = 1e-6
"""A gradient whose entries are all smaller is rounding, not a gradient."""
CLIP = 0.2
"""PPO's clipping range (arXiv 1707.06347)."""

Method = Literal["clip", "projection"]


@dataclass(frozen=True, slots=True)
class BanditRun:
    """One training run.

    Attributes:
        success: mean probability of the right action at the end.
        largest_kl: largest KL(new || old) of a state at the end of a batch, in nats.
        outside: how many drawn actions, over all steps, had a gain or a loss and a distribution outside the region.
        moved_by_clip: share of those to whose logits PPO's clipped ratio gives a gradient; 1 if there are none.
        moved_by_projection: the same share for TROLL's loss, on the very same distributions.
        excess: largest KL(projection || old) above the radius, over all steps; 0 or less is exact.
        identical: share of the distributions inside the region that the projection returns bit for bit.
    """

    success: float
    largest_kl: float
    outside: int
    moved_by_clip: float
    moved_by_projection: float
    excess: float
    identical: float


def clipped_surrogate(
    logits: Float[Tensor, "n a"],
    old: Float[Tensor, "n a"],
    actions: Int[Tensor, " n"],
    advantages: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """PPO's loss of each action: the worse of the ratio and the clipped ratio (arXiv 1707.06347, equation 7)."""
    ratio = (logits.log_softmax(-1) - old).gather(1, actions[:, None])[:, 0].exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)


def projected_surrogate(
    logits: Float[Tensor, "n a"],
    old: Float[Tensor, "n a"],
    actions: Int[Tensor, " n"],
    advantages: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """TROLL's loss of each action."""
    terms = TROLLLoss().per_token(logits[:, None], old[:, None], actions[:, None])
    return -(terms.ratio[:, 0] * advantages - terms.regression[:, 0])


SURROGATES = {"clip": clipped_surrogate, "projection": projected_surrogate}


def train(method: Method, *, seed: int, rate: float, batches: int = BATCHES) -> BanditRun:
    """Learn which of 16 actions is right in each of 6 states; plain gradient descent on a table of logits.

    Equal seeds start alike and draw alike as long as the policies agree. What either loss would do to each action is
    measured on the way, whichever of them trains.

    Args:
        method: whose loss is followed.
        seed: of the right actions and all draws.
        rate: step size.
        batches: how many times actions are drawn.
    """
    chance = torch.Generator().manual_seed(seed)
    right = torch.randint(0, ACTIONS, (STATES,), generator=chance)
    table = torch.zeros(STATES, ACTIONS)
    states = torch.arange(STATES).repeat_interleave(GROUP)
    outside = clip = projection = 0
    inside = same = 0
    largest, excess = 0.0, -math.inf
    for _ in range(batches):
        before = table.log_softmax(-1)
        actions = torch.multinomial(before.exp(), GROUP, replacement=True, generator=chance)
        advantages = group_advantages((actions == right[:, None]).float()).flatten()
        drawn = actions.flatten()
        for _ in range(INNER):
            after = table.log_softmax(-1)
            projected, t = project_kl(after, before, EPS)
            excess = max(excess, float((kl_divergence(projected.double(), before.double()) - EPS).max()))
            inside += int((t == 1).sum())
            same += int((projected == after).all(dim=1)[t == 1].sum())
            gradients = {
                name: _gradients(loss, table[states], before[states], drawn, advantages)
                for name, loss in SURROGATES.items()
            }
            far = (t < 1)[states] & (advantages != 0)
            outside += int(far.sum())
            moved = {name: gradient.abs().amax(dim=1) > LEAST for name, gradient in gradients.items()}
            clip += int(moved["clip"][far].sum())
            projection += int(moved["projection"][far].sum())
            table = table - rate * torch.zeros_like(table).index_add(0, states, gradients[method]) / len(states)
        largest = max(largest, float(kl_divergence(table.log_softmax(-1), before).max()))
    success = table.softmax(-1).gather(1, right[:, None]).mean()
    return BanditRun(
        float(success),
        largest,
        outside,
        clip / outside if outside else 1.0,
        projection / outside if outside else 1.0,
        excess,
        same / inside if inside else 1.0,
    )


def group_advantages(rewards: Float[Tensor, "s g"]) -> Float[Tensor, "s g"]:
    """Rewards less their group's mean, in units of its deviation; 0 where all are equal (GRPO, arXiv 2402.03300)."""
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-4)


def _gradients(loss: object, logits: Tensor, old: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
    assert callable(loss)
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, old, actions, advantages).sum(), leaf)
    return gradient
