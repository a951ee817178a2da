"""A useless copy for the public and a small secret that makes it whole (NNSplitter)."""

from __future__ import annotations

from tether.compress.protect.attack import fine_tune_attack, random_change
from tether.compress.protect.controller import FilterController
from tether.compress.protect.descent import accuracy, read_batch
from tether.compress.protect.obfuscator import Obfuscation, Obfuscator
from tether.compress.protect.secret import Secret
from tether.compress.protect.weights import layer_weights, near_masks

__all__ = [
    "FilterController",
    "Obfuscation",
    "Obfuscator",
    "Secret",
    "accuracy",
    "fine_tune_attack",
    "layer_weights",
    "near_masks",
    "random_change",
    "read_batch",
]
