"""Images of a source to vectors in an object store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.protocols import DualEncoder, Source
from tether.tasks.retrieve.embed import EmbeddedFile, check_origin, embed, origin_of
from tether.tasks.retrieve.object_store import Staging, StorePlace, manifest_of
from tether.tasks.retrieve.shards import NAMES, Origin


def embed_to_url(source: Source, *, model: DualEncoder, model_name: str, out: str, **settings: Any) -> EmbeddedFile:
    """As ``embed``, with ``out`` in an object store that fsspec opens.

    A URL that ends in ``.parquet`` becomes one object, which appears when all rows are there; any other a folder of
    parts, whose ``manifest.json`` comes last: without it the folder is not finished. Each part is copied there as soon
    as it is finished (beside a single file, in a folder that ends in ``.parts``), so that the same command goes on
    after any end, also on another machine. This machine keeps the parts in its cache until all is written. There is no
    lock on object stores: let one machine at a time write to a URL.

    Args:
        source: where rows come from.
        model: embeds them; in eval mode.
        model_name: how it was loaded, kept for people.
        out: the URL.
        settings: others of ``embed``.

    Raises:
        InputError: as for ``embed``; an unknown protocol, or one that only reads, or somebody else's files there.
        LockedError: another process of this machine writes there.
        WriteError: the store refuses it; what was written before is kept.
    """
    if out.startswith(("http://", "https://")):
        raise InputError(
            f"{out:.200}: a web server is read from, not written to; expected a file, a folder or the URL "
            "of an object store, such as s3://bucket/photos.parquet"
        )
    place, origin = StorePlace(out), origin_of(source, model=model, model_name=model_name)
    staging = Staging(place)
    with locked(staging.root, purpose=f"tether embed --out {place.url}"):
        done = _finished(place, origin=origin)
        if done is not None:
            staging.clear()  # what an end just before that left
            return done
        try:
            staging.fetch()
            found = embed(
                source,
                model=model,
                model_name=model_name,
                out=staging.folder,
                on_part=staging.follow,
                **settings,
            )
        except InputError as error:
            raise InputError(str(error).replace(str(staging.folder), place.folder)) from error
        staging.finish({**origin.names(), "rows": found.rows, "bad": found.bad})
    return replace(found, path=place.url, bad_rows=place.bad_rows)


def _finished(place: StorePlace, *, origin: Origin) -> EmbeddedFile | None:
    """The report of what is there already, if it is whole and this run's."""
    if place.single:
        if not place.exists(place.url):
            return None
        metadata, rows = place.schema()
        check_origin(metadata, origin=origin, where=place.url)
        place.remove(place.folder)  # what an end after the last step left
        return EmbeddedFile(place.url, rows, 0, place.bad_count(), place.bad_rows, origin.digest)
    said = manifest_of(place)
    if said is None:
        return None
    theirs = Origin(*(said[name] for name in NAMES))
    check_origin(theirs.metadata(), origin=origin, where=place.url)
    return EmbeddedFile(place.url, said["rows"], 0, said["bad"], place.bad_rows, origin.digest)
