"""Rounds on one machine: weights go out, updates come back, a mean is taken, and the clipping norm moves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Inner, checked
from tether.methods.dpfl_moo_clip import MooClipSchedule
from tether.methods.dpfl_moo_clip.checks import check_update
from tether.methods.dpfl_moo_clip.client import PrivateClient, Update


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What a round leaves in the log: nothing that was not released under privacy.

    Attributes:
        round: from 1.
        c: clipping norm that was in force.
        clipped: mean over clients of the shares of clipped samples, each with noise; None where none is released.
    """

    round: int
    c: float
    clipped: float | None


@dataclass(frozen=True, slots=True)
class Federated:
    """What came of it.

    Attributes:
        module: trained, a copy.
        records: a round each.
        epsilon: the most that a client's samples have spent, by Opacus' accountant.
        delta: at which.
        c: clipping norm for a next round.
    """

    module: nn.Module
    records: Sequence[RoundRecord]
    epsilon: float
    delta: float
    c: float


@checked
def federate(
    module: nn.Module,
    clients: Sequence[PrivateClient],
    *,
    rounds: Count,
    clip: MooClipSchedule | float,
    delta: Inner,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> Federated:
    """Train a module on the data of several clients, which this function never sees.

    Args:
        module: what the clients were made with; it is not changed.
        clients: all take part in every round, with equal weight, as their sizes are theirs.
        rounds: how many.
        clip: the rule for the clipping norm, whose state moves; or a fixed norm.
        delta: of the epsilon; well below one over the rows of the smallest client.
        on_round: told each record.

    Raises:
        InputError: no clients, or a rule without counts or of another noise, batch size or count noise than a client's.
        NotFiniteError: a client's weights are not finite any more.
    """
    if not clients:
        raise InputError("clients: expected at least one, got none")
    schedule = clip if isinstance(clip, MooClipSchedule) else None
    for number, client in enumerate(clients):
        if schedule is None:
            continue
        made = (client.noise_multiplier, client.batch_size, client.count_std)
        expected = (schedule.noise_multiplier, schedule.batch_size, schedule.count_std)
        if made != expected:
            raise InputError(
                f"client {number}: expected noise_multiplier, batch_size and count_std {expected} as the rule has, "
                f"got {made}"
            )
    if schedule is None and not 0 < float(clip) < math.inf:  # pyrefly: ignore
        raise InputError(f"clip: expected a finite norm above 0, got {clip}")
    trained, records = copy.deepcopy(module), list[RoundRecord]()
    for number in range(1, rounds + 1):
        c = float(clip) if schedule is None else schedule.c  # pyrefly: ignore
        state = {name: value.detach().clone() for name, value in trained.state_dict().items()}
        updates = [client.train(state, c=c) for client in clients]
        for place, update in enumerate(updates):
            check_update(update.state, whose=f"round {number}, client {place}")
        trained.load_state_dict(mean_state([update.state for update in updates]))
        clipped = mean_share(updates)
        if schedule is not None:
            assert clipped is not None  # every client has the rule's count_std
            schedule.update(clipped)
        records.append(RoundRecord(number, c, clipped))
        if on_round is not None:
            on_round(records[-1])
    spent = max(client.epsilon(delta=delta) for client in clients)
    return Federated(trained, records, spent, delta, float(clip) if schedule is None else schedule.c)  # pyrefly: ignore


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of weights by name; whole numbers are the first one's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def mean_share(updates: Sequence[Update]) -> float | None:
    """Of the shares that were released; None where one client releases none."""
    shares = [update.clipped for update in updates if update.clipped is not None]
    return sum(shares) / len(shares) if len(shares) == len(updates) else None
