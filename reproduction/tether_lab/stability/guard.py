"""One thing that is tried against the faults: a clipper beside AdamW, or an optimiser alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.optim import Optimizer

from tether.core.protocols import GradClipper


@dataclass(frozen=True, slots=True)
class Guard:
    """A clipper beside AdamW, or an optimiser alone.

    Attributes:
        name: as the table calls it.
        part_name: of its class, in ``CLIPPERS`` or ``OPTIMIZERS``.
        part: the class; given rather than looked up, so that the code of a run does not import all the others.
        kind: which of the two.
        settings: keywords besides the defaults.
        rates: learning rates of an optimiser by model, where AdamW's does not suit it.
    """

    name: str
    part_name: str
    part: type
    kind: Literal["clipper", "optimizer"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    def clipper(self) -> GradClipper:
        """A new clipper; for an optimiser the one that only measures."""
        from tether.optim.clip import NoClip

        return self.part(**self.settings) if self.kind == "clipper" else NoClip()

    def optimizer(
        self, groups: list[dict[str, Any]], *, model: str, rate: float, betas: tuple[float, float]
    ) -> Optimizer:
        """A new optimiser.

        Args:
            groups: as ``parameter_groups`` makes them.
            model: name of the subject, for ``rates``.
            rate: AdamW's learning rate there.
            betas: AdamW's.
        """
        from tether.optim import AdamW

        if self.kind == "clipper":
            return AdamW(groups, lr=rate, betas=betas, eps=1e-8)
        keywords = {"lr": self.rates.get(model, rate), **self.settings}
        if "betas" in inspect.signature(self.part.__init__).parameters:
            keywords.setdefault("betas", betas)
        return self.part(groups, **keywords)

    def described(self) -> dict[str, Any]:
        """What it is, as a result holds it."""
        return {
            "kind": self.kind,
            "part": self.part_name,
            "settings": dict(self.settings),
            "rates": dict(self.rates),
        }
