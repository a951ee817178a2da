"""Sources that a run's record names: read on this machine, and not fetched from elsewhere unless the user asks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data.manifests import is_manifest, read_shards
from tether.data.opening import open_source, plain
from tether.data.paths import is_url

_PIECES = re.compile(r"[:=,\[\]]")
_ELSEWHERE = re.compile(r"://|\bhf\b:|^hf$|=hf\b|\bremote_images\s*=")


def open_recorded(spec: str | Mapping[str, Any], *, where: str, instead: str = "name the source yourself") -> Source:
    """The source that a run's record names, which may be anyone's.

    Args:
        spec: specification of the source, as ``open_source`` takes it.
        where: name of the file and key, for errors.
        instead: what to type where the source lies elsewhere and the user trusts it.

    Raises:
        InputError: a URL, a data set of a hub, remote images, a manifest that lists URLs; or what ``open_source`` says.
    """
    for keys, value in leaves(spec):
        if far := elsewhere(keys, value):
            raise InputError(f"{where}: leads to {far!r:.200}, which is not read unasked; if you trust it: {instead}")
    return open_source(spec, where=where)


def elsewhere(keys: tuple[str, ...], value: object) -> str | None:
    """What one setting of a source would reach outside of this machine, or None.

    Args:
        keys: keys that lead to the setting; the last is its own.
        value: the setting.
    """
    if keys[-1:] == ("remote_images",) and value:
        return "remote_images"
    if not isinstance(value, str):
        return None
    if _ELSEWHERE.search(value):
        return value
    # ``csv:path=m.json`` names the manifest, too, and so does ``m.json/``.
    for path in {plain(piece.strip()) for piece in (value, *_PIECES.split(value)) if piece.strip()}:
        if is_manifest(path) and local(path).is_file():
            with contextlib.suppress(InputError):  # a text that lists no shards leads nowhere
                for shard in read_shards(path):
                    if is_url(shard.path):
                        return shard.path
    return None


def leaves(values: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """All values in settings that are no mapping or list, each with the keys to it."""
    if isinstance(values, Mapping):
        pairs: Iterable[tuple[object, object]] = values.items()
    elif isinstance(values, (list, tuple)):
        pairs = enumerate(values)
    else:
        yield keys, values
        return
    for key, value in pairs:
        yield from leaves(value, (*keys, str(key)))
