"""Jobs for actors of a Ray cluster: at most two each, answered by number, and none lost with an actor that dies."""

from __future__ import annotations

import logging
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tether.core.errors import InputError, TetherError, reason_of
from tether.core.fingerprint import code_of

TRIES = 3
"""Deaths over one job before it is given up: memory will run out again, but a stray signal will not come again."""
_EACH = 2
"""Jobs that an actor holds, so that it need not wait for the next."""
_PATIENCE = 30.0
"""Seconds without a worker that has begun, after which it is said."""
_log = logging.getLogger("tether.data")


class Work(Protocol):
    """What an actor does; it travels to it once."""

    def begin(self) -> None:
        """Get ready, once in every actor."""

    def do(self, job: Any) -> Any:
        """One job."""


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What came of a job: a value, or what was wrong."""

    value: Any = None
    error: str = ""


def _code() -> str:
    """A digest of this package, whose classes travel between the two sides."""
    return "".join(code_of(path) for path in sorted(Path(__file__).parent.glob("*.py")))


class _Actor:
    """Lives on the cluster. What is wrong with the input is an answer, so that Ray does not wrap its message."""

    def begin(self, work: Work, code: str) -> JobAnswer:
        host = socket.gethostname()
        if code != _code():
            return JobAnswer(error=f"{host} has another version of Tether than this machine; install the same on all")
        self._work = work
        try:
            work.begin()
        except TetherError as error:
            return JobAnswer(error=f"{host}: {error}")
        return JobAnswer()

    def do(self, job: Any) -> JobAnswer:
        try:
            return JobAnswer(self._work.do(job))
        except TetherError as error:
            return JobAnswer(error=str(error))


@dataclass(slots=True)
class _Member:
    actor: Any
    begun: Any  # the answer of its beginning, None once it is there
    jobs: deque[tuple[int, Any]] = field(default_factory=deque)  # numbers and answers to come, in the order of work


class RayCrew:
    """Actors of one cluster and their jobs.

    An actor that dies, or whose machine goes, is replaced; the job it was at is done again by another, and so are those
    that it had not begun. After three deaths over one job the work stops and names it.
    """

    def __init__(
        self, ray: Any, work: Work, *, workers: int, cpus: int, gpus: int, named: Callable[[int], str]
    ) -> None:
        """Ask for the actors; nobody waits for them yet.

        Args:
            ray: the module, connected.
            work: what they do.
            workers: how many.
            cpus: of the cluster's processors that each one takes.
            gpus: of its GPUs.
            named: what a job is called in errors.

        Raises:
            InputError: no machine of the cluster has so many processors or GPUs, or the work cannot be sent.
        """
        wanted = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= count for kind, count in wanted.items()) for node in nodes):
            said = " and ".join(f"{count} {kind}" for kind, count in wanted.items())
            raise InputError(
                f"a worker needs {said}, and no machine of the Ray cluster has that; OMP_NUM_THREADS=1 asks for one CPU"
            )
        self._ray, self._named = ray, named
        self._class: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Actor)
        try:
            self._work = ray.put(work)
        except Exception as error:  # cloudpickle lets through whatever a part's own code raises
            raise InputError(f"cannot be sent to Ray's workers: {reason_of(error):.300}") from error
        self._waiting: deque[int] = deque()
        self._jobs: dict[int, Any] = {}
        self._answers: dict[int, JobAnswer] = {}
        self._deaths: Counter[int] = Counter()
        self._crew: list[_Member] = []
        for _ in range(workers):
            self._hire()

    def give(self, number: int, job: Any) -> None:
        """Have a job done; it stays on the cluster until its answer is taken."""
        self._jobs[number] = self._ray.put(job)
        self._waiting.append(number)
        self._hand_out()

    def answer(self, number: int) -> Any:
        """What came of a job, as soon as it is done.

        Raises:
            InputError: what it refused, or three workers died over it.
            RuntimeError: a mistake in the work.
        """
        while number not in self._answers:
            self._turn()
        answer = self._answers.pop(number)
        del self._jobs[number]
        if answer.error:
            raise InputError(answer.error)
        return answer.value

    def close(self) -> None:
        """End the actors, whatever they do."""
        for member in self._crew:
            self._ray.kill(member.actor)
        self._crew.clear()

    def _hire(self) -> None:
        actor = self._class.remote()
        self._crew.append(_Member(actor, actor.begin.remote(self._work, _code())))

    def _hand_out(self) -> None:
        """One job for everybody who has begun, then a second one."""
        ready = [member for member in self._crew if member.begun is None]
        for full in range(_EACH):
            for member in ready:
                if self._waiting and len(member.jobs) <= full:
                    number = self._waiting.popleft()
                    member.jobs.append((number, member.actor.do.remote(self._jobs[number])))

    def _turn(self) -> None:
        """Wait for one answer."""
        next_ones = {
            (member.begun if member.begun is not None else member.jobs[0][1]): member
            for member in self._crew
            if member.begun is not None or member.jobs
        }
        done, _ = self._ray.wait(list(next_ones), num_returns=1, timeout=_PATIENCE)
        if not done and all(member.begun is not None for member in self._crew):
            _log.warning("no worker has begun yet: the Ray cluster is busy, or its machines are slow to start")
        for one in done:
            self._take(one, next_ones[one])
        self._hand_out()

    def _take(self, reference: Any, member: _Member) -> None:
        number = -1 if member.begun is not None else member.jobs[0][0]
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            what = "a worker failed as it began" if number < 0 else f"a worker failed at {self._named(number)}"
            raise RuntimeError(f"{what}:\n{error}") from None
        except self._ray.exceptions.RayError as error:
            self._lost(member, number, error)
            return
        if number >= 0:
            member.jobs.popleft()
            self._answers[number] = answer
        elif answer.error:
            raise InputError(f"a Ray worker cannot begin: {answer.error}")
        else:
            member.begun = None
            self._deaths.pop(number, None)

    def _lost(self, member: _Member, number: int, error: Exception) -> None:
        """Another one takes its place and its jobs, the one it was at first."""
        self._deaths[number] += 1
        if self._deaths[number] == TRIES:
            what = "as they began" if number < 0 else f"over {self._named(number)}"
            raise InputError(
                f"{TRIES} workers died {what} ({reason_of(error):.200}); is there enough memory? Fewer workers, "
                "smaller batches or smaller parts need less"
            ) from None
        self._crew.remove(member)
        self._ray.kill(member.actor)
        self._waiting.extendleft(each for each, _ in reversed(member.jobs))
        self._hire()
