"""No clipping, but the norm is measured all the same."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from tether.optim.clip.global_factor import UniformClipper


@final
class NoClip(UniformClipper):
    """Reports the global norm and leaves finite gradients alone; non-finite ones are still zeroed and skipped."""

    def _decide(self, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(norm), torch.full_like(norm, torch.inf)

    def _settings(self) -> dict[str, Any]:
        return {"nonfinite": self.nonfinite}
