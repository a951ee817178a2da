"""Who does the pieces of a pass: this process, or Ray's workers. The work and so the result are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from tether.core.errors import MissingExtraError
from tether.data.curate.plan import Plan

EngineName = Literal["local", "ray"]


class Engine(Protocol):
    """Runs ``plan.work`` over pieces."""

    def __call__(self, plan: Plan, *, number: int, pieces: Sequence[int]) -> Iterator[int]:
        """Do the pieces of pass ``number``; yields each when its files are there."""
        ...


def local(plan: Plan, *, number: int, pieces: Sequence[int]) -> Iterator[int]:
    """One piece after the other in this process."""
    for piece in pieces:
        plan.work(number, piece)
        yield piece


class _Worker:
    """A Ray actor: it receives the plan once and then only numbers of pieces."""

    def __init__(self, plan: Any, number: int) -> None:
        import ray

        self._plan, self._number = ray.get(plan[0]), number

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self._plan.work(self._number, int(row["item"]))
        return row


def ray_data(plan: Plan, *, number: int, pieces: Sequence[int]) -> Iterator[int]:
    """Pieces as a Ray data set, mapped by actors, one for each CPU of the cluster at most.

    Workers on other machines must see the pool and the output folder under the same paths.

    Raises:
        MissingExtraError: Ray Data is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", extra="ray") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    workers = max(1, min(len(pieces), int(ray.cluster_resources().get("CPU", 1))))
    # In a list, so that Ray hands on the reference and does not put the whole plan into every task.
    given = [ray.put(plan)]
    worker: Any = _Worker  # Ray takes a class for an actor, which its annotation does not say
    found = ray.data.from_items(list(pieces), override_num_blocks=len(pieces)).map(
        worker, fn_constructor_args=(given, number), concurrency=(1, workers)
    )
    for row in found.iter_rows():
        yield int(row["item"])


ENGINES: Mapping[EngineName, Engine] = {"local": local, "ray": ray_data}
"""Every engine by name."""
