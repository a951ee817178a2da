"""The two losses that keep a mixture of experts in balance, as a term."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss
from tether.models.towers.blocks.moe import expert_losses
from tether.training.terms.term import Term, TermInputs


class ExpertBalance(Term):
    """Load balance and router z-loss of all layers with experts, for models that ``upcycle`` gives.

    Means over the layers of both towers, each over all that was encoded and over all processes. The log has for each
    side ``load_balance``, 1 where all is even, ``router_z``, the share of choices that were ``dropped``, and
    ``top_share``, that of the busiest expert. Source: arXiv 2502.00965; its weights are not published, these are usual.
    """

    @checked
    def __init__(self, *, balance: NonNegative = 0.01, router_z: NonNegative = 0.001) -> None:
        """Args: balance: weight of the load balance loss. router_z: weight of the router z-loss."""
        self.balance, self.router_z = balance, router_z

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: a model without experts.
        """
        tallies = {
            side: gather(extra["experts"][None]).sum(0) for side, extra in seen.extra.items() if "experts" in extra
        }
        if not tallies:
            raise InputError("experts: no tower has any; set model: {load: NAME, upcycle: {experts: 8}}")
        layers = sum(len(tally) for tally in tallies.values())
        parts, terms = [], {}
        for side, tally in tallies.items():
            found = expert_losses(tally)
            terms |= {f"{side}_{name}": value.detach() for name, value in found.items()}
            own = self.balance * found["load_balance"] + self.router_z * found["router_z"]
            parts.append(own * (len(tally) / layers))
        return (Loss(torch.stack(parts).sum(), terms),)
