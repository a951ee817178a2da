"""The common half of every clipper that multiplies all gradients by one factor."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from tether.core.errors import InputError, TetherError
from tether.core.norms import GradientNorms, gradient_norms, scale_gradients_
from tether.core.protocols import NamedParams
from tether.core.types import ClipReport


class NonFiniteGradientError(TetherError):
    """A gradient holds NaN or infinity and the clipper was told to raise."""


class UniformClipper(abc.ABC):
    """One factor for all gradients, decided from their global norm.

    A norm that is not finite records nothing, sets every gradient to zero and asks for a skip. Without any gradient
    nothing is recorded either. All figures stay on the gradients' device: on an accelerator no step waits for one.
    """

    def __init__(self, *, nonfinite: Literal["skip", "raise"] = "skip") -> None:
        """Args: nonfinite: ``skip`` as described; ``raise`` stops the run, at the price of one wait a step."""
        if nonfinite not in ("skip", "raise"):
            raise InputError(f"nonfinite: expected 'skip' or 'raise', got {nonfinite!r}")
        self.nonfinite = nonfinite

    def clip_(self, named_params: NamedParams, *, step: int) -> ClipReport:
        """Bound the ``.grad`` of every parameter given.

        Args:
            named_params: pairs as ``module.named_parameters()`` gives them; parameters without gradient are left out.
            step: number of the optimiser's step, for clippers that depend on it.

        Raises:
            InputError: not pairs of name and parameter, or a sparse gradient.
            NonFiniteGradientError: with ``nonfinite="raise"``.
        """
        norms, report = self.measure(named_params, step=step)
        scale_gradients_(norms, factor=report.scale, skip=report.skip)
        return report

    @torch.no_grad()
    def measure(self, named_params: NamedParams, *, step: int) -> tuple[GradientNorms, ClipReport]:
        """Decide and record as ``clip_`` does, but leave the gradients alone: whoever calls it applies ``scale``."""
        del step  # the clippers of this kind count for themselves
        norms = gradient_norms(named_params)
        norm = norms.total
        one = torch.ones_like(norm)
        if not norms.names:
            return norms, ClipReport(norm, one, one * torch.inf, torch.zeros_like(norm, dtype=torch.bool))
        finite = norm.isfinite()
        if self.nonfinite == "raise" and not bool(finite):
            bad = [norms.names[row] for row in (~norms.squares.isfinite()).nonzero().flatten().tolist()]
            raise NonFiniteGradientError(f"{len(bad)} gradients are not finite: {', '.join(bad[:5])}")
        scale, threshold = self._decide(norm, finite)
        return norms, ClipReport(norm, torch.where(finite, scale, torch.zeros_like(scale)), threshold, ~finite)

    @abc.abstractmethod
    def _decide(self, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        """The factor and the limit in force for this norm; record it only where ``finite`` holds. All 0-d."""

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
        """Constructor arguments, for the check on resume."""
