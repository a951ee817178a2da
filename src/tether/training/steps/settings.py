"""Views and terms of a step, from their settings."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tether.core.component import build, closest
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import Objective
from tether.models.encoders.tower_parts import SIDES
from tether.training.steps.views import VIEWS, View
from tether.training.terms import TERMS, ObjectiveTerm, Term
from tether.training.terms.objective import ROLES

OWN = "objective"
"""Name of the term that is the run's objective."""
Spec = str | dict[str, Any]
_OF_PATCHES = ("keep_patches", "patches", "attended", "full_last")


def build_view(name: str, given: Mapping[str, Mapping[str, Any]], *, steps: int, seed: int) -> View:
    """A view; with ``of: other`` it copies the settings of ``other`` and its seed, so that both see the same crop.

    Args:
        name: name of the view.
        given: settings of all views by name.
        steps: length of the run in steps.
        seed: seed of all random draws.

    Raises:
        InputError: settings that make no view; it names the view.
    """
    where, settings, drawn = f"step: views: {name}", dict(given[name]), name
    if "of" in settings:
        drawn = settings.pop("of")
        if not isinstance(drawn, str) or drawn not in given or "of" in given[drawn]:
            known = [other for other in given if "of" not in given[other]]
            raise InputError(f"{where}: of: unknown view {quoted(drawn)}; {closest(str(drawn)[:80], known)}")
        if others := settings.keys() - {"encoder", "want"}:
            raise InputError(
                f"{where}: of: {', '.join(sorted(others))}: only encoder and want can be other than its own"
            )
        kept = {key: value for key, value in given[drawn].items() if key not in _OF_PATCHES}
        settings = {"source": drawn, **kept, **settings}
    source = settings.get("source", name)
    first = source[0] if isinstance(source, Sequence) and not isinstance(source, str) and source else source
    side = next((side for side in SIDES if str(first).endswith(side)), None)
    if side is None:
        raise InputError(f"{where}: expected a source that ends in 'image' or 'text', got {source!r}")
    return build({"name": side, "source": source, **settings}, VIEWS, where=where, steps=steps, seed=seed, view=drawn)


def build_terms(specs: Sequence[Spec], objective: Objective, *, steps: int, seed: int) -> dict[str, tuple[Term, float]]:
    """Terms and their weights, by their names in the log; a name that was there before gets a number.

    Args:
        specs: names or settings of the terms, in order.
        objective: the run's objective, which the term ``objective`` stands for.
        steps: length of the run in steps.
        seed: seed of all random draws.

    Raises:
        InputError: no terms, or settings that make none; it names the place.
    """
    if not specs:
        raise InputError("step: terms: expected at least one")
    seen: Counter[str] = Counter()
    found: dict[str, tuple[Term, float]] = {}
    for place, spec in enumerate(specs):
        label, term, weight = _term(spec, objective, where=f"step: terms, entry {place}", steps=steps, seed=seed)
        seen[label] += 1
        found[label if seen[label] == 1 else f"{label}_{seen[label]}"] = term, weight
    return found


def _term(spec: Spec, objective: Objective, *, where: str, steps: int, seed: int) -> tuple[str, Term, float]:
    """Its name in the log, the term, and its weight."""
    from tether.losses import OBJECTIVES

    values: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name, weight, known = values.get("name"), values.pop("weight", 1.0), {OWN, *OBJECTIVES, *TERMS}
    if type(weight) not in (int, float) or not 0 <= weight < float("inf"):
        raise InputError(f"{where}: weight: expected a finite number of at least 0, got {weight!r}")
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{where}: unknown term {quoted(name)}; {closest(str(name)[:80], known)}")
    label = str(values.pop("as", name))
    if name in TERMS:
        taken = inspect.signature(TERMS[name].__init__).parameters
        chance: dict[str, Any] = {key: own for key, own in {"steps": steps, "seed": seed}.items() if key in taken}
        return label, build(values, TERMS, where=where, **chance), weight
    roles = {key: values.pop(key) for key in ROLES if key in values}
    if name != OWN:
        objective = build(values, OBJECTIVES, where=where)
    elif others := set(values) - {"name"}:
        raise InputError(f"{where}: {', '.join(others)}: the run's objective has its settings under `objective`")
    term = build({"name": OWN, **roles}, {OWN: ObjectiveTerm}, where=where, objective=objective, steps=steps, seed=seed)
    return label, cast(Term, term), weight
