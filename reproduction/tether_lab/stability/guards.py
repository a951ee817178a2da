"""What is tried against the faults: every clipper with AdamW, and every optimiser without a clipper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether_lab.stability.guard import Guard

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
    "lamb": {"language": 0.01, "clip": 0.003},
}
"""Learning rates of the optimisers that AdamW's does not suit, the best of a grid (benchmarks/stability_rates.py); for
SPAM, Stable-SPAM and the clipped Adams the best of the grid was AdamW's."""


def guards() -> Mapping[str, Guard]:
    """Every guard by name, clippers first; AdamW alone is the row ``none`` and does not stand twice."""
    from tether.optim import OPTIMIZERS
    from tether.optim.clip import CLIPPERS

    first = {name: CLIPPERS[name] for name in (NONE, USUAL)} | dict(CLIPPERS)
    found = {name: Guard(name, name, part, "clipper", SETTINGS.get(name, {})) for name, part in first.items()}
    for name, (part, settings) in VARIANTS.items():
        found[name] = Guard(name, part, CLIPPERS[part], "clipper", settings)
    for name, part in OPTIMIZERS.items():
        if name != "adamw":
            found[name] = Guard(name, name, part, "optimizer", SETTINGS.get(name, {}), RATES.get(name, {}))
    return found
