"""The segmenter of ``tether segment``: from a name with settings, a trained head or a sharpener."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tether.adapt.heads import GroupingHead, Head, MasksHead, RelationHead, SharpenerHead, load_head
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.models.mask_models import NamedMasks, PromptMasks, TrainedMasks
from tether.tasks.classify.prompts import classes_of, templates_of
from tether.tasks.segment import SEGMENTERS, Segmenter, SharpSegmenter
from tether.tasks.segment.mask_heads import MaskSegmenter
from tether.workflows.methods import by_tower, named

SHARP = "sharp"
"""Name of the method of ``sharpen``."""


def segmenter_of(
    using: str | Mapping[str, Any] | Segmenter | None,
    model: DualEncoder,
    *,
    head: str | Path | Head | None,
    sharpen: str | Path | Head | None,
    background: str | Sequence[str] | None,
    templates: str | Path | Sequence[str] | None,
) -> tuple[Segmenter, str]:
    """The segmenter, and what it is called; see ``tether.segment``.

    Raises:
        InputError: settings that do not fit, or a head of another method, kind or model.
    """
    extra: dict[str, Any] = {}
    if background is not None:
        extra["background"] = classes_of(background)
    if templates is not None:
        extra["templates"] = templates_of(templates)
    if isinstance(using, Segmenter):
        if own := [*(["head"] if head is not None else []), *extra]:
            raise InputError(f"{own[0]}: the segmenter that is given has its own; leave it out")
        return using, SEGMENTERS.name_of(type(using))
    trained = None if head is None else _trained(head, model)
    if sharpen is not None:
        trained = _sharpener(sharpen, model)
    if using is not None:
        given = named(using)
    elif trained is not None:
        given = {"name": trained.method}
    else:
        given = {"name": by_tower(model, transformer="values", other="tokens")}
    if "head" in given:
        raise InputError("--with: head: is given as --head FOLDER; leave it out")
    if twice := [name for name in extra if name in given]:
        raise InputError(f"{twice[0]}: is given twice, once in --with; leave one out")
    brought: Mapping[str, Any] = {}
    if trained is not None:
        if given.get("name") != trained.method:
            raise InputError(f"--head: {trained.where} is for --with {trained.method}, got {given.get('name')}")
        given, brought = {**trained.defaults, **given, **trained.fixed}, trained.brought
    parts = SEGMENTERS if sharpen is None else {SHARP: SharpSegmenter}
    made = build({**given, **extra}, parts, where="--with", finite=True, **brought)
    if isinstance(made, MaskSegmenter) and made.head is None:
        raise InputError(f"--with {given['name']}: needs --head FOLDER, from tether adapt --recipe {made.recipe}")
    return cast(Segmenter, made), str(given.get("name"))


@dataclass(frozen=True, slots=True)
class _Trained:
    """What ``--head`` or ``--sharpen`` brings.

    Attributes:
        where: it lies.
        method: that takes it.
        brought: the trained part, by the method's name for it.
        defaults: of its other settings.
        fixed: settings that the head decides.
    """

    where: str
    method: str
    brought: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _trained(given: str | Path | Head, model: DualEncoder) -> _Trained:
    found = load_head(given) if isinstance(given, (str, Path)) else given
    if isinstance(found, GroupingHead):
        made = _Trained(found.where, "dinoiser", {"head": found.inner}, {"gamma": found.gamma}, {"layer": found.layer})
    elif isinstance(found, RelationHead):
        made = _Trained(found.where, "excel", {"head": found.inner}, {"blocks": found.blocks})
    elif isinstance(found, MasksHead):
        method = {PromptMasks.kind: "mta", NamedMasks.kind: "maft"}[found.masks.kind]
        made = _Trained(found.where, method, {"head": TrainedMasks(found.masks, found.classes)})
    else:
        raise InputError(
            f"--head: {found.where}: expected one that tether adapt made by grouping, relation, mask-text or "
            f"mask-aware, got one of kind {found.kind}"
        )
    found.check(model)
    return made


def _sharpener(given: str | Path | Head, model: DualEncoder) -> _Trained:
    found = load_head(given) if isinstance(given, (str, Path)) else given
    if not isinstance(found, SharpenerHead):
        raise InputError(
            f"--sharpen: {found.where}: expected a head that tether adapt --recipe sharpen made, got one of kind "
            f"{found.kind}"
        )
    found.check(model)
    return _Trained(found.where, SHARP, {"sharpener": found.sharpener})
