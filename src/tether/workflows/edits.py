"""What a recipe's ``edits`` may name."""

from __future__ import annotations

from tether.adapt.edits import WEIGHT_EDITS
from tether.adapt.finetune import ADAPTERS
from tether.compress import COMPRESSORS
from tether.core.protocols import ModelEdit
from tether.core.registry import Registry

EDITS: Registry[ModelEdit] = Registry("edits", {}, including=(COMPRESSORS, ADAPTERS, WEIGHT_EDITS))
"""Every edit by the name a recipe uses."""
