"""From a word, a path or a mapping to a source of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import has_magic
from pathlib import Path, PurePath
from typing import Any

from tether.core.atomic_io import local
from tether.core.component import build, closest
from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.registry import Registry

_DEFAULT = "--data"

_BY_ENDING = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
}


SOURCES: Registry[Source] = Registry(
    "sources",
    {
        "csv": "tether.data.sources.csv:CsvSource",
        "decided": "tether.data.sources.decided:DecidedSource",
        "digits": "tether.data.sets.digits:DigitsSet",
        "emoji": "tether.data.sets.emoji:EmojiSet",
        "hf": "tether.data.sources.hf:HuggingFaceSource",
        "images": "tether.data.sources.images:ImageFolderSource",
        "lettering": "tether.data.sets.lettering:LetteringSet",
        "mixture": "tether.data.sources.mixture:MixtureSource",
        "parquet": "tether.data.sources.parquet:ParquetSource",
        "people": "tether.data.sets.people:PeopleSet",
        "scenes": "tether.data.sets.scenes.set:ScenesSet",
        "solids": "tether.data.sets.solids:SolidsSet",
        "split": "tether.data.sources.split:SplitSource",
        "text_pairs": "tether.data.sources.text_pairs:TextPairsSource",
        "textile": "tether.data.sets.textile:TextileSet",
        "webdataset": "tether.data.sources.webdataset:WebDatasetSource",
    },
)
"""Every kind of source by name."""


def open_source(spec: str | Path | Mapping[str, Any] | Source | Sequence[Any], *, where: str = _DEFAULT) -> Source:
    """Make the source that a specification names.

    Args:
        spec: a set by name (``emoji``), with settings (``emoji:split=test,size=64,languages=[en,de]``); a folder, a
            ``.parquet``, ``.csv``, ``.tsv`` or ``.tar`` file, a pattern of such files, a manifest that lists them, a
            URL; ``hf:owner/name`` with settings after another colon (``hf:owner/name:split=train``); a mapping with
            ``name`` and keywords; a list of images, see ``data.sources.listed``; or a source, which is given back.
        where: what errors call the specification.

    Raises:
        InputError: nothing of that name, an unknown setting, or no such file; of an option it says which.
    """
    try:
        return _opened(spec, where=where)
    except InputError as error:
        if not where.startswith("--") or where == _DEFAULT or str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from error


def _opened(spec: str | Path | Mapping[str, Any] | Source | Sequence[Any], *, where: str) -> Source:
    if isinstance(spec, Mapping):
        path = spec.get("path")
        return build({**spec, "path": plain(path)} if isinstance(path, str) else spec, SOURCES, where=where)
    if isinstance(spec, Path):
        return build({"name": kind_of(str(spec), where=where), "path": str(spec)}, SOURCES, where=where)
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, (list, tuple)):
        from tether.data.sources.listed import ListedSource

        return ListedSource(spec, where=where)
    if not isinstance(spec, str) or not spec.strip():
        raise InputError(
            f"{where}: expected a data set's name, a path, a list of images or a mapping, got {spec!r:.200}"
        )
    name, _, rest = spec.partition(":")
    if name == "hf":
        path, _, settings = rest.partition(":")
        return build({"name": "hf", "path": path, **keywords(settings, where=where)}, SOURCES, where=where)
    if name in SOURCES and not rest.startswith("//"):
        return build({"name": name, **keywords(rest, where=where)}, SOURCES, where=where)
    return build({"name": kind_of(spec, where=where), "path": plain(spec)}, SOURCES, where=where)


def _kind_listed(path: str, *, where: str) -> str:
    """Which kind of source reads the shards of a manifest."""
    from tether.data.manifests import read_shards
    from tether.data.paths import open_binary

    open_binary(path).close()  # what cannot be reached is no matter of what a manifest is
    try:
        shards = read_shards(path)
        for ending, kind in _BY_ENDING.items():
            if shards[0].path.lower().endswith(ending):
                return kind
        reason = f"the first name ends in none of {', '.join(_BY_ENDING)}: {shards[0].path!r:.100}"
    except InputError as error:
        reason = str(error)
    raise InputError(
        f"{where}: {path!r}: expected a manifest of shards: {reason}. If images lie beside it, as with captions.txt, "
        f"name the folder: {path.rpartition('/')[0] or '.'}"
    )


def keywords(text: str, *, where: str) -> dict[str, Any]:
    """``a=1,b=[x,y]`` as a mapping of words; a list stands in brackets."""
    found: dict[str, Any] = {}
    depth, start, parts = 0, 0, []
    for at, letter in enumerate(text + ","):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    if depth:
        raise InputError(f"{where}: brackets do not match in {text!r}")
    for part in filter(None, (part.strip() for part in parts)):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise InputError(f"{where}: expected key=value, got {part!r}")
        if value.startswith("[") and value.endswith("]"):
            found[key] = [item.strip() for item in value[1:-1].split(",") if item.strip()]
        else:
            found[key] = value
    return found


def plain(path: str) -> str:
    """A local path in one spelling, so that ``photos``, ``photos/`` and ``./photos`` are one source; a URL as it is."""
    return path if "://" in path else str(PurePath(path))


def kind_of(path: str, *, where: str) -> str:
    """Which kind of source reads a path, by its ending or by being a folder."""
    from tether.data.manifests import is_manifest
    from tether.data.paths import is_folder, is_url

    plain = path.rstrip("/").lower()
    for ending, kind in _BY_ENDING.items():
        if plain.endswith((ending, ending + "}")):
            return kind
    if is_manifest(plain) and (is_url(path) or local(path).is_file()):
        return _kind_listed(path, where=where)
    folder = is_folder(path)
    if folder is not None:
        return folder
    if local(path).is_file() and plain.endswith(".jsonl"):
        raise InputError(f"{where}: {path!r}: a table of text pairs is text_pairs:path={path}")
    if local(path).is_file():
        raise InputError(
            f"{where}: {path!r}: expected a folder, or a file ending in {', '.join(_BY_ENDING)}; if it goes with "
            f"images beside it, as captions.txt does, name the folder: {local(path).parent}"
        )
    if "/" in path and not has_magic(path) and "://" not in path:
        raise InputError(f"{where}: {path!r}: no such file or folder")
    raise InputError(
        f"{where}: {path!r}: no such file or folder, and no data set ({closest(path.partition(':')[0], SOURCES)}); "
        f"files end in {', '.join(_BY_ENDING)}; a Hugging Face hub id is written hf:owner/name"
    )
