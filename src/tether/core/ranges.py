"""Ranges that stand in signatures (``alpha: Annotated[float, Ge(0), Lt(1)]``), the same for Python and for recipes.

A rule is made of every parameter whose annotation holds a range or a ``Literal``, also inside unions, tuples, lists and
mappings. Numbers are finite unless a bound says otherwise (``Le(inf)``), NaN never passes, a bool is no number, and a
whole number has at most 63 bits, where a float is expected too. A list of strings is not given as one string. Other
annotations are not looked at.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen

from tether.core.errors import InputError
from tether.core.printable import quoted

Number = Annotated[float, Gt(-math.inf), Lt(math.inf)]
"""Any finite number."""

Positive = Annotated[float, Gt(0)]
Single = Annotated[float, Gt(-3e38), Lt(3e38)]
"""What float32 holds."""

PositiveSingle = Annotated[float, Gt(0), Lt(3e38)]
NonNegative = Annotated[float, Ge(0)]
Rate = Annotated[float, Ge(0), Lt(1e30)]
"""A learning rate: float32 holds it also times the factors of a schedule or a layer."""

PositiveRate = Annotated[float, Gt(0), Lt(1e30)]
Limit = Annotated[float, Gt(0), Le(math.inf)]
"""A number above 0; infinity sets no limit."""

Share = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
"""A weight of the past, or anything else that must stay below the whole."""

Part = Annotated[float, Gt(0), Le(1)]
"""A share that is not nothing."""

Inner = Annotated[float, Gt(0), Lt(1)]
"""A number strictly between 0 and 1."""

LARGEST = 2**63
"""No whole number of this size or beyond is taken: arrays cannot count so far, nor scale by it."""

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Layer = Annotated[int, Ge(-(2**15)), Le(2**15)]
"""The number of a block, from 0, or from the end if it is negative."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PLAIN = {float: "a finite number", int: "a whole number", str: "a string", bool: "true or false", type(None): "null"}


@dataclass(frozen=True, slots=True)
class RangeRule:
    """What one parameter takes.

    Attributes:
        annotation: it comes from.
        accepts: whether a value is in range.
        words: what is expected, for an error.
        shown: the annotation for a reference page, such as ``float in [0, 1)``.
    """

    annotation: Any
    accepts: Callable[[Any], bool]
    words: str
    shown: str

    def refusal(self, name: str, value: Any) -> str:
        """The error's text."""
        if _uncountable(value):
            return f"{name}: expected an integer of at most 63 bits, got {quoted(value)}"
        return f"{name}: expected {self.words}, got {quoted(value)}"


def checked(target: Decorated) -> Decorated:
    """Decorate a function, a method or a class (its ``__init__``): arguments out of range are an InputError."""
    if isinstance(target, type):
        target.__init__ = checked(target.__init__)
        return target
    table: Mapping[str, RangeRule] | None = None
    places: list[tuple[str, RangeRule | None]] = []

    @functools.wraps(target)
    def check_and_call(*args: Any, **keywords: Any) -> Any:
        nonlocal table
        if table is None:  # annotations are resolved at the first call: by then every module is there
            table = rules(target)
            places.extend((name, table.get(name)) for name in inspect.signature(target).parameters)
        for (name, rule), value in zip(places, args):  # noqa: B905 - what is not given has its default
            if rule is not None and not rule.accepts(value):
                raise InputError(rule.refusal(name, value))
        for name, value in keywords.items():
            rule = table.get(name)
            if rule is not None and not rule.accepts(value):
                raise InputError(rule.refusal(name, value))
        return target(*args, **keywords)

    check_and_call.checks_ranges = True  # pyrefly: ignore
    return typing.cast(Decorated, check_and_call)


def is_checked(function: Callable[..., Any]) -> bool:
    """Whether ``checked`` decorates a function."""
    return getattr(function, "checks_ranges", False)


