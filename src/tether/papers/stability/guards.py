"""What is tried against the faults: every clipper with AdamW, and every optimiser without a clipper."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from tether.core.fingerprint import code_of
from tether.core.protocols import GradClipper

NONE, USUAL = "none", "global_norm"
"""The two that every other one is compared with: no guard at all, and one limit of 1 on the joint norm."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "adagc": {"warmup_steps": 20},
    "spam": {"warmup_steps": 20},
    "clip_radagrad_d": {"mode": "coordinate"},
}
"""What a part is given besides its defaults: warm-ups of 100 and 150 steps are too long for a run of 120, and networks
are trained with AdaGrad by coordinate."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "zclip_uncapped": ("zclip", {"max_grad_norm": None}),
}
"""Further clippers, each a name, the part it is and its settings: ZClip as released also has a constant limit of 1."""

RATES: Mapping[str, Mapping[str, float]] = {
    "sgd": {"language": 0.03, "clip": 0.001},
    "clip_radagrad_d": {"language": 0.3, "clip": 0.03},
    "clip_adagrad": {"language": 0.01, "clip": 0.003},
    "clip_adagrad_d": {"language": 0.01, "clip": 0.003},
}
"""Learning rates of the optimisers that AdamW's does not suit, the best of a grid (benchmarks/stability_rates.py); for
SPAM, Stable-SPAM and the clipped Adams the best of the grid was AdamW's."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A clipper beside AdamW, or an optimiser alone.

    Attributes:
        name: as the table calls it.
        part_name: in ``CLIPPERS`` or ``OPTIMIZERS``.
        kind: which of the two.
        settings: keywords besides the defaults.
    """

    name: str
    part_name: str
    kind: Literal["clipper", "optimizer"]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> type:
        """Its class."""
        from tether.optim import OPTIMIZERS
        from tether.optim.clip import CLIPPERS

        return (CLIPPERS if self.kind == "clipper" else OPTIMIZERS)[self.part_name]

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
            model: name of the subject, for ``RATES``.
            rate: AdamW's learning rate there.
            betas: AdamW's.
        """
        from tether.optim import AdamW

        if self.kind == "clipper":
            return AdamW(groups, lr=rate, betas=betas, eps=1e-8)
        keywords = {"lr": RATES.get(self.name, {}).get(model, rate), **self.settings}
        if "betas" in inspect.signature(self.part.__init__).parameters:
            keywords.setdefault("betas", betas)
        return self.part(groups, **keywords)

    def fingerprint(self) -> str:
        """Changes with the settings, the rates and the code of its class and base classes, not with their comments."""
        files = {inspect.getsourcefile(part) for part in self.part.__mro__ if part.__module__.startswith("tether.")}
        facts = [self.part_name, self.kind, sorted(self.settings.items()), sorted(RATES.get(self.name, {}).items())]
        return digest([repr(facts), *(code_of(Path(file)) for file in sorted(filter(None, files)))])


def guards() -> Mapping[str, Guard]:
    """Every guard by name, clippers first; AdamW alone is the row ``none`` and does not stand twice."""
    from tether.optim import OPTIMIZERS
    from tether.optim.clip import CLIPPERS

    first = {name: CLIPPERS[name] for name in (NONE, USUAL)} | dict(CLIPPERS)
    found = {name: Guard(name, name, "clipper", SETTINGS.get(name, {})) for name in first}
    found |= {name: Guard(name, part, "clipper", settings) for name, (part, settings) in VARIANTS.items()}
    for name in OPTIMIZERS:
        if name != "adamw":
            found[name] = Guard(name, name, "optimizer", SETTINGS.get(name, {}))
    return found


def digest(facts: list[str]) -> str:
    """Twelve hexadecimal digits for some texts and the version of torch."""
    return hashlib.blake2b("\x00".join([torch.__version__, *facts]).encode(), digest_size=6).hexdigest()
