"""AGC: each unit's gradient may be as long as a fixed fraction of the unit's weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.norms import GradientNorms, named_pair
from tether.core.protocols import NamedParams
from tether.core.ranges import Positive, checked
from tether.core.types import ClipReport
from tether.methods.nfnet_agc.unit_norms import UnitNorms, UnitRule, scale_units_, unit_norms
from tether.optim.clip.base import Clipper, check_patterns, matches, plain_names

SMALLEST_DIVISOR = 1e-6
"""The gradient's norm is never taken for less than this when it is divided by (released ``optim.py``)."""


@dataclass(frozen=True, slots=True)
class AGCReport:
    """What adaptive gradient clipping did to each tensor in one step; nothing here forces a device sync.

    Attributes:
        names: of the n tensors that had a gradient, without what wrappers such as DDP add.
        clipped_fraction: (n,) share of each tensor's units that were clipped, in [0, 1]; 0 where it is excluded.
        scale: (n,) smallest factor of each tensor's units, 1 where none was clipped.
        norm: 0-d global L2 norm of the raw gradients.
        skip: 0-d bool, True when a gradient was not finite: all are zeroed and the step must not be taken.
    """

    names: tuple[str, ...]
    clipped_fraction: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    norm: Float[Tensor, ""]
    skip: Bool[Tensor, ""]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Pairs of name and clipped fraction; reading them waits for the device once."""
        return zip(self.names, self.clipped_fraction.tolist(), strict=True)


@final
class AGC(Clipper):
    """Scales a unit's gradient ``g`` by ``clipping * max(|w|, eps) / |g|`` when it is longer than that numerator.

    A unit is a row of a linear weight, a filter of a convolution, or a whole vector; ``w`` is its weight. Each norm is
    of the raw tensors, before momentum and weight decay. There is no state, no warm-up and no statistic.

    What to know of it: a unit whose weight starts at zero has a gradient of at most ``clipping * eps`` until it has
    grown, so under plain descent it starts slowly. A logit scale is a unit of one number, and its gradient is held to
    ``clipping`` times its own (logarithmic) value. Tied weights have one gradient and one norm and are clipped once. A
    tower that is unfrozen late is judged by the weights it has then.

    The report's ``norm`` is the global norm, its ``scale`` the smallest factor of any unit and its ``threshold``
    infinite, for no limit on the global norm is in force. ``last`` tells what happened to each tensor.

    Source: arXiv 2102.06171, section 4.1, and its released ``nfnets/optim.py``. Of our own: gradients that are not
    finite are skipped (the release keeps a NaN), and tensors of more than four axes have units (the release stops).

    Attributes:
        last: what the last step did to each tensor; it names none before the first step.

    Example:
        >>> import torch
        >>> from tether.methods.nfnet_agc import AGC
        >>> layer, clipper = torch.nn.Linear(4, 2), AGC(0.01)
        >>> layer(torch.ones(8, 4)).sum().backward()
        >>> report = clipper.clip_(layer.named_parameters(), step=0)
        >>> ratio = layer.weight.grad.norm(dim=1) / layer.weight.norm(dim=1)
        >>> [round(unit, 3) for unit in ratio.tolist()], dict(clipper.last)["weight"]
        ([0.01, 0.01], 1.0)
    """

    @checked
    def __init__(
        self,
        clipping: Positive = 0.01,
        *,
        eps: Positive = 1e-3,
        exclude: Sequence[str] = (),
        rule: UnitRule = "nfnet",
        nonfinite: Literal["skip", "raise"] = "skip",
    ) -> None:
        """Take the settings; the defaults are the paper's for batches of 4,096, smaller batches bear more.

        Args:
            clipping: largest ratio of a unit's gradient to its weight.
            eps: a weight's norm is never taken for less than this.
            exclude: shell patterns of parameter names that are left alone, such as ``*head.weight``. The paper leaves
                out the weight (not the bias) of the final classifier and nothing else.
            rule: whose units, see ``unit_axes``; they differ for three axes and for single rows.
            nonfinite: ``skip`` or ``raise``, see ``Clipper``.
        """
        super().__init__(nonfinite=nonfinite)
        self.clipping, self.eps, self.exclude = float(clipping), float(eps), tuple(exclude)
        self.rule: UnitRule = rule
        self._checked = False
        self.last = _nothing(torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def clip_(self, named_params: NamedParams, *, step: int) -> ClipReport:
        """Bound the ``.grad`` of every unit of every parameter given; see ``Clipper.clip_``.

        Raises:
            InputError: as ``Clipper.clip_`` says, or a pattern of ``exclude`` that fits no parameter of the first step.
        """
        del step  # nothing changes from step to step
        pairs = [named_pair(item) for item in named_params]
        names = plain_names([name for name, _ in pairs])
        if pairs and not self._checked:
            check_patterns(self.exclude, names=names, where="exclude")
            self._checked = True
        named = zip(names, (parameter for _, parameter in pairs), strict=True)
        norms = unit_norms(named, rule=self.rule, leave_out=lambda name: matches(name, self.exclude))
        norm = norms.whole.total
        if not norms.whole.names:
            self.last = _nothing(norm)
            return self._untouched(norm)
        finite = self._finite(norms.whole)
        limit = norms.weight.clamp(min=self.eps).mul_(self.clipping)
        over = norms.gradient > limit
        factor = torch.where(over, limit / norms.gradient.clamp(min=SMALLEST_DIVISOR), 1.0)
        scale_units_(norms, factor=factor, skip=~finite)
        self.last = self._describe(norms, over & finite, factor, ~finite)
        scale = self.last.scale.amin()
        return ClipReport(norm, scale, torch.full_like(norm, torch.inf), ~finite)

    @staticmethod
    def _describe(norms: UnitNorms, over: Tensor, factor: Tensor, skip: Tensor) -> AGCReport:
        whole: GradientNorms = norms.whole
        least = norms.least(factor)
        return AGCReport(
            whole.names,
            norms.fraction(over),
            torch.where(skip, torch.zeros_like(least), least),
            whole.total,
            skip,
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "clipping": self.clipping,
            "eps": self.eps,
            "exclude": list(self.exclude),
            "rule": self.rule,
            "nonfinite": self.nonfinite,
        }


def adaptive_clip_grad_(
    named_params: NamedParams,
    *,
    clipping: float = 0.01,
    eps: float = 1e-3,
    exclude: Sequence[str] = (),
    rule: UnitRule = "nfnet",
) -> AGCReport:
    """Clip every unit's gradient once, and tell what happened to each tensor; see ``AGC``.

    Args:
        named_params: pairs as ``module.named_parameters()`` gives them.
        clipping: largest ratio of a unit's gradient to its weight.
        eps: a weight's norm is never taken for less than this.
        exclude: shell patterns of parameter names that are left alone.
        rule: whose units.

    Raises:
        InputError: a value outside its range, or parameters that cannot be clipped. Without any gradient the report
            names no tensor.

    Source: arXiv 2102.06171, section 4.1.
    """
    clipper = AGC(clipping, eps=eps, exclude=exclude, rule=rule)
    clipper.clip_(named_params, step=0)
    return clipper.last


def _nothing(norm: Tensor) -> AGCReport:
    """The report of a step without any gradient."""
    return AGCReport((), norm.new_zeros(0), norm.new_ones(0), norm, torch.zeros_like(norm, dtype=torch.bool))
