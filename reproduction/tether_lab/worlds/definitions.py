"""Plain English for language models' test beds: the same text on every Python and every machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from tether.core.errors import InputError

FILE = "data/_info/imagenet_synset_to_definition.txt"
SHA256 = "191e227d48fc8c7b7e2d2a3cac41fc8b2eb517d9d2819d0edbc91c5767250eed"


@functools.cache
def definitions() -> tuple[str, ...]:
    """WordNet's 21,844 definitions of kinds of things, which timm ships, in an order that mixes their subjects.

    WordNet 3.0 is Princeton University's, under a licence of its own; the file is read where timm installed it.

    Raises:
        InputError: a timm whose file is another one.
    """
    spec = importlib.util.find_spec("timm")  # found, not imported: that takes seconds
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / FILE
    data = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{path}: SHA-256 {digest}; expected {SHA256}, as in timm 1.0.21 to 1.0.31: pip install 'timm<=1.0.31'"
        )
    rows = [line.split("\t", 1) for line in data.decode().splitlines()]
    # In the order of WordNet's ids alike things lie side by side: the last tenth would be of other subjects.
    rows.sort(key=lambda row: hashlib.blake2b(row[0].encode()).digest())
    return tuple(definition for _, definition in rows)