@functools.cache
def rules(function: Callable[..., Any]) -> Mapping[str, RangeRule]:
    """The rule of each parameter that has one."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    return {
        name: _rule(hint)
        for name, hint in hints.items()
        if name in parameters and parameters[name].kind not in _VARIADIC and _constrains(hint)
    }


def check_values(function: Callable[..., Any], values: Mapping[str, Any], *, where: str = "") -> None:
    """Hold values to the ranges of a function's parameters of the same names.

    For settings that come by another way: an optimiser's groups, or a scikit-learn estimator's, which ``fit`` checks.

    Raises:
        InputError: the first that is out of range.
    """
    for name, rule in rules(function).items():
        if name in values and not rule.accepts(values[name]):
            raise InputError(rule.refusal(f"{where}: {name}" if where else name, values[name]))


def _constrains(hint: Any) -> bool:
    """Whether a range, a Literal or a list of strings stands somewhere in an annotation."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return True
    if origin is Annotated:
        return any(isinstance(each, (Gt, Ge, Lt, Le, MinLen, MaxLen)) for each in _bounds(inner[1:]))
    if origin in (Union, types.UnionType):
        return any(map(_constrains, inner))
    if origin is tuple or _is_list(origin):
        return any(map(_constrains, inner)) or (str in inner and (origin is not tuple or ... in inner))
    return _is_mapping(origin) and _constrains(inner[1])


def _is_list(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Collection) and not issubclass(origin, (tuple, Mapping))


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _bounds(metadata: Collection[Any]) -> list[Any]:
    return [each for item in metadata for each in (item if isinstance(item, GroupedMetadata) else (item,))]


def _rule(hint: Any) -> RangeRule:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (float, int):
        return _number(hint, hint, [])
    if origin is Annotated:
        bounds = _bounds(inner[1:])
        if inner[0] in (float, int):
            return _number(hint, inner[0], bounds)
        return _list(hint, inner[0], bounds)
    if origin is Literal:
        return _choice(hint, inner)
    if origin in (Union, types.UnionType):
        return _union(hint, [_rule(each) for each in inner])
    if origin is tuple and ... not in inner:
        return _fixed(hint, [_rule(each) for each in inner])
    if origin is tuple or _is_list(origin):
        return _list(hint, hint, [])
    if _is_mapping(origin):
        return _mapping(hint, _rule(inner[1]))
    if hint in (str, bool, type(None)):
        return RangeRule(
            hint, lambda value: isinstance(value, hint), _PLAIN[hint], "None" if hint is type(None) else hint.__name__
        )
    name = getattr(hint, "__name__", str(hint))
    plain = tuple(_PLAIN)
    words = (
        "a list"
        if isinstance(origin, type) and issubclass(origin, Iterable)
        else f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    )
    return RangeRule(hint, lambda value: not isinstance(value, plain), words, name)


def _uncountable(value: Any) -> bool:
    return type(value) is not float and isinstance(value, numbers.Integral) and abs(int(value)) >= LARGEST


