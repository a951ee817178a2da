"""AutoClip: the limit is a percentile of all gradient norms so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, checked
from tether.methods.autoclip.running_percentile import FullHistory, History, Window
from tether.optim.clip.base import UniformClipper


@final
class AutoClip(UniformClipper):
    """Clips to the ``percentile`` of the norms seen so far, this one among them.

    The norm ``n`` enters the history raw, then all gradients are multiplied by ``min(1, limit / (n + eps))``. There is
    no warm-up: the first norm is its own limit. Gradients that are exactly zero are recorded; a step without any
    gradient is not.

    Source: Seetharaman, Wichern, Pardo, Le Roux, arXiv 2007.14469, algorithm 1, and ``autoclip.py`` of the released
    code (its TensorFlow file differs). Of our own: state that can be saved, the non-finite rule, ``window`` (named as
    future work there), and a history whose cost does not grow.

    Example:
        >>> import torch
        >>> from tether.methods.autoclip import AutoClip
        >>> weight, clipper = torch.nn.Parameter(torch.zeros(1)), AutoClip(percentile=50)
        >>> for step, norm in enumerate([1.0, 2.0, 3.0, 100.0]):
        ...     weight.grad = torch.tensor([norm])
        ...     report = clipper.clip_([("weight", weight)], step=step)
        >>> print(f"norm {report.norm:.1f}, limit {report.threshold:.1f}, clipped to {weight.grad.item():.1f}")
        norm 100.0, limit 2.5, clipped to 2.5
    """

    records: ClassVar[Literal["nothing", "raw", "clipped"]] = "raw"

    @checked
    def __init__(
        self,
        percentile: Annotated[float, Ge(0), Le(100)] = 10.0,
        *,
        window: Count | None = None,
        eps: NonNegative = 1e-6,
        nonfinite: Literal["skip", "raise"] = "skip",
    ) -> None:
        """Take the settings.

        Args:
            percentile: 10 is the authors' advice (section 5), 100 never clips, 0 brings every norm to the
                smallest one yet, and after one gradient of zero to zero for good.
            window: how many of the last norms count, or None for all.
            eps: added to the norm before dividing: 1e-6 as released; with 0 the factors do not depend on the loss's
                scale at all.
            nonfinite: ``skip`` or ``raise``, see ``Clipper``.
        """
        super().__init__(nonfinite=nonfinite)
        self.percentile, self.window, self.eps = float(percentile), window, float(eps)
        self._history: History = FullHistory() if window is None else Window(window)

    @property
    def history(self) -> Float[Tensor, " count"]:
        """The norms that count: oldest first with a ``window``, ascending without. Reading it waits for the device."""
        return self._history.numbers()

    def _decide(self, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        if self._history.count.device != norm.device:
            self._history.to(norm)
        self._history.add(norm, keep=finite)
        threshold = torch.where(self._history.count > 0, self._history.percentile(self.percentile), math.inf)
        # A norm of zero needs no factor, and without eps has none.
        return torch.where(norm > 0, (threshold / (norm + self.eps)).clamp(max=1.0), 1.0), threshold

    def state_dict(self) -> dict[str, Any]:
        """The history and the settings."""
        return {**super().state_dict(), "history": self.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the history of an AutoClip with the same settings."""
        super().load_state_dict(state)
        history = torch.as_tensor(state["history"])
        if history.ndim != 1 or not bool((history.isfinite() & (history >= 0)).all()):
            raise InputError(f"AutoClip state: history: expected a vector of finite norms, got {history!r}")
        self._history.load(history)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("percentile", "window", "eps", "nonfinite")}
