"""Who does the pieces of a pass: this machine, or Ray's workers. The work and so the result are the same."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from tether.core.errors import InputError, MissingExtraError
from tether.core.ray_cluster import connected
from tether.data.curate.engine.plan import Plan, Tally
from tether.data.curate.engine.workers import Local

EngineName = Literal["local", "ray"]


class Engine(Protocol):
    """Runs ``plan.work`` over pieces until it is closed."""

    def __init__(self, workers: int) -> None:
        """Args: workers: processes of this machine that may be used."""
        ...

    def run(self, plan: Plan, *, number: int, pieces: Sequence[int]) -> Iterator[tuple[int, Tally]]:
        """Do the pieces of pass ``number``; yields each with its counts when its files are there."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class _Actor:
    """A Ray actor: it receives the plan once and then only numbers of pieces."""

    def __init__(self, plan: Any, number: int) -> None:
        import ray

        self._plan, self._number = ray.get(plan[0]), number

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # Bad input is handed back as a value: raised here, Ray would try the piece again and wrap the message.
        try:
            tally = self._plan.work(self._number, int(row["item"]))
        except InputError as error:
            return {"item": row["item"], "tally": [], "error": str(error)}
        return {"item": row["item"], "tally": [list(each) for each in tally], "error": ""}


class RayData:
    """Pieces as a Ray data set, mapped by actors, one for each CPU of the cluster at most.

    A cluster that is already connected is used, else one is started on this machine. Workers elsewhere must see the
    pool and the output folder under the same paths. A worker that dies loses its piece, which another one then does.
    """

    def __init__(self, workers: int) -> None:
        """Args: workers: not used; how many there are is the cluster's to say."""
        self._opened = contextlib.ExitStack()
        self._ray: Any = None

    def close(self) -> None:
        """End a cluster that was started here; another one stays."""
        self._opened.close()

    def run(self, plan: Plan, *, number: int, pieces: Sequence[int]) -> Iterator[tuple[int, Tally]]:
        """Do the pieces.

        Raises:
            MissingExtraError: Ray Data is not installed.
            InputError: what ``plan.work`` refuses.
        """
        if self._ray is None:
            self._ray = self._opened.enter_context(connected())
        ray = self._ray
        try:
            import ray.data
        except ImportError as error:
            raise MissingExtraError("ray", extra="ray") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        actors = max(1, min(len(pieces), int(ray.cluster_resources().get("CPU", 1))))
        given = [ray.put(plan)]  # in a list, so that Ray hands on the reference and not the plan itself
        actor: Any = _Actor  # Ray takes a class for an actor, which its annotation does not say
        found = ray.data.from_items(list(pieces), override_num_blocks=len(pieces)).map(
            actor, fn_constructor_args=(given, number), compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors)
        )
        for row in found.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            yield int(row["item"]), tuple(tuple(map(int, each)) for each in row["tally"])  # pyrefly: ignore


ENGINES: Mapping[EngineName, type[Engine]] = {"local": Local, "ray": RayData}
"""Every engine by name."""
