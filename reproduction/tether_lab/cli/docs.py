"""``tether-lab docs``."""

from __future__ import annotations

from typing import Annotated

import typer

from tether.cli.say import say


def command(
    write: Annotated[
        bool, typer.Option("--write", help="Write docs/gen, and the figures of README, guides and methods.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="List stale figures; end with 1 if there are any.")] = False,
) -> None:
    """Write the generated pages, or check what of them is committed.

    Examples:
      tether-lab docs --write
      tether-lab docs --check
    """
    from tether_lab.cli.reference import reference
    from tether_lab.lab import docs, source_index

    if write == check:
        raise typer.BadParameter("give --write or --check")
    root = source_index.need_checkout("generating documentation")
    wanted = docs.committed(root)
    if write:
        wanted |= docs.generate(root, more={"cli.md": reference()})
        for name in docs.write(root, wanted):
            say(f"wrote {name}" if name in wanted else f"removed {name}")
        return
    found = docs.stale(root, wanted)
    for name in found:
        say(f"stale: {name}")
    if found:
        say("tether-lab docs --write brings them up to date", err=True)
        raise typer.Exit(1)
