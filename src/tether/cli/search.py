"""``tether search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, LongText, RandomWeights, check_outputs, put_json
from tether.cli.say import say


def command(
    store: Annotated[
        str, typer.Argument(help="What tether index made, or a source of images: a folder, a file, a set.")
    ],
    queries: Annotated[
        list[str] | None, typer.Argument(help="What to look for, in words; several are allowed.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Look for images like this one; may be repeated.")] = None,
    where: Annotated[str | None, typer.Option(help="Condition on the columns, such as \"label = 'cat'\".")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many for each query.")] = 10,
    cutoff: Annotated[
        str | None,
        typer.Option(help="Show only what scores more: a number, or auto (1 % of wrong pairs pass); may find nothing."),
    ] = None,
    cutoff_from: Annotated[
        str | None, typer.Option(help="Images with captions to fit the cutoff on; a run of ours has its own.")
    ] = None,
    dims: Annotated[
        int | None, typer.Option(min=1, help="Compare the first so many numbers of each vector alone.")
    ] = None,
    shortlist: Annotated[
        int | None, typer.Option(min=1, help="With --dims: rank so many of the best by all numbers.")
    ] = None,
    order_by: Annotated[
        str | None, typer.Option(help="Put the hits of each query in the order of these words instead.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the images.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The embedded folder, for images without a thumbnail.", exists=True, file_okay=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model that made the vectors; a store that was made beside it knows its name."),
    ] = None,
    words: Annotated[
        list[Path] | None,
        typer.Option(help="A word that tether adapt --recipe new-word learnt on this model; may be repeated."),
    ] = None,
    long_text: LongText = "cut",
    device: Device = "auto",
    random_weights: RandomWeights = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Find images by words or by an image, filtered by their columns.

    Examples:
      tether search photos/ "a red bicycle" --model starter --html found.html
      tether search photos/ "a red bicycle" --model runs/mine --cutoff auto
      tether search photos.db --image like.jpg --where "label = 'street'"
    """
    from tether.cli.screen import bar
    from tether.workflows.search import search

    if not queries and not image:
        raise typer.BadParameter("say what to look for: words, or --image FILE")
    outputs = {"--html": html, "--json": json}
    check_outputs(outputs, existing=existing, inputs={"STORE": store, "--image": image, "--words": words})
    with bar("embed", visible=False) as on_progress:
        found = search(
            store,
            queries or (),
            model=model,
            images=image or (),
            top=top,
            condition=where,
            folder=images,
            cutoff=cutoff,
            cutoff_from=cutoff_from,
            dims=dims,
            shortlist=shortlist,
            order_by=order_by,
            long_text=long_text,
            words=words or None,
            device=device,
            random_weights=random_weights,
            on_progress=on_progress,
        )
    hits = found.hits
    nothing = {query: found.nothing(query) for query in hits}

    for line in found.remarks():
        say(line, err=True)
    if json is not None:
        named = [(query, hit) for query, some in hits.items() for hit in some]
        listed = [
            {**hit.meta, "query": query, "key": hit.key, "score": hit.score, "texts": hit.texts} for query, hit in named
        ]
        put_json(listed, to=json, lines=True)
    for query, some in hits.items():
        if json == STDOUT:
            if not some:
                say(f"{query}: {nothing[query]}", err=True)
            continue
        say(query if some else f"{query}: {nothing[query]}")
        for hit in some:
            place = f"  {hit.meta['order_by']:.4f}" if order_by is not None else ""  # what they are in the order of
            say(f"{place}  {hit.score:.4f}  {hit.key}  {hit.texts[0] if hit.texts else ''}".rstrip())
    if html is not None:
        from tether.tasks.retrieve.gallery import gallery

        note = f"{found.images:,} images, model {found.model}" + (f", where {where}" if where else "")
        gallery(hits, html, title="Search results", note=note, remarks=found.remarks(), nothing=nothing)
        every = [hit for some in hits.values() for hit in some]
        shown = sum(hit.image is not None for hit in every)
        hint = "" if shown == len(every) else "; --images FOLDER shows those below the folder that was embedded"
        say(f"{html}: {shown} of {len(every)} images{hint}", err=True)
