"""Parts from words: ``{name: zclip, alpha: 0.9}`` becomes an object, checked against its constructor's signature."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
import re
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import LARGEST, rules

if TYPE_CHECKING:  # pydantic takes a tenth of a second to import, and many ask this file for ``closest`` alone
    from pydantic import BaseModel, ValidationError


_MEANT = {
    "lr": "learning_rate optimizer.lr",
    "learning_rate": "lr optimizer.lr",
    "wd": "weight_decay",
    "beta": "betas optimizer.betas",
    "optim": "optimizer",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "warmup": "schedule.warmup",
    "warmup_steps": "warmup schedule.warmup",
    "clip": "clipper",
    "grad_clip": "clipper",
    "max_norm": "max_grad_norm clipper.max_norm",
    "max_grad_norm": "max_norm clipper.max_norm",
    "loss": "objective",
    "bs": "batch_size",
    "iterations": "steps",
    "max_steps": "steps",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "dataset": "data",
    "train_data": "data",
    "images": "data",
    "val_data": "evaluate.source",
    "validation": "evaluate.source",
    "eval": "evaluate.source",
    "fp16": "precision",
    "bf16": "precision",
    "amp": "precision",
    "dtype": "precision",
    "num_workers": "workers",
    "temperature": "logit_scale",
    "freeze": "trainable",
    "lora": "edits",
    "checkpoint": "model.load",
    "pretrained": "model.load",
    "random_seed": "seed",
}
"""What people type to the names that it may have here, the nearest meaning first."""
_LISTED = 50
"""Known names in a message, at most; keys of a data set may be millions."""


def meant(name: str, known: typing.Collection[str]) -> str:
    """The known name, or a key below one, that another name for it means; the empty string where there is none."""
    names = _MEANT.get(name.lower().replace("-", "_"), "").split()
    return next((found for found in names if found.partition(".")[0] in known), "")


def closest(name: str, known: typing.Iterable[str], *, listed: int = _LISTED) -> str:
    """``known: a, b, c``, ``listed`` of them at most, led by a suggestion when one is near, by meaning or letters."""
    names = sorted(known)

    def likeness(other: str) -> float:  # a wrong letter is likelier than one that is missing or too many
        return difflib.SequenceMatcher(None, name, other).ratio() + 0.1 * (len(other) == len(name))

    near = meant(name, names) or max(difflib.get_close_matches(name, names), key=likeness, default="")
    hint = f"did you mean {near!r}? " if near else ""
    more = f" and {len(names) - listed:,} more" if len(names) > listed else ""
    return f"{hint}known: {', '.join(names[:listed]) or 'none'}{more}"


def known_in(parts: Mapping[str, Any], name: str) -> str:
    """What to say of a name that a registry lacks: see ``closest``, and the registry's own hint."""
    hint = getattr(parts, "hint", lambda name: "")(name)
    return f"{closest(name, parts)}; {hint}" if hint else closest(name, parts)


def schema(part: type, *, given: typing.Collection[str] = ()) -> type[BaseModel]:
    """A pydantic model with one field for each keyword of ``part.__init__``; unknown keys are refused.

    Parameters whose annotation pydantic cannot check (modules, tensors, callables) are left out: code passes them,
    a configuration cannot. So are those ``given`` by code, and such members of a union.
    """
    return _schema(part, frozenset(given))


@functools.cache
def _schema(part: type, given: frozenset[str]) -> type[BaseModel]:
    from pydantic import ConfigDict, create_model

    hints = typing.get_type_hints(part.__init__)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(part.__init__).parameters.items():
        if name == "self" or name in given or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = _checkable(hints.get(name, Any))
        default = ... if parameter.default is parameter.empty else parameter.default
        if annotation is not None:
            fields[name] = (annotation, default)
    return create_model(part.__name__, __config__=ConfigDict(extra="forbid", strict=False), **fields)


def _checkable(annotation: Any) -> Any:
    """What of an annotation pydantic can check: all of it, the rest of a union, or None."""
    from pydantic import create_model

    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in map(_checkable, typing.get_args(annotation)) if member is not None]
        # None alone says only that code may leave the argument out.
        return functools.reduce(operator.or_, members) if set(members) - {type(None)} else None
    try:
        create_model("Probe", value=(annotation, ...))
    except Exception:  # pydantic raises several kinds for a type it has no schema for
        return None
    return annotation


