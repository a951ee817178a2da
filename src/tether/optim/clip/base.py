"""What every clipper shares: the rule for gradients that are not finite, the empty case, and checked state."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tether.core.errors import InputError, TetherError
from tether.core.norms import GradientNorms
from tether.core.protocols import NamedParams
from tether.core.ranges import checked
from tether.core.types import ClipReport


class NonFiniteGradientError(TetherError):
    """A gradient holds NaN or infinity and the clipper was told to raise."""


class Clipper(abc.ABC):
    """Bounds gradients in place: one factor for all (``UniformClipper``), for each tensor, or for each unit.

    A norm that is not finite records nothing, sets every gradient to zero and asks for a skip. Without any gradient
    nothing is recorded either. All figures stay on the gradients' device: on an accelerator no step waits for one.

    Attributes:
        records: what enters the statistic, if there is one: the ``raw`` norm, or the norm once ``clipped``.
        nonfinite: ``skip`` or ``raise``.
    """

    records: ClassVar[Literal["nothing", "raw", "clipped"]] = "nothing"

    @checked
    def __init__(self, *, nonfinite: Literal["skip", "raise"] = "skip") -> None:
        """Args: nonfinite: ``skip`` as described; ``raise`` stops the run, at the price of one wait a step."""
        self.nonfinite = nonfinite

    @abc.abstractmethod
    def clip_(self, named_params: NamedParams, *, step: int) -> ClipReport:
        """Bound the ``.grad`` of every parameter given.

        Args:
            named_params: pairs as ``module.named_parameters()`` gives them; parameters without gradient are left out.
            step: number of the optimiser's step, for clippers that depend on it.

        Raises:
            InputError: not pairs of name and parameter, or a gradient that is sparse or of whole numbers.
            NonFiniteGradientError: with ``nonfinite="raise"``.
        """

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that let ``load_state_dict`` continue bit for bit."""
        return {"settings": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a clipper with the same settings.

        Raises:
            InputError: a missing or unknown key, or other settings than these.
        """
        own = self.state_dict()
        if state.keys() != own.keys():
            raise InputError(f"{type(self).__name__} state: expected keys {sorted(own)}, got {sorted(state)}")
        for name, value in self._settings().items():
            if state["settings"].get(name) != value:
                raise InputError(
                    f"{type(self).__name__} state: {name} is {state['settings'].get(name)!r} there and {value!r} here"
                )

    @abc.abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Constructor arguments as JSON has them (lists, no tuples), for the check on resume."""

    def _finite(self, norms: GradientNorms) -> Tensor:
        """0-d bool, whether every gradient is finite.

        Raises:
            NonFiniteGradientError: one is not, and ``nonfinite`` is ``raise``; it names the tensors.
        """
        finite = norms.total.isfinite()
        if self.nonfinite == "raise" and not bool(finite):
            bad = [norms.names[row] for row in (~norms.squares.isfinite()).nonzero().flatten().tolist()]
            raise NonFiniteGradientError(f"{len(bad)} gradients are not finite: {', '.join(bad[:5])}")
        return finite

    @staticmethod
    def _untouched(norm: Tensor) -> ClipReport:
        """The report of a step without any gradient: nothing limited, nothing recorded, no skip."""
        one = torch.ones_like(norm)
        return ClipReport(norm, one, one * torch.inf, torch.zeros_like(norm, dtype=torch.bool))
