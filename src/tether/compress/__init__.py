"""Cheaper models: quantisation, pruning, repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.compress.quantise import QUANTISERS
from tether.core.protocols import ModelEdit

COMPRESSORS: Mapping[str, type[ModelEdit]] = {**QUANTISERS}
"""Every edit that makes a model cheaper, by the name that ``tether compress --edit`` and recipes use."""

REPAIRS: Mapping[str, type[Any]] = {}
"""What mends a model after such an edit and looks at data for it; for ``tether compress`` and Python."""
