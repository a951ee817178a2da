"""What clippers share: gradients that are not finite, no gradient at all, checked state, and one factor or many."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.component import closest
from tether.core.errors import InputError, TetherError
from tether.core.norms import GradientNorms, gradient_norms, scale_gradients_
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
        """

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that let ``load_state_dict`` continue bit for bit."""
        return {"settings": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a clipper with the same settings."""
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


class UniformClipper(Clipper):
    """One factor for all gradients, decided from their global norm."""

    def clip_(self, named_params: NamedParams, *, step: int) -> ClipReport:
        """Bound the ``.grad`` of every parameter given, all by one factor; see ``Clipper.clip_``."""
        norms, report = self.measure(named_params, step=step)
        scale_gradients_(norms, factor=report.scale, skip=report.skip)
        return report

    @torch.no_grad()
    def measure(self, named_params: NamedParams, *, step: int) -> tuple[GradientNorms, ClipReport]:
        """Decide and record as ``clip_`` does, but leave the gradients alone: whoever calls it applies ``scale``."""
        del step  # the clippers of this kind count for themselves
        norms = gradient_norms(named_params)
        norm = norms.total
        if not norms.names:
            return norms, self._untouched(norm)
        finite = self._finite(norms)
        scale, threshold = self._decide(norm, finite)
        return norms, ClipReport(norm, torch.where(finite, scale, torch.zeros_like(scale)), threshold, ~finite)

    @abc.abstractmethod
    def _decide(self, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        """The factor and the limit in force for this norm; record it only where ``finite`` holds. All 0-d."""


class TensorClipper(Clipper):
    """One factor for each gradient, decided from the norms of all. The report's ``scale`` is the smallest one."""

    @torch.no_grad()
    def clip_(self, named_params: NamedParams, *, step: int) -> ClipReport:
        """Bound the ``.grad`` of every parameter given, each by its own factor; see ``Clipper.clip_``."""
        del step  # the clippers of this kind count for themselves
        norms = gradient_norms(named_params)
        norm = norms.total
        if not norms.names:
            return self._untouched(norm)
        finite = self._finite(norms)
        factors, threshold = self._decide(norms, finite)
        scale_gradients_(norms, factor=factors, skip=~finite)
        scale = factors.amin()
        return ClipReport(norm, torch.where(finite, scale, torch.zeros_like(scale)), threshold, ~finite)

    @abc.abstractmethod
    def _decide(self, norms: GradientNorms, finite: Tensor) -> tuple[Float[Tensor, " n"], Float[Tensor, ""]]:
        """A factor for each tensor and the limit on the global norm; record only where ``finite`` holds."""


_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP1 and activation checkpointing put into names."""
_REPLICATED = "module."
"""What DistributedDataParallel and DataParallel put before every name."""


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without what wrappers add, so that a state saved under DDP is found again without it.

    ``module.`` is taken off only when every name begins with it. Names that would fall together stay as they are.
    """
    plain = list(names)
    for wrapper in _WRAPPERS:
        plain = [name.replace(wrapper, "") for name in plain]
    while plain and all(name.startswith(_REPLICATED) for name in plain):
        plain = [name.removeprefix(_REPLICATED) for name in plain]
    return tuple(plain) if len(set(plain)) == len(set(names)) else tuple(names)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns, e.g. ``*logit_scale``."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(patterns: Iterable[str], *, names: Sequence[str], where: str) -> None:
    """Refuse a pattern that fits no name: it is a typing error, and would limit what must not be limited."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"{where}: no parameter is named like {pattern!r}; {closest(pattern, names)}")
