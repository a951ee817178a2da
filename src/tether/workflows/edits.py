"""What a recipe's ``edits`` may name."""

from __future__ import annotations

from tether.adaptation.edits import WEIGHT_EDITS
from tether.adaptation.finetune import ADAPTERS
from tether.compression import COMPRESSORS
from tether.core.protocols import ModelEdit
from tether.core.registry import Registry

EDITS: Registry[ModelEdit] = Registry("edits", {}, including=(COMPRESSORS, ADAPTERS, WEIGHT_EDITS))
"""Every edit by the name a recipe uses."""
