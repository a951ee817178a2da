"""Cheaper models: quantisation, pruning, repair."""

from __future__ import annotations

from collections.abc import Mapping

from tether.compress.prune import PRUNERS
from tether.compress.quantise import QUANTISERS, NormTweak
from tether.core.callable_module import make_callable
from tether.core.protocols import ModelEdit

make_callable(__name__, "tether.workflows.compress:compress")

COMPRESSORS: Mapping[str, type[ModelEdit]] = {**QUANTISERS, **PRUNERS}
"""Every edit that makes a model cheaper, by the name that ``tether compress --edit`` and recipes use."""

REPAIRS: Mapping[str, type[ModelEdit]] = {"norm_tweak": NormTweak}
"""What mends a model after such an edit and looks at data for it; for ``tether compress`` and Python."""

__all__ = ["COMPRESSORS", "REPAIRS"]
