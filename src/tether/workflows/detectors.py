"""The detector of ``tether detect``: from a name with settings, or what a trained head is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from tether.adapt.heads import AnomalyAdaptersHead, DefectTextsHead, Head, load_head
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.tasks.anomaly import DETECTORS, Detector
from tether.workflows.methods import by_tower, named

METHOD_OF_HEAD: Mapping[type[Head], tuple[str, str]] = {
    DefectTextsHead: ("anomalyclip", "anomaly-prompts"),
    AnomalyAdaptersHead: ("adaptclip", "anomaly-adapters"),
}
"""Which method takes a kind of head, as ``head=head.inner``, and which recipe trains it."""


def detector_of(
    using: str | Mapping[str, Any] | Detector | None, *, head: str | Path | Head | None, good: bool
) -> Callable[[DualEncoder], tuple[Detector, str]]:
    """What gives the detector for a model, and what it is called; see ``tether.detect``.

    All that can be told without a model is refused at once, since opening one takes long.

    Where nothing is named it is ``patches`` with good images: ``benchmarks/detect_table.py`` has what others do.

    Raises:
        InputError: settings that do not fit, or a head of another method or kind; with the model, a head of another.
    """
    if isinstance(using, Detector):
        if head is not None:
            raise InputError("head: the detector that is given has its own; leave it out")
        return lambda model: (using, DETECTORS.name_of(type(using)))
    given = None if using is None else named(using)
    if given is not None and "head" in given:
        raise InputError("--with: head: is given as --head FOLDER; leave it out")
    brought, found = dict[str, Any](), None
    if head is not None:
        found = load_head(head) if isinstance(head, (str, Path)) else head
        if type(found) not in METHOD_OF_HEAD:
            made = " or ".join(recipe for _, recipe in METHOD_OF_HEAD.values())
            raise InputError(
                f"--head: {found.where}: expected one that tether adapt made by {made}, got one of kind {found.kind}"
            )
        method = METHOD_OF_HEAD[type(found)][0]
        given = {"name": method} if given is None else given
        if given.get("name") != method:
            raise InputError(f"--head: {found.where} is for --with {method}, got {given.get('name')}")
        brought = {"head": cast(Any, found).inner}
    made = None if given is None else _build(given, brought)

    def of(model: DualEncoder) -> tuple[Detector, str]:
        if found is not None:
            found.check(model)
        if made is not None:
            return made
        name = "patches" if good else by_tower(model, transformer="winclip", other="patches")
        return _build({"name": name}, brought)

    return of


def _build(given: Mapping[str, Any], brought: Mapping[str, Any]) -> tuple[Detector, str]:
    return cast(Detector, build(given, DETECTORS, where="--with", finite=True, **brought)), str(given.get("name"))
