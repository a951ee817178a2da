"""``tether-lab missing``."""

from __future__ import annotations

from typing import Annotated

import typer

from tether.cli.say import say


def command(
    slug: Annotated[str, typer.Argument(help="A paper, such as zclip; tether-lab list lists them.")],
) -> None:
    """List what a paper still lacks: words to fill in, a result, what guides and CHANGELOG say of it.

    Examples:
      tether-lab missing zclip
    """
    from tether_lab.lab.missing import missing

    found = missing(slug)
    say(f"still missing: {len(found)}" if found else "still missing: nothing")
    for line in found:
        say(f"  {line}")
