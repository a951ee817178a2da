from .registry import WEIGHT_EDITS as WEIGHT_EDITS
