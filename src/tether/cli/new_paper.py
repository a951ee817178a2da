"""``tether new-paper``."""

from __future__ import annotations

from typing import Annotated

import typer

from tether.cli.say import say


def command(
    slug: Annotated[str, typer.Argument(help="Lower-case words with hyphens, such as gate-norm.")],
    room: Annotated[str, typer.Option(help="The room that it joins, such as optim.")],
    mapping: Annotated[
        str | None, typer.Option(help="Which of the room's mappings it joins, such as CLIPPERS; default: the first.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files.")] = False,
) -> None:
    """Write the skeleton of a paper: its part, a line in the room's mapping, its card, its test."""
    from tether.papers import scaffold
    from tether.papers.reproduction import source_index

    root = source_index.need_checkout("adding a paper")
    files = scaffold.plan(root, slug=slug, room=room, mapping=mapping)
    if not dry_run:
        scaffold.write(files)
    for path in files:
        say(f"{'would write' if dry_run else 'wrote'} {path.relative_to(root).as_posix()}")
    say("its tests fail until it is filled in; tether where " + slug + " shows the places")
