"""What each guard costs on a calm step."""

from __future__ import annotations

from collections.abc import Mapping

from tether.workflows.clipper_comparison.costs import CALLS, ROUNDS, Cost, calm_group, costs, one_thread
from tether_lab.stability.guard import Guard


def guard_costs(guards: Mapping[str, Guard], *, rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, Cost]:
    """Time of each guard on a calm step, one thread: the same gradients each time, which no constant limit acts on.

    AutoClip's limit is then their own norm, so it acts, as it does in most steps of a training. A clipper is timed
    alone. Of an optimiser's step the time of AdamW's is subtracted, so it may be below 0.

    Args:
        guards: by name.
        rounds: see ``costs``.
        calls: see ``costs``.
    """
    with one_thread():
        steps = {
            name: guard.optimizer(calm_group(), model="", rate=1e-6, betas=(0.9, 0.98)).step
            for name, guard in guards.items()
            if guard.kind == "optimizer"
        }
        clippers = {name: guard.clipper() for name, guard in guards.items() if guard.kind == "clipper"}
        named = [(f"tensor{number}", parameter) for number, parameter in enumerate(calm_group()[0]["params"])]
        found = costs(clippers, named, steps=steps, rounds=rounds, calls=calls)
    return {name: found[name] for name in guards}
