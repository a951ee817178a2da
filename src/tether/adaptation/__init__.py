"""How a trained model is adapted to a case: recipes, fine-tuning, averages, mending what it learnt wrongly."""

from __future__ import annotations

from tether.core.callable_module import make_callable

make_callable(__name__, "tether.workflows.adapt:adapt")
