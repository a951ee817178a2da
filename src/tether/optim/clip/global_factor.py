"""The common half of every clipper that multiplies all gradients by one factor."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from tether.core.norms import GradientNorms, gradient_norms, scale_gradients_
from tether.core.protocols import NamedParams
from tether.core.types import ClipReport
from tether.optim.clip.base import Clipper


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