def _number(hint: Any, kind: type, bounds: Collection[Any]) -> RangeRule:
    kinds = (int, numbers.Integral) if kind is int else (float, int, numbers.Real)
    low, high, left, right = -math.inf, math.inf, "(", ")"
    for bound in bounds:
        match bound:
            case Gt(low):
                left = "("
            case Ge(low):
                left = "["
            case Lt(high):
                right = ")"
            case Le(high):
                right = "]"
            case _:
                raise TypeError(f"{hint}: a number has no {bound}")
    above = operator.lt if left == "(" else operator.le
    below = operator.lt if right == ")" else operator.le

    def accepts(value: Any) -> bool:
        counts = isinstance(value, kinds) and not isinstance(value, bool) and not _uncountable(value)
        return counts and above(low, value) and below(value, high)

    name, noun, endless = kind.__name__, "a number", "a finite number"
    if kind is int:
        noun = endless = "a whole number"
    interval = f"in {left}{low:.10g}, {high:.10g}{right}"
    if (right, high) == ("]", math.inf):  # infinity is allowed, and above is all there is to say
        endless, right = noun, ")"
    match (left, low) != ("(", -math.inf), (right, high) != (")", math.inf):
        case False, False:
            return RangeRule(hint, accepts, endless, name)
        case True, False:
            bound = f"{'above' if left == '(' else 'of at least'} {low:.10g}"
            return RangeRule(hint, accepts, f"{endless} {bound}", f"{name} {'>' if left == '(' else '>='} {low:.10g}")
        case False, True:
            bound = f"{'below' if right == ')' else 'of at most'} {high:.10g}"
            return RangeRule(hint, accepts, f"{endless} {bound}", f"{name} {'<' if right == ')' else '<='} {high:.10g}")
    return RangeRule(hint, accepts, f"{noun} {interval}", f"{name} {interval}")


def _choice(hint: Any, choices: tuple[Any, ...]) -> RangeRule:
    kinds = {type(choice) for choice in choices} | (
        {float} if any(type(choice) is int for choice in choices) else set()
    )

    def accepts(value: Any) -> bool:
        return type(value) in kinds and value in choices

    *most, last = map(repr, choices)
    return RangeRule(
        hint, accepts, f"{', '.join(most)} or {last}" if most else last, f"Literal[{', '.join([*most, last])}]"
    )


def _union(hint: Any, members: list[RangeRule]) -> RangeRule:
    some = sorted(members, key=lambda rule: rule.annotation is type(None))
    *most, last = some
    words = f"{', '.join(rule.words for rule in most)}, or {last.words}" if most else last.words
    tests = [rule.accepts for rule in some]
    return RangeRule(
        hint, lambda value: any(test(value) for test in tests), words, " | ".join(rule.shown for rule in some)
    )


def _sized(value: Any) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__iter__") and not isinstance(value, (str, bytes, Mapping))


def _fixed(hint: Any, entries: list[RangeRule]) -> RangeRule:
    tests, count = [rule.accepts for rule in entries], len(entries)

    def accepts(value: Any) -> bool:
        return (
            _sized(value) and len(value) == count and all(test(each) for test, each in zip(tests, value, strict=True))
        )

    each = [rule.words for rule in entries]
    same = len(set(each)) == 1
    words = f"{count} values, each {each[0]}" if same else f"{count} values: {'; '.join(each)}"
    return RangeRule(hint, accepts, words, f"tuple[{', '.join(rule.shown for rule in entries)}]")


def _list(hint: Any, inner: Any, bounds: Collection[Any]) -> RangeRule:
    entry = _rule(get_args(inner)[0])
    looked_at = _constrains(entry.annotation)
    least = max((bound.min_length for bound in bounds if isinstance(bound, MinLen)), default=0)
    most = min((bound.max_length for bound in bounds if isinstance(bound, MaxLen)), default=math.inf)
    if len(bounds) != (least > 0) + (most < math.inf):
        raise TypeError(f"{hint}: a list has no other bounds than lengths, got {bounds}")

    def accepts(value: Any) -> bool:
        return _sized(value) and least <= len(value) <= most and (not looked_at or all(map(entry.accepts, value)))

    length = (
        f" of {least}"
        if least == most
        else f" of at least {least}" * (least > 0) + f" of at most {most}" * (most < math.inf)
    )
    return RangeRule(hint, accepts, f"a list{length}, each {entry.words}", f"list[{entry.shown}]{length}")


def _mapping(hint: Any, entry: RangeRule) -> RangeRule:
    def accepts(value: Any) -> bool:
        return isinstance(value, Mapping) and all(map(entry.accepts, value.values()))

    return RangeRule(hint, accepts, f"a mapping, each value {entry.words}", f"Mapping[str, {entry.shown}]")
