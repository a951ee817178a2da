"""YAML from outside: plain values only, and no small file that becomes a large value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tether.core.errors import InputError
from tether.core.files import read_text

MAX_BYTES = 2**20
MAX_VALUES = 100_000
"""Values in one file, counted with every alias written out."""


class _PlainLoader(yaml.SafeLoader):
    """Null, true and false, numbers, texts, lists and mappings; a date stays the text that it is."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """The values in a YAML file.

    Raises:
        InputError: as for ``core.files.read_text`` and ``parse_yaml``.
    """
    return parse_yaml(read_text(path, limit=MAX_BYTES), where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """YAML to plain values; a date stays text.

    Raises:
        InputError: malformed, another tag than plain values have, nested too deeply, an alias inside what it stands
            for, or more than ``MAX_VALUES`` values with every alias written out.
    """
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _count(node, {}) > MAX_VALUES:
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


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in a tree with every alias written out; each node is looked at once."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        children = (
            [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        )
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]
