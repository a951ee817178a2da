"""The detector of ``tether detect``: from a name with settings, or what a trained head is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from tether.adaptation.heads import Head, head_for
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.tasks.anomaly import DETECTORS, Detector
from tether.workflows.methods import by_tower, named


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
        found, use = head_for("detect", head)
        given = {"name": use.method} if given is None else given
        if given.get("name") != use.method:
            raise InputError(f"--head: {found.where} is for --with {use.method}, got {given.get('name')}")
        brought = dict(use.brought)
    made = None if given is None else _build(given, brought)

    def of(model: DualEncoder) -> tuple[Detector, str]:
        if found is not None:
            found.check(model)
        if made is not None:
            return made
        bare = "winclip" if "winclip" in DETECTORS else "patches"  # a method, which may be taken out
        name = "patches" if good else by_tower(model, transformer=bare, other="patches")
        return _build({"name": name}, brought)

    return of


def _build(given: Mapping[str, Any], brought: Mapping[str, Any]) -> tuple[Detector, str]:
    return cast(Detector, build(given, DETECTORS, where="--with", finite=True, **brought)), str(given.get("name"))
