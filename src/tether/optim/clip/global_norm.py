"""One limit on the joint norm of all gradients, the ancestor of all clippers, and none."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from torch import Tensor

from tether.core.ranges import Limit, NonNegative, checked
from tether.optim.clip.base import UniformClipper


@final
class NoClip(UniformClipper):
    """Reports the global norm and leaves finite gradients alone; non-finite ones are still zeroed and skipped."""

    def _decide(self, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(norm), torch.full_like(norm, torch.inf)

    def _settings(self) -> dict[str, Any]:
        return {"nonfinite": self.nonfinite}


@final
class GlobalNorm(UniformClipper):
    """Scales all gradients by ``max_norm / norm`` when their joint L2 norm is larger than ``max_norm``.

    Source: Pascanu, Mikolov, Bengio, arXiv 1211.5063, section 3.2, algorithm 1. Their code sets the recurrent
    gradient to ``0.02 * W_hh`` when the norm is not finite; here such a step is skipped.

    Example:
        >>> import torch
        >>> from tether.optim.clip import GlobalNorm
        >>> network, clipper = torch.nn.RNN(4, 8), GlobalNorm(1.0)
        >>> (1000 * network(torch.ones(5, 2, 4))[0].sum()).backward()
        >>> report = clipper.clip_(network.named_parameters(), step=0)
        >>> norm = torch.cat([weight.grad.flatten() for weight in network.parameters()]).norm()
        >>> print(f"{norm:.2f}", bool(report.norm > 100))
        1.00 True
    """

    @checked
    def __init__(
        self, max_norm: Limit = 1.0, *, eps: NonNegative = 0.0, nonfinite: Literal["skip", "raise"] = "skip"
    ) -> None:
        """Take the limit.

        Args:
            max_norm: largest joint norm, in units of the gradient.
            eps: added to the norm before dividing: 0 as published, 1e-6 as ``torch.nn.utils.clip_grad_norm_``.
            nonfinite: ``skip`` or ``raise``, see ``UniformClipper``.
        """
        super().__init__(nonfinite=nonfinite)
        self.max_norm, self.eps = float(max_norm), float(eps)

    def _decide(self, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        return (self.max_norm / (norm + self.eps)).clamp(max=1.0), torch.full_like(norm, self.max_norm)

    def _settings(self) -> dict[str, Any]:
        return {"max_norm": self.max_norm, "eps": self.eps, "nonfinite": self.nonfinite}
