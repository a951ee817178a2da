"""The segmenter of ``tether segment``: from a name with settings, a trained head or a sharpener."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tether.adaptation.heads import Head, head_for
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.tasks.classify.prompts import classes_of, templates_of
from tether.tasks.segment import SEGMENTERS, SHARPENERS, DenseSegmenter, Segmenter
from tether.workflows.methods import by_tower, named


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
    trained, use = None, None
    if sharpen is not None:
        trained, use = head_for("sharpen", sharpen, option="--sharpen")
    elif head is not None:
        trained, use = head_for("segment", head)
    if trained is not None:
        trained.check(model)
    if using is not None:
        given = named(using)
    elif use is not None:
        given = {"name": use.method}
    else:
        given = {"name": by_tower(model, transformer="values", other="tokens")}
    if "head" in given:
        raise InputError("--with: head: is given as --head FOLDER; leave it out")
    if twice := [name for name in extra if name in given]:
        raise InputError(f"{twice[0]}: is given twice, once in --with; leave one out")
    brought: Mapping[str, Any] = {}
    if trained is not None and use is not None:
        if given.get("name") != use.method:
            raise InputError(f"--head: {trained.where} is for --with {use.method}, got {given.get('name')}")
        given, brought = {**use.defaults, **given, **use.fixed}, use.brought
    parts = SEGMENTERS if sharpen is None else SHARPENERS
    made = build({**given, **extra}, parts, where="--with", finite=True, **brought)
    if isinstance(made, DenseSegmenter) and made.recipe and made.head is None:
        raise InputError(f"--with {given['name']}: needs --head FOLDER, from tether adapt --recipe {made.recipe}")
    return cast(Segmenter, made), str(given.get("name"))
