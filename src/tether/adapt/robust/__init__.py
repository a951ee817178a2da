"""Models that keep their judgement when their input is disturbed."""

from __future__ import annotations

from tether.adapt.robust.typos import LeafLoss, LeafStep, LeafTrainer, text_fare_loss

__all__ = ["LeafLoss", "LeafStep", "LeafTrainer", "text_fare_loss"]
