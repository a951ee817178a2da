"""``tether-lab where``."""

from __future__ import annotations

from typing import Annotated

import typer

from tether.cli.say import say


def command(
    slug: Annotated[str, typer.Argument(help="A paper, such as zclip; tether-lab list lists them.")],
) -> None:
    """Show where a paper stands: card, parts, tests, vector, guide and result.

    Examples:
      tether-lab where zclip
    """
    from tether_lab.lab import source_index
    from tether_lab.lab.results import rows
    from tether_lab.papers import card as find_card

    card = find_card(slug)
    lines = [("card", str(source_index.card_place(slug)))]
    lines += [("part", f"{source_index.part_place(part)}  {part}") for part in card.parts]
    if source_index.checkout() is None:
        lines.append(("", "tests, vectors and guides come with a source checkout, not with this installation"))
    else:
        lines += [("test", source_index.shown(path)) for path in source_index.test_places(card)]
        for name, path in (("vector", source_index.vector_path(slug)), ("guide", source_index.guide_path(card))):
            lines.append((name, source_index.shown(path) if path else "none"))
    (row,) = rows([slug])
    said = ", ".join(filter(None, [row.verdict, row.mark]))
    lines.append(("result", f"{source_index.shown(source_index.result_path(slug))}  {said}" if row.result else said))
    if card.arxiv:
        lines.append(("paper", f"https://arxiv.org/abs/{card.arxiv}"))
    if card.code:
        lines.append(("code", f"https://github.com/{card.code}"))
    for name, value in lines:
        say(f"{name:<8}{value}")