def settings(
    spec: str | Mapping[str, Any],
    parts: Mapping[str, type],
    *,
    where: str,
    given: typing.Collection[str] = (),
    finite: bool = False,
) -> tuple[type, dict[str, Any]]:
    """The class that a spec names and its checked keyword arguments.

    Args:
        spec: a part's name, or a mapping with ``name`` and constructor keywords.
        parts: a package's registry, a mapping of names to classes.
        where: file and key, for the error message.
        given: keywords that code passes, which a configuration may not set.
        finite: refuse infinities; otherwise the part itself says which of its settings may be infinite.

    Raises:
        InputError: unknown name or key, a value of the wrong type or out of its range; it says where and lists what
            is known.
    """
    from pydantic import ValidationError

    values = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise InputError(f"{where}: expected a part's name or a mapping with 'name', got {quoted(spec)}")
    if name not in parts:
        raise InputError(f"{where}: unknown part {quoted(name)}; {known_in(parts, name)}")
    model, ranges = schema(parts[name], given=given), rules(parts[name].__init__)
    where = f"{where} ({name})"
    try:
        checked = model.model_validate(values)
    except ValidationError as error:
        refusals = {key: ranges[key].refusal(key, value) for key, value in values.items() if key in ranges}
        raise InputError(explain(error, where=where, known=model.model_fields, refusals=refusals)) from None
    keywords = {key: getattr(checked, key) for key in model.model_fields if key in values}
    for key, value in keywords.items():
        # pydantic makes a number of a bool
        if key in ranges and not ranges[key].accepts(values[key] if isinstance(values[key], bool) else value):
            raise InputError(f"{where}: {ranges[key].refusal(key, values[key])}")
        if found := _unsound(value, finite=finite):
            raise InputError(f"{where}: {key}: {found}")
    return parts[name], keywords


def _unsound(value: Any, *, finite: bool) -> str:
    """What is wrong with a value of the right type, or the empty string."""
    if isinstance(value, float) and (math.isnan(value) or (finite and math.isinf(value))):
        return f"expected a finite number, got {value!r}"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "expected an integer of at most 63 bits"
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple, set)) else ()
    return next((found for item in inner if (found := _unsound(item, finite=finite))), "")


def build(
    spec: str | Mapping[str, Any], parts: Mapping[str, type], *, where: str, finite: bool = False, **given: Any
) -> Any:
    """Make the part that ``spec`` names; ``given`` are arguments that only code can pass.

    Raises:
        InputError: as for ``settings``, or the part refuses a value.
    """
    part, keywords = settings(spec, parts, where=where, given=given, finite=finite)
    try:
        return part(**keywords, **given)
    except InputError:
        raise
    except (ValueError, OverflowError) as error:  # a library's own part
        raise InputError(f"{where} ({spec if isinstance(spec, str) else spec['name']}): {error}") from error


def explain(
    error: ValidationError,
    *,
    where: str,
    known: typing.Collection[str],
    refusals: Mapping[str, str] | None = None,
    given: Mapping[tuple[str, ...], str] | None = None,
) -> str:
    """One line for each problem in a pydantic error: the key, what is wrong, what came, what is known.

    Args:
        error: pydantic's.
        where: the values stand.
        known: keys.
        refusals: by key, the words of its range.
        given: by the path to a key, where it stands instead.
    """
    lines: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        while len(path) > 1 and _MEMBER.fullmatch(path[-1]):
            path.pop()
        key = ".".join(path)
        place = next((other for keys, other in (given or {}).items() if all(map(str.__eq__, keys, path))), where)
        if problem["type"] == "extra_forbidden":
            lines[f"{place}: unknown key {quoted(key)}; {closest(key, known)}", ""] = []
        elif problem["type"] == "missing":
            lines[f"{place}: key {key!r} is required", ""] = []
        elif refusal := (refusals or {}).get(path[0]):
            lines[f"{place}: {refusal}", ""] = []
        else:
            near = difflib.get_close_matches(key, {*known} - {key}, n=1, cutoff=0.8) if len(path) == 1 else []
            hint = f"; did you mean {near[0]!r}?" if near and len(problem["loc"]) > 1 else ""
            line = f"{place}: {key}: ", f", got {quoted(problem['input'])}{hint}"
            lines.setdefault(line, []).append(problem["msg"])
    return "\n".join(f"{before}{_either(said)}{after}" for (before, after), said in lines.items())


_MEMBER = re.compile(r"(str|int|float|bool|none)|(dict|list|tuple|literal|constrained|function)\W.*")
"""What pydantic puts behind a key whose value may be of several kinds: the kind that it was held against."""


def _either(said: typing.Sequence[str]) -> str:
    """What each kind of value asks for, in one sentence."""
    words = list(dict.fromkeys(said))
    return " or ".join([*words[:1], *(other.removeprefix("Input should be ") for other in words[1:])])
