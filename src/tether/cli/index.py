"""``tether index``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tether.cli.say import say


def command(
    embeddings: Annotated[
        str, typer.Argument(help="What tether embed wrote: a .parquet file, a folder, or a URL of one.")
    ],
    out: Annotated[str, typer.Option(help="Folder of the store, or a URI such as s3://bucket/images.")],
    existing: Annotated[
        Literal["refuse", "merge", "replace"],
        typer.Option(help="What to do about a store that is there: merge adds new keys and updates known ones."),
    ] = "refuse",
) -> None:
    """Put vectors into a store that can be searched, changed and filtered.

    Examples:
      tether index photos.parquet --out photos.db
      tether index more.parquet --out photos.db --existing merge
    """
    from tether.cli.screen import bar
    from tether.tasks.retrieve.index import build_index

    with bar("index") as on_progress:
        store = build_index(embeddings, out=out, existing=existing, on_progress=on_progress)
    columns = ", ".join(name for name in store.schema.names if name != "embedding")
    say(f"{out}: {len(store)} rows of {store.dim} numbers; columns: {columns}")
