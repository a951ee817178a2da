"""The common half of every clipper that gives each tensor a factor of its own."""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.norms import GradientNorms, gradient_norms, scale_gradients_
from tether.core.protocols import NamedParams
from tether.core.types import ClipReport
from tether.optim.clip.base import Clipper


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
