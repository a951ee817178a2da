"""A model's description from outside: plain values checked here before anything is built, and named when wrong."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.errors import InputError, TetherError

MAX_LAYERS, MAX_SIZE, MAX_SIDE = 256, 2**24, 8_192
"""Most layers of a tower, largest width, vocabulary or context, and longest side of an image that a model may have."""
_MOST = {"image_size": MAX_SIDE, "inner_group_num": 16, "num_hidden_groups": 16, "num_stages": MAX_LAYERS}
"""Bounds by key; the two of ALBERT multiply. Keys with ``layers`` or ``depths`` count what is built one by one."""
SHOWN = 5
MAX_BYTES = 2**30
"""What a configuration may ask for beyond its file of weights: all of it where there is none."""


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Every error of the block becomes an InputError that names the file: another library raises of many kinds."""
    try:
        yield
    except InputError as error:
        if str(error).startswith((str(path), f"{path.parent}{os.sep}")):
            raise
        raise InputError(f"{path}: {error}") from error
    except TetherError:
        raise
    except Exception as error:
        raise InputError(f"{path}: no model can be built from it: {type(error).__name__}: {error}") from error


def other_architecture(problems: Sequence[str], *, where: Path | str) -> InputError:
    """The error for weights that do not fit; it names the first problems."""
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return InputError(f"{where}: weights of another architecture: {'; '.join(problems[:SHOWN])}{more}")


def mapping(values: Any, *, where: str) -> Mapping[str, Any]:
    """The values, if they are a mapping."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping, got {values!r:.100}")
    return values


def of_kind(value: Any, *kinds: type, where: str) -> Any:
    """The value, if its type is among those given: a whole number is also a float, a bool is no number."""
    if type(value) not in kinds and not (float in kinds and type(value) is int):
        raise InputError(f"{where}: expected {kinds[0].__name__}, got {value!r:.100}")
    return value


def size_of(value: Any, *, where: str, most: int = MAX_SIZE) -> int:
    """The value, if it is a whole number from 1 to ``most``."""
    if not 1 <= of_kind(value, int, where=where) <= most:
        raise InputError(f"{where}: expected 1 to {most:,}, got {value:,}")
    return value


def check_values(values: Any, *, key: str = "") -> None:
    """Refuse what no model has, at any depth of a library's configuration."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            check_values(value, key=f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        if len(values) > MAX_LAYERS:
            raise InputError(f"{key}: expected at most {MAX_LAYERS} values, got {len(values):,}")
        for value in values:
            check_values(value, key=key)
        if _counts_layers(key.rpartition(".")[2]) and sum(one for one in values if type(one) is int) > MAX_LAYERS:
            raise InputError(f"{key}: expected at most {MAX_LAYERS} together, got {values!r:.100}")
    elif isinstance(values, float) and not math.isfinite(values):
        raise InputError(f"{key}: expected a finite number, got {values}")
    elif isinstance(values, int):
        last = key.rpartition(".")[2]
        most = MAX_LAYERS if _counts_layers(last) else _MOST.get(last, MAX_SIZE)
        if abs(values) > most:
            raise InputError(f"{key}: expected at most {most:,}, got {values}")


def _counts_layers(key: str) -> bool:
    return "layers" in key or key == "depths"


def alike(values: Any, like: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """What a library's configuration of any age says of the plain values in ``like``; all else is left out.

    Args:
        values: read from a file.
        like: the library's own defaults, whose kinds decide what is accepted.
        key: where ``values`` stand, for the error message.
    """
    mapping(values, where=key)
    kept: dict[str, Any] = {}
    for name, default in like.items():
        value = values.get(name)
        if value is None or isinstance(default, Mapping) or name.startswith("_") or name in _NEVER:
            continue
        kinds = (int, float, str) if default is None else (type(default),)
        kept[name] = of_kind(value, *kinds, where=f"{key}.{name}")
    check_values(kept, key=key)
    return kept


def without_records(values: Any) -> Any:
    """A library's configuration without what says nothing of the outputs, at any depth."""
    if not isinstance(values, Mapping):
        return values
    return {
        name: without_records(value)
        for name, value in values.items()
        if not name.startswith("_") and name not in _NEVER
    }


_NEVER = (
    "add_cross_attention", "architectures", "attn_implementation", "auto_map", "chunk_size_feed_forward", "dtype",
    "is_decoder", "output_attentions", "output_hidden_states", "quantization_config", "return_dict", "torch_dtype",
    "torchscript", "transformers_version",
)  # fmt: skip
"""What a configuration must not decide: code, some of it on the hub, the type of the weights, and what comes out."""
