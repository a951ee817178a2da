"""Values from outside against the shape that they must have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.core.printable import quoted

NUMBER = (int, float)
MAYBE_NUMBER = (int, float, None)
_LARGEST = 2**53
"""Integers beyond it are no counts, and no floating-point number holds them."""


def check(value: Any, shape: Any, *, where: str) -> None:
    """See that a value is made as a shape says.

    Args:
        value: plain values, such as JSON or YAML gives.
        shape: a type; a tuple of types, None among them where it may be missing; a list of one shape, for a list of
            such; or names to shapes, for a mapping that has at least these. A name that ends in ``?`` may be missing,
            the name ``*`` stands for all names.
        where: file and key, for the error.

    Raises:
        InputError: it names the key, what was expected and what came.
    """
    if isinstance(shape, dict):
        _expect(isinstance(value, dict), value, "a mapping", where)
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if key == "*":
                for other in value:
                    check(value[other], inner, where=f"{where}: {other}")
            elif name in value:
                check(value[name], inner, where=f"{where}: {name}")
            elif name == key:
                raise InputError(f"{where}: key {name!r} is missing")
    elif isinstance(shape, list):
        _expect(isinstance(value, (list, tuple)), value, "a list", where)
        for place, one in enumerate(value):
            check(one, shape[0], where=f"{where}: {place}")
    elif isinstance(shape, tuple) and isinstance(shape[-1], (dict, list)):
        if value is not None or None not in shape:
            check(value, shape[-1], where=where)
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        fits = (value is None and None in kinds) or type(value) in kinds or (type(value) is int and float in kinds)
        words = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
        _expect(fits and (type(value) is not int or abs(value) <= _LARGEST), value, words, where)


def read_record(path: Path, shape: dict[str, Any]) -> dict[str, Any] | None:
    """The values of a JSON file that have a shape, or None where there is no file; other keys are left out.

    Raises:
        InputError: a file that is malformed.
    """
    if not path.is_file():
        return None
    values = read_json(path)
    check(values, shape, where=str(path))
    names = (key.removesuffix("?") for key in shape)
    return {name: values[name] for name in names if name in values}


def finite(value: Any) -> Any:
    """The same values with None for numbers that are not finite or far beyond what a tensor holds."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    if type(value) is int and abs(value) > _LARGEST:
        return None
    if isinstance(value, float) and not (math.isfinite(value) and abs(value) < 1e100):
        return None
    return 0.0 if isinstance(value, float) and abs(value) < 1e-100 else value


def _expect(fits: bool, value: Any, words: str, where: str) -> None:
    if not fits:
        raise InputError(f"{where}: expected {words}, got {quoted(value)}")
