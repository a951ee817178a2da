"""What a reproduction is given: a seed and a budget. Its code is part of every fingerprint."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch


class Lab:
    """One seed of one reproduction.

    Used as a context it sets torch's thread count and default generator, and puts both back afterwards, so one
    paper's check cannot change the next one's.

    Args:
        seed: of everything random (>= 0).
        smoke: run everything once with as little as possible; numbers mean nothing then.
        device: where models are loaded.
        threads: of torch on the CPU.
    """

    def __init__(self, seed: int, *, smoke: bool = False, device: str = "cpu", threads: int = 1) -> None:
        """Take the settings; nothing is loaded yet."""
        self.seed = seed
        self.smoke = smoke
        self.device = device
        self.threads = threads
        self._before: tuple[int, torch.Tensor] | None = None

    def steps(self, full: int, smoke: int = 2) -> int:
        """How many of anything: ``full``, or ``smoke`` in a smoke run."""
        return smoke if self.smoke else full

    def generator(self, name: str = "") -> torch.Generator:
        """A fresh CPU generator drawn from the seed and a name; equal names give equal streams."""
        import torch

        from tether.core.hash_rng import hash_int

        return torch.Generator().manual_seed(hash_int(name, seed=self.seed, salt="lab") >> 1)

    def __enter__(self) -> Self:
        import torch

        self._before = (torch.get_num_threads(), torch.get_rng_state())
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        if self._before is not None:
            torch.set_num_threads(self._before[0])
            torch.set_rng_state(self._before[1])
