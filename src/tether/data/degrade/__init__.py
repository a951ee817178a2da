"""Images made worse in known steps, to learn and to measure by."""

from tether.data.degrade.degrade import DEGRADATIONS, LADDERS, LEVELS, Degradation, degrade

__all__ = ["DEGRADATIONS", "LADDERS", "LEVELS", "Degradation", "degrade"]
