"""``tether search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import Device
from tether.cli.say import as_json, say


def command(
    store: Annotated[str, typer.Argument(help="What tether index made: a folder or a URI.")],
    queries: Annotated[
        list[str] | None, typer.Argument(help="What to look for, in words; several are allowed.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Look for images like this one; may be repeated.")] = None,
    where: Annotated[str | None, typer.Option(help="Condition on the columns, such as \"label = 'cat'\".")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many for each query.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the images.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The embedded folder, for images without a thumbnail.", exists=True, file_okay=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model that made the vectors; a store that was made beside it knows its name."),
    ] = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each hit.")] = False,
) -> None:
    """Find images by words or by an image, filtered by their columns."""
    from typing import cast

    import tether
    from tether.core.outputs import check_file
    from tether.core.protocols import DualEncoder
    from tether.models.named import near
    from tether.tasks.retrieve.search import Searcher
    from tether.tasks.retrieve.store import Store

    if not queries and not image:
        raise typer.BadParameter("say what to look for: words, or --image FILE")
    if html is not None:
        check_file(html, where="--html")
    opened = Store.open(store)
    name = model
    if not name:
        if not opened.model:
            raise typer.BadParameter("the store does not say which model made its vectors; give --model")
        name = near(opened.model, written_in=store, again=f"tether search {store} --model NAME ...")
    searcher = Searcher(opened, model=cast(DualEncoder, tether.load(name, device=device)))
    found = {text: searcher.text(text, top=top, where=where) for text in queries or ()}
    found |= {f"like {path}": searcher.image(path, top=top, where=where) for path in image or ()}
    hits = {query: searcher.hits(ranking, images=images) for query, ranking in found.items()}

    for query, some in hits.items():
        if json:
            for hit in some:
                say(as_json({**hit.meta, "query": query, "key": hit.key, "score": hit.score, "texts": hit.texts}))
            continue
        say(query if some else f"{query}: no row passes the filter")
        for hit in some:
            say(f"  {hit.score:.4f}  {hit.key}  {hit.texts[0] if hit.texts else ''}".rstrip())
    if html is not None:
        from tether.tasks.retrieve.gallery import gallery

        note = f"{len(opened):,} images, model {name}" + (f", where {where}" if where else "")
        gallery(hits, html, title="Search results", note=note)
        every = [hit for some in hits.values() for hit in some]
        shown = sum(hit.image is not None for hit in every)
        hint = "" if shown == len(every) else "; --images FOLDER shows those below the folder that was embedded"
        say(f"{html}: {shown} of {len(every)} images{hint}", err=True)
