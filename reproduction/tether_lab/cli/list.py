"""``tether-lab list``."""

from __future__ import annotations

from typing import Annotated

import typer

from tether.cli.options import Existing, Json, check_outputs, put_json
from tether.cli.say import say


def command(
    package: Annotated[str | None, typer.Option(help="Only papers of this package, such as optim.")] = None,
    needs: Annotated[
        str | None, typer.Option(help="Only papers that need this, such as pairs; part of a word will do.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="Only papers with this verdict, such as reproduced.")] = None,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """List the papers: what each gives and whether its claim holds here.

    Examples:
      tether-lab list
      tether-lab list --package optim --verdict reproduced
      tether-lab list --json
    """
    from tether_lab.lab.results import MOVED, rows

    check_outputs({"--json": json}, existing=existing)
    every = rows()
    package = _known("--package", package, {row.card.package for row in every})
    verdict = _known("--verdict", verdict, {row.verdict for row in every})
    chosen = [
        row
        for row in every
        if package in (None, row.card.package)
        and verdict in (None, row.verdict)
        and (needs is None or any(needs.lower() in need.lower() for need in row.card.needs))
    ]
    if json is not None:
        put_json([row.as_json() for row in chosen], to=json)
        return

    from rich.table import Table
    from rich.text import Text

    from tether.cli.screen import PIPED, Screen

    colours = {
        **dict.fromkeys(("reproduced", "property holds"), "green"),
        **dict.fromkeys(("in part", "direction only"), "cyan"),
        "contrary": "red",
    }
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("slug", "package", "verdict", "title", "needs"):
        table.add_column(title, no_wrap=title in ("slug", "package", "verdict"))
    for row in sorted(chosen, key=lambda row: (row.card.package, row.card.slug)):
        card, colour = row.card, colours.get(row.verdict, "dim")
        shown = (Text(text, no_wrap=True, overflow="ellipsis") for text in (card.title, ", ".join(card.needs)))
        said = Text.assemble((row.verdict, colour), ("*" * row.moved, "yellow"))
        table.add_row(card.slug, card.package, said, *shown)  # one line a paper, for grep
    screen = Screen()
    (screen if screen.is_terminal else Screen(width=PIPED)).print(table)
    if any(row.moved for row in chosen):
        say(f"* {MOVED}")
    say(f"{len(chosen)} of {len(every)} papers; tether-lab where SLUG shows the files of one")


def _known(option: str, value: str | None, known: set[str]) -> str | None:
    """The value in small letters, as papers have it."""
    if value is not None and value.lower() not in known:
        raise typer.BadParameter(f"no paper has {value!r}; known: {', '.join(sorted(known))}", param_hint=option)
    return value and value.lower()
