"""YAML from outside: plain values only, and no small file that becomes a large value."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tether.core.atomic_io import read_text
from tether.core.errors import InputError

MAX_BYTES = 2**20
MAX_VALUES = 100_000
"""Values in one file, counted with every alias written out."""
MAX_DEPTH = 64
_DIGITS = 80  # 64 bits in binary, and then some
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class _PlainLoader(yaml.SafeLoader):
    """Null, true and false, numbers, texts, lists and mappings; a date stays the text that it is."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """The values in a YAML file.

    Raises:
        InputError: as for ``core.atomic_io.read_text`` and ``parse_yaml``.
    """
    return parse_yaml(read_text(path, limit=MAX_BYTES), where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """YAML to plain values; a date stays text.

    Raises:
        InputError: malformed, a key twice in one mapping, another tag than plain values have, nested too deeply, an
            alias inside what it stands for, an integer of thousands of digits, text with a NUL or half a character, or
            more than ``MAX_VALUES`` values with every alias written out.
    """
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            count, depth = _size(node, {})
            if depth > MAX_DEPTH:
                raise RecursionError
            if count > MAX_VALUES:
                raise InputError(f"{where}: more than {MAX_VALUES:,} values with every alias written out")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{where}: not readable YAML: nested too deeply, or an alias inside itself") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # `!!int x` is a ValueError
        raise InputError(f"{where}: not valid YAML: {error}") from None


def _size(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values in a tree with every alias written out, and its depth; each node is looked at once."""
    if id(node) not in known:
        _check(node)
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes = [_size(child, known) for child in children]
        known[id(node)] = 1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    return known[id(node)]


def _check(node: yaml.Node) -> None:
    """Refuse what is no plain value, or no text or number that another file could hold."""
    line = node.start_mark.line + 1
    if node.tag not in _TAGS:
        raise ValueError(f"line {line}: unknown tag {node.tag!r}")
    if isinstance(node, yaml.MappingNode):
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for (_, name), count in keys.most_common(1):
            if count > 1:
                raise ValueError(f"line {line}: {name!r:.80} comes twice in one mapping")
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # half a character is a ValueError
        if "\0" in node.value:
            raise ValueError(f"line {line}: text with a NUL")
        if node.tag.endswith(":int") and len(node.value) > _DIGITS:
            raise ValueError(f"line {line}: an integer of {len(node.value):,} digits")
