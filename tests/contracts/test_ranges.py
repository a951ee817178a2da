"""Every parameter with a range or a choice, of every function that is ``checked``, refuses what lies outside."""

from __future__ import annotations

import importlib
import inspect
import math
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen
from sklearn.base import BaseEstimator

from tether.core.component import schema, settings
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import is_checked, rules
from tether_lab.lab import source_index
from tether_lab.lab.part_reference import registries

UNIONS = (Union, types.UnionType)


def bad_numbers(kind: type, bounds: list[Any]) -> Iterator[Any]:
    yield from ("a word", None, True, math.nan, [1], 10**400)
    if kind is int:
        yield from (1.5, 2**63)
    for sign, closed, open_ in ((-1, Ge, Gt), (1, Le, Lt)):
        edges = [getattr(each, each.__class__.__name__.lower()) for each in bounds if isinstance(each, (closed, open_))]
        is_open = any(isinstance(each, open_) for each in bounds)
        if kind is float and math.inf not in map(abs, edges if not is_open else ()):
            yield sign * math.inf
        for edge in edges:
            if abs(edge) < math.inf:
                yield edge + sign
                if is_open:
                    yield edge
                elif kind is float:
                    yield math.nextafter(edge, sign * math.inf)


def bad(hint: Any) -> Iterator[Any]:
    """Values that an annotation excludes, read from it anew and not from the rules that are tested."""
    origin, inner = get_origin(hint), get_args(hint)
    metadata = [
        each
        for item in (inner[1:] if origin is Annotated else ())
        for each in (item if isinstance(item, GroupedMetadata) else [item])
    ]
    base = inner[0] if origin is Annotated else hint
    if base in (int, float):
        yield from bad_numbers(base, metadata)
    elif origin is Literal:
        yield from ("no such word", None, 12345, ["a list"])
    elif origin in UNIONS:
        ranged, kinds = (
            [each for each in inner if get_origin(each)],
            tuple(each for each in inner if not get_origin(each)),
        )
        kinds += tuple(get_args(each)[0] for each in ranged[1:] if get_args(each)[0] in (int, float))
        words = [choice for each in ranged if get_origin(each) is Literal for choice in get_args(each)]
        alone = set(inner) <= {*ranged[:1], types.NoneType}  # else a list may be what another member takes
        for value in bad(ranged[0]):
            taken = isinstance(value, (*kinds, int) if float in kinds else kinds) or value in words
            if not taken and (alone or not isinstance(value, list)):
                yield value
    elif origin is tuple and ... not in inner:
        yield from (3, "word", None, list(range(len(inner) + 1)))
        yield from ([value] * len(inner) for value in bad(inner[0]) if value is not True)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from (3, "word", None)
        yield from ({"key": value} for value in bad(inner[1]) if value is not True)
    else:
        yield from ("word", 3, None)
        listed = get_args(base)[0]
        yield from ([value] for value in (bad(listed) if listed is not str else ()) if value is not True)
        for each in metadata:
            match each:
                case MinLen(length):
                    yield []
                case MaxLen(length):
                    yield [1] * (length + 1)


def checked_functions() -> Iterator[tuple[str, Any]]:
    """Every function, method and constructor that ``checked`` decorates, by its dotted name."""
    for path in sorted(source_index.PACKAGE.rglob("*.py")):
        if "@checked" in path.read_text():
            module = importlib.import_module(source_index.dotted(path))
            owners = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
            methods = [each for owner in owners if isinstance(owner, type) for each in vars(owner).values()]
            for member in owners + methods:
                function = getattr(member, "__func__", member)
                if is_checked(function):
                    yield f"{module.__name__.removeprefix('tether.')}.{function.__qualname__}", function


PARTS = {part: name for registry in registries() for name, part in registry.parts().items()}
FUNCTIONS = dict(checked_functions())
CASES = [pytest.param(FUNCTIONS[name], key, id=f"{name}-{key}") for name in FUNCTIONS for key in rules(FUNCTIONS[name])]
READ = [
    pytest.param(part, key, id=f"{name}-{key}")
    for part, name in PARTS.items()
    for key in sorted(rules(part.__init__).keys() & schema(part).model_fields.keys())
]
FITTED = [part for part in PARTS if issubclass(part, BaseEstimator)]
"""Estimators, whose settings ``fit`` checks and not the constructor, as scikit-learn has it."""


def test_most_of_the_ranges_are_covered() -> None:
    assert len(CASES) >= 200
    assert len(READ) >= 100
    for case in CASES:
        function, parameter = case.values
        assert list(bad(rules(function)[parameter].annotation)), case.id


def test_a_whole_number_of_more_bits_than_arrays_count_is_no_float() -> None:
    for function, parameter in (case.values for case in CASES):
        rule = rules(function)[parameter]
        if get_origin(rule.annotation) is Annotated and get_args(rule.annotation)[0] is float:
            assert not rule.accepts(2**63)  # of a recipe it becomes a float before


def test_a_decorated_function_has_ranges() -> None:
    assert not [name for name, function in FUNCTIONS.items() if not rules(function)]


@pytest.mark.parametrize("part", PARTS)
def test_a_constructor_with_ranges_is_checked(part: type) -> None:
    decorated = is_checked(part.__init__) or part in FITTED
    assert decorated or not rules(part.__init__), f"decorate {part.__name__}.__init__ with checked"


@pytest.mark.parametrize(("function", "parameter"), CASES)
def test_python_refuses_what_is_out_of_range_and_no_default_is(function: Any, parameter: str) -> None:
    rule, default = rules(function)[parameter], inspect.signature(function).parameters[parameter].default
    assert default is inspect.Parameter.empty or rule.accepts(default)
    if get_origin(rule.annotation) is Annotated and get_args(rule.annotation)[0] in (int, float):
        for bound in rule.annotation.__metadata__:
            assert not isinstance(bound, Ge) or rule.accepts(bound.ge)
            assert not isinstance(bound, Le) or rule.accepts(bound.le)
    for value in bad(rule.annotation):
        with pytest.raises(InputError, match=f"^{parameter}: expected ") as said:
            function(**{parameter: value})
        assert str(said.value).endswith(f", got {quoted(value)}")


@pytest.mark.parametrize(("part", "parameter"), READ)
def test_a_recipe_refuses_it_in_the_same_words(part: type, parameter: str) -> None:
    name, rule = PARTS[part], rules(part.__init__)[parameter]
    others = [key for key, field in schema(part).model_fields.items() if field.is_required() and key != parameter]
    for value in bad(rule.annotation):
        with pytest.raises(InputError) as read:
            settings({"name": name, parameter: value}, {name: part}, where="run.yaml: part", given=others)
        assert str(read.value) == f"run.yaml: part ({name}): {rule.refusal(parameter, value)}"


@pytest.mark.parametrize("part", FITTED)
def test_an_estimator_refuses_it_in_fit(part: type) -> None:
    for parameter, rule in rules(part.__init__).items():
        for value in bad(rule.annotation):
            with pytest.raises(InputError) as said:
                part(**{parameter: value}).fit(np.zeros((4, 3)), np.zeros(4))  # pyrefly: ignore
            assert str(said.value) == rule.refusal(parameter, value)
