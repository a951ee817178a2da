"""Parts of a model that are left out."""

from __future__ import annotations

from collections.abc import Mapping

from tether.compress.prune.gate_norm import GateNorm, gate_norm, gate_norm_scores, prune_attention
from tether.core.protocols import ModelEdit

PRUNERS: Mapping[str, type[ModelEdit]] = {"gate_norm": GateNorm}
"""Every way to leave parts out by the name a recipe uses."""

__all__ = ["PRUNERS", "GateNorm", "gate_norm", "gate_norm_scores", "prune_attention"]
