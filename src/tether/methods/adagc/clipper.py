"""AdaGC: each tensor's gradient is held to a small multiple of its own past norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.norms import GradientNorms, named_pair
from tether.core.protocols import NamedParams
from tether.core.ranges import Decay, Limit, NonNegative, Positive, Whole, checked
from tether.core.types import ClipReport
from tether.optim.clip.base import TensorClipper, check_patterns, matches, plain_names

WHOLE = ""
"""Key of the one statistic of ``scope="global"``; no parameter has an empty name."""


@final
class AdaGC(TensorClipper):
    """Clips each tensor to ``clip_ratio`` times an exponential mean of its own clipped norms.

    For ``warmup_steps`` steps a plain global limit acts, and a tensor's ``gamma`` is the smallest clipped norm it had.
    Then a norm ``n > clip_ratio * gamma`` is scaled by ``clip_ratio * gamma / (n + eps)`` and counts as
    ``clip_ratio * gamma``; ``gamma`` becomes ``beta * gamma + (1 - beta) * n``. A spike in one tensor leaves all
    others as they are. A tensor met for the first time after the warm-up starts with its own norm, unclipped.

    Source: arXiv 2502.11034, algorithm 1, and the released code (commit 32c249f), followed where they differ. Of our
    own: gamma by parameter name, saved and resumed; ``ignore_zero``; ``exclude``; the non-finite rule.

    Example:
        >>> import torch
        >>> from tether.methods.adagc import AdaGC
        >>> layer, clipper = torch.nn.Linear(4, 2), AdaGC(warmup_steps=5)
        >>> for step in range(7):
        ...     layer.zero_grad()
        ...     (layer(torch.ones(8, 4)).mean() * (1000 if step == 6 else 0.1)).backward()  # the last batch is bad
        ...     report = clipper.clip_(layer.named_parameters(), step=step)
        >>> print(f"norm {report.norm:.0f}, the weight's clipped to {layer.weight.grad.norm():.3f}")
        norm 1581, the weight's clipped to 0.147
    """

    records: ClassVar[Literal["nothing", "raw", "clipped"]] = "clipped"

    @checked
    def __init__(
        self,
        *,
        clip_ratio: NonNegative = 1.04,
        beta: Decay = 0.99,
        warmup_steps: Whole = 100,
        max_norm: Limit = 1.0,
        eps: Positive = 1e-6,
        scope: Literal["tensor", "global"] = "tensor",
        ignore_zero: bool = True,
        exclude: Sequence[str] = (),
        nonfinite: Literal["skip", "raise"] = "skip",
    ) -> None:
        """Take the settings; the defaults are the released code's, but for ``ignore_zero``.

        Args:
            clip_ratio: largest norm in units of gamma; below 1 gamma dies away.
            beta: weight of the past in gamma.
            warmup_steps: steps under the global limit.
            max_norm: that limit.
            eps: added to a norm before dividing.
            scope: one gamma for each ``tensor``, or one for the ``global`` norm (the released ``GlobalAdaGC``).
            ignore_zero: a norm of exactly zero does not enter gamma. As released (False) one zero in the warm-up makes
                the limit zero and freezes that tensor for good.
            exclude: shell patterns of parameter names, e.g. ``*logit_scale``, which only the warm-up's limit touches.
            nonfinite: ``skip`` or ``raise``, see ``Clipper``.

        Raises:
            InputError: ``exclude`` with ``scope="global"``.
        """
        super().__init__(nonfinite=nonfinite)
        if exclude and scope == "global":
            raise InputError(f"exclude: expected none with scope 'global', got {exclude!r}")
        self.clip_ratio, self.beta, self.warmup_steps = float(clip_ratio), float(beta), warmup_steps
        self.max_norm, self.eps, self.scope = float(max_norm), float(eps), scope
        self.ignore_zero, self.exclude = ignore_zero, list(exclude)
        self._keys: dict[str, int] = {}
        self._gamma = torch.zeros(0, dtype=torch.float64)
        self._steps = torch.tensor(0)
        self._loaded, self._checked = False, not exclude
        self._met: tuple[str, ...] = ()
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._free = torch.zeros(0, dtype=torch.bool)

    @property
    def gamma(self) -> dict[str, float]:
        """Each tensor's statistic by name (``""`` is the global one), without those that have none yet."""
        values = self._gamma.tolist()
        return {name: values[row] for name, row in self._keys.items() if not math.isnan(values[row])}

    def reset_gamma(self, patterns: Sequence[str] = ("*",)) -> None:
        """Forget the statistics of all parameters, or of those whose names match one of the patterns.

        Use it when the batch size changes or layers are unfrozen; the warm-up is not repeated. A tensor that was
        forgotten starts anew with its next norm.
        """
        rows = [row for name, row in self._keys.items() if matches(name, patterns)]
        if self._keys and not rows:
            raise InputError(f"reset_gamma: {list(patterns)} match none of {_some(self._keys)}")
        self._gamma = self._gamma.clone()
        self._gamma[rows] = math.nan

    def clip_(self, named_params: NamedParams, *, step: int) -> ClipReport:
        """Bound the ``.grad`` of every parameter given; see ``Clipper.clip_``.

        Raises:
            InputError: as ``Clipper.clip_`` says; two parameters of one name; a pattern of ``exclude`` that fits none
                of the parameters first given; or the state that was loaded knows none of them.
        """
        named = [named_pair(item) for item in named_params]
        if named and not self._checked:
            check_patterns(self.exclude, names=plain_names([name for name, _ in named]), where="exclude")
            self._checked = True
        return super().clip_(named, step=step)

    def _decide(self, norms: GradientNorms, finite: Tensor) -> tuple[Tensor, Tensor]:
        total = norms.total
        each = norms.each if self.scope == "tensor" else total.view(1)
        self._meet(norms.names, each)
        old = self._gamma[self._rows]
        new = old.isnan()
        warming = self._steps < self.warmup_steps

        shared = (self.max_norm / (total + self.eps)).clamp(max=1.0)
        softened = each * shared if self.scope == "tensor" else each.clamp(max=self.max_norm)
        lowest = torch.where(new, softened, torch.minimum(old, softened))

        start = torch.where(new, each, old)
        limit = self.clip_ratio * start
        # Excluded tensors have no limit; nor has one whose statistic a zero would start, if zeros do not count.
        free = self._free | (new & (each == 0)) if self.ignore_zero else self._free
        over = (each > limit) & ~free
        entered = torch.where(over, limit, each)
        mean = self.beta * start + (1 - self.beta) * entered

        update = finite & ((each > 0) | (not self.ignore_zero))
        kept = torch.where(update, torch.where(warming, lowest, mean), old)
        self._gamma = self._gamma.index_copy(0, self._rows, kept)
        self._steps = self._steps + finite

        factors = torch.where(warming, shared, torch.where(over, limit / (each + self.eps), 1.0))
        joint = torch.where(free, math.inf, limit).square().sum().sqrt()
        return factors.expand(len(norms.names)), torch.where(warming, self.max_norm, joint)

    def _meet(self, names: tuple[str, ...], each: Tensor) -> None:
        """Find each tensor's row; names never met get a new one, without a statistic."""
        if self._gamma.device != each.device or self._gamma.dtype != each.dtype:
            self._gamma, self._steps = self._gamma.to(each), self._steps.to(each.device)
            self._met = ()
        if names == self._met:
            return
        keys = plain_names(names) if self.scope == "tensor" else (WHOLE,)
        if len(set(keys)) != len(keys):
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise InputError(f"two parameters are called {twice!r}: AdaGC knows them by their names")
        if self._loaded and self._keys and not any(key in self._keys for key in keys):
            raise InputError(
                f"AdaGC state: it is of other parameters: it knows {_some(self._keys)}, and here are {_some(keys)}"
            )
        late = [key for key in keys if key not in self._keys]
        self._keys |= {key: len(self._keys) + place for place, key in enumerate(late)}
        self._gamma = torch.cat([self._gamma, self._gamma.new_full((len(late),), math.nan)])
        self._rows = torch.tensor([self._keys[key] for key in keys], device=each.device)
        self._free = torch.tensor([matches(key, self.exclude) for key in keys], device=each.device)
        self._met, self._loaded = names, False

    def state_dict(self) -> dict[str, Any]:
        """Names, their gamma (NaN where there is none yet), the steps counted and the settings."""
        return {**super().state_dict(), "names": list(self._keys), "gamma": self._gamma.clone(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the statistics of an AdaGC with the same settings.

        Parameters it does not know start anew; ``clip_`` refuses it when it knows none of them.
        """
        super().load_state_dict(state)
        names, gamma = list(state["names"]), torch.as_tensor(state["gamma"])
        if gamma.shape != (len(names),) or len(set(names)) != len(names):
            raise InputError(f"AdaGC state: {len(names)} names and a gamma of shape {tuple(gamma.shape)}")
        self._keys = {name: row for row, name in enumerate(names)}
        self._gamma = gamma.to(self._gamma, copy=True)
        self._steps = torch.as_tensor(state["steps"]).to(self._steps, copy=True)
        self._loaded, self._met = True, ()

    def _settings(self) -> dict[str, Any]:
        names = "clip_ratio beta warmup_steps max_norm eps scope ignore_zero exclude nonfinite"
        return {name: getattr(self, name) for name in names.split()}


def _some(names: Mapping[str, int] | Sequence[str]) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
