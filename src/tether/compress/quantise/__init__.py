"""Quantisation as edits of a model: any encoder of ``tether.load``, and any module with linear layers."""

from __future__ import annotations

from collections.abc import Mapping

from tether.compress.quantise.fake_quant import FourBits
from tether.compress.quantise.few_bits import Octav, RoundedRows
from tether.compress.quantise.grids import int4_codes, quantise_fp4, quantise_int4, quantise_int4_input
from tether.compress.quantise.layers import FakeQuantAttention, FakeQuantLinear
from tether.compress.quantise.levels import FakeQuant, round_to_levels
from tether.compress.quantise.norm_repair import NormTweak, own_texts
from tether.compress.quantise.norm_tweak import NormTweaker, TweakedLayer, distribution_loss
from tether.compress.quantise.octav import octav_clip
from tether.core.protocols import ModelEdit

QUANTISERS: Mapping[str, type[ModelEdit]] = {"fake_quant": FourBits, "octav": Octav}
"""Every quantiser by the name a recipe uses."""

__all__ = [
    "QUANTISERS",
    "FakeQuant",
    "FakeQuantAttention",
    "FakeQuantLinear",
    "FourBits",
    "NormTweak",
    "NormTweaker",
    "Octav",
    "RoundedRows",
    "TweakedLayer",
    "distribution_loss",
    "int4_codes",
    "octav_clip",
    "own_texts",
    "quantise_fp4",
    "quantise_int4",
    "quantise_int4_input",
    "round_to_levels",
]
