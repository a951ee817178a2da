"""``tether papers``."""

from __future__ import annotations

from typing import Annotated

import typer

PIPED = 250
"""Columns where no terminal says how wide it is."""


def command(
    room: Annotated[str | None, typer.Option(help="Only papers of this room, such as optim.")] = None,
    needs: Annotated[
        str | None, typer.Option(help="Only papers that need this, such as pairs; part of a word will do.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="Only papers with this verdict, such as reproduced.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the papers: what each gives and whether its claim holds here."""
    import json

    from tether.papers.listing import rows

    every = rows()
    _known("--room", room, {row.card.room for row in every})
    _known("--verdict", verdict, {row.verdict for row in every})
    chosen = [
        row
        for row in every
        if room in (None, row.card.room)
        and verdict in (None, row.verdict)
        and (needs is None or any(needs.lower() in need.lower() for need in row.card.needs))
    ]
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in chosen], indent=2, ensure_ascii=False))
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"reproduced": "green", "contrary": "red", "stale": "yellow", "direction only": "cyan"}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("slug", "room", "verdict", "title", "needs"):
        table.add_column(title, no_wrap=title in ("slug", "room", "verdict"))
    for row in sorted(chosen, key=lambda row: (row.card.room, row.card.slug)):
        card, colour = row.card, colours.get(row.verdict, "dim")
        shown = (Text(text, no_wrap=True, overflow="ellipsis") for text in (card.title, ", ".join(card.needs)))
        table.add_row(card.slug, card.room, f"[{colour}]{row.verdict}[/]", *shown)  # one line a paper, for grep
    console = Console()
    (console if console.is_terminal else Console(width=PIPED)).print(table)
    typer.echo(f"{len(chosen)} of {len(every)} papers; tether where SLUG shows the files of one")


def _known(option: str, value: str | None, known: set[str]) -> None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"no paper has {value!r}; known: {', '.join(sorted(known))}", param_hint=option)
