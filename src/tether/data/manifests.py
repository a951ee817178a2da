"""Manifests: a file that lists shards, with their rows and sizes where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from tether.core.atomic_io import MAX_CONFIG_BYTES, local, parse_json
from tether.core.errors import InputError, reason_of
from tether.core.printable import encodable
from tether.data.paths import MOST_SHARDS, files, filesystem, is_url, points_outside, read_text

ENDINGS = (".json", ".txt")
"""Of manifests: JSON, or lines of text."""
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "oss")
"""Protocols that a manifest may name wherever it lies: the user's credentials count, and it cannot choose the host."""
_NAMES = ("file", "url", "path")


@dataclass(frozen=True, slots=True)
class ListedShard:
    """One file that a manifest lists.

    Attributes:
        path: local, or a URL.
        rows: that it holds, or None where the manifest does not say.
        size: its bytes, or None.
    """

    path: str
    rows: int | None = None
    size: int | None = None


def is_manifest(path: str) -> bool:
    """Whether a path names a manifest, by its ending."""
    return path.lower().endswith(ENDINGS)


def read_shards(path: str) -> list[ListedShard]:
    """The shards of a manifest, in its order.

    JSON is a list, or a mapping with a list ``shards``; each is a name, or a mapping with ``file`` (or ``url``,
    ``path``) and, where they are known, ``rows`` and ``bytes``. So ``manifest.json`` of ``tether curate`` is one. Text
    has a name a line; empty lines and those after ``#`` are passed over. A name is relative to the manifest's folder,
    absolute below it, or a URL: on the manifest's own host or in its own bucket, or of an object store.

    Raises:
        InputError: no such file, no list of shards, a name that leads elsewhere, twice the same; it says which entry.
    """
    text = read_text(path, limit=MAX_CONFIG_BYTES)
    listed = _of_json(text, path) if path.lower().endswith(".json") else _of_lines(text)
    if not listed:
        raise InputError(f"{path}: the manifest lists no shards")
    if len(listed) > MOST_SHARDS:
        raise InputError(f"{path}: lists more than {MOST_SHARDS:,} shards")
    found: dict[str, ListedShard] = {}
    for where, entry in listed:
        place = _placed(entry.path, manifest=path, where=where)
        if place in found:
            raise InputError(f"{path}: {where}: {entry.path!r:.200} comes twice")
        found[place] = ListedShard(place, entry.rows, entry.size)
    return list(found.values())


def shard_files(path: str, *, ending: tuple[str, ...]) -> tuple[list[str], Mapping[str, ListedShard]]:
    """The files that a path names (see ``paths.files``) or a manifest lists, and what the manifest says of each.

    Raises:
        InputError: see both, or a shard of another kind or one that is not there.
    """
    if not is_manifest(path):
        return files(path, ending=ending), {}
    shards = {shard.path: shard for shard in read_shards(path)}
    for name in shards:
        if not name.lower().endswith(ending):
            raise InputError(f"{path}: it lists {name!r:.200}; expected names that end in {' or '.join(ending)}")
        try:
            if not is_url(name):
                local(name).stat()
        except OSError as error:
            said = f"{path}: it lists {name!r:.200}: {reason_of(error)}; names are relative to its folder"
            raise InputError(said) from error
    return list(shards), shards


def sizes_of(shards: Mapping[str, ListedShard]) -> dict[str, int]:
    """The bytes that a manifest says, by path."""
    return {name: shard.size for name, shard in shards.items() if shard.size is not None}


def _of_json(text: str, path: str) -> list[tuple[str, ListedShard]]:
    said = parse_json(text, where=path)
    listed = said.get("shards") if isinstance(said, dict) else said
    if not isinstance(listed, list):
        raise InputError(f"{path}: expected a list of shards, or a mapping with a list 'shards'")
    found = []
    for number, entry in enumerate(listed[: MOST_SHARDS + 1]):
        where = f"shard {number}"
        if isinstance(entry, str):
            found.append((where, ListedShard(entry)))
            continue
        name = next((entry[key] for key in _NAMES if key in entry), None) if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise InputError(f"{path}: {where}: expected a name, or a mapping with 'file', got {entry!r:.100}")
        counts = [_count(entry, key, path=path, where=where) for key in ("rows", "bytes")]
        found.append((where, ListedShard(name, *counts)))
    return found


def _count(entry: Mapping[str, object], key: str, *, path: str, where: str) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{path}: {where}: {key}: expected a whole number, got {value!r:.100}")
    return value


def _of_lines(text: str) -> list[tuple[str, ListedShard]]:
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)
    named = ((number, line) for number, line in lines if line and not line.startswith("#"))
    return [(f"line {number}", ListedShard(line)) for number, line in islice(named, MOST_SHARDS + 1)]


def _placed(name: str, *, manifest: str, where: str) -> str:
    """Where a shard lies, if the manifest may name it."""
    folder = manifest.rpartition("/")[0]
    refusal = InputError(
        f"{encodable(manifest)}: {where}: {name!r:.200} leads out of the manifest's folder, or to another host; it may "
        f"name files below its own folder and URLs of {', '.join(OBJECT_STORES[:4])} and the like"
    )
    if "::" in name or "\0" in name or not name.strip():
        raise refusal
    if is_url(name):
        try:
            here, there = urlsplit(manifest), urlsplit(name)
        except ValueError:  # brackets that hold no address
            raise refusal from None
        own = is_url(manifest) and (here.scheme, here.netloc) == (there.scheme, there.netloc)
        if there.scheme in OBJECT_STORES or (own and there.scheme not in ("file", "local")):
            return name
        below = is_url(manifest) and name.startswith(f"{folder}/") and not points_outside(name[len(folder) + 1 :])
        if below and _stays(name, folder):
            return name
        raise refusal
    if is_url(manifest):
        if points_outside(name) or not _stays(f"{folder}/{name}", folder):
            raise refusal
        return f"{folder}/{name}"
    found = (local(folder or ".") / local(name)) if not name.startswith("~") else local(name)
    if not _stays(str(found), folder or "."):
        raise refusal
    return str(found)


def _stays(path: str, folder: str) -> bool:
    """Whether a file of this machine lies below a folder when links are followed; of what lies elsewhere it is true."""
    if is_url(path):
        if urlsplit(path).scheme not in ("file", "local"):
            return True
        path, folder = (filesystem(each)[1] for each in (path, folder))
    try:
        return local(path).resolve().is_relative_to(local(folder).resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        return False
