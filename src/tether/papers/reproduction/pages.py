"""The pages about papers, written from the cards and the stored results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tether.core.card import Card
from tether.papers.reproduction import source_index
from tether.papers.reproduction.markdown import bullets, number, page, sentence, table
from tether.papers.reproduction.part_reference import described
from tether.papers.reproduction.results import CHANGED, PaperStatus

VERDICTS = {
    "reproduced": "the 95 % lower bound of the mean improvement is above 0 and the mean is at least the margin",
    "direction only": "the bound is above 0, but the mean is smaller than the margin",
    "not shown": "the seeds do not tell the two apart",
    "contrary": "the 95 % upper bound is below 0: here the method made it worse",
    "not run": "there is no stored result",
}
_CHANGED = (
    f"A verdict that is {CHANGED} was measured with other code than there is now. That its figures have not moved is "
    "what the tests look after: they run a short trial of each paper and compare it with the one in its result."
)
_SOURCE = "https://arxiv.org/abs/"


def verdicts(rows: Sequence[PaperStatus]) -> str:
    """One line for the README: how many papers there are, and how their checks stand."""
    counts: Counter[str] = Counter(row.verdict for row in rows)
    said = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    return f"{len(rows)} papers: {said or 'none is measured yet'}."


def outcome(row: PaperStatus) -> str:
    """The verdict, with the mean improvement and its bound, and whether the code has changed since."""
    if row.result is None:
        return row.verdict
    mark = f", {row.mark}" if row.mark else ""
    return f"**{row.verdict}**: {number(row.result['mean'])} (bound {number(row.result['lower'])}){mark}"


def index(rows: Sequence[PaperStatus]) -> str:
    """All papers, by package, by what a user has, and by what a user gets."""
    packages = sorted({row.card.package for row in rows})
    needs = sorted({need for row in rows for need in row.card.needs}, key=str.lower)
    return page(
        "# Papers",
        f"Papers here: {len(rows)}. Each is a part of this package, with one measured check of what the paper claims. "
        "`tether where SLUG` shows the files of one, `tether reproduce SLUG` measures it again.",
        "## What the verdicts mean",
        bullets(f"**{name}**: {meaning}." for name, meaning in VERDICTS.items()),
        _CHANGED,
        "## By package",
        *_sections(packages, rows, lambda row, package: row.card.package == package),
        "## By what you have",
        *_sections(needs, rows, lambda row, need: need in row.card.needs),
        "## By what you get",
        table(["you get", "paper"], ([row.card.gives, _link(row.card)] for row in sorted(rows, key=_gives))),
        _toctree(row.card.slug for row in rows),
    )


def paper(row: PaperStatus) -> str:
    """One paper's page."""
    card = row.card
    return page(
        f"# {card.title}",
        _facts(card),
        f"**What you get.** {sentence(card.gives)}",
        f"**What you need.** {sentence('; '.join(card.needs))}" if card.needs else "",
        f"**When to use it.** [The guide](../../guides/{card.guide})." if source_index.guide_path(card) else "",
        f"## `{card.parts[0].rpartition('.')[2]}`",
        described(card.parts[0]),
        "## Parts",
        bullets(f"`{part}` in `{source_index.shown(source_index.part_place(part).path)}`" for part in card.parts),
        "## What is checked here",
        card.claim.says,
        table(
            ["metric", "better", "margin", "compared with", "at which scale"],
            [
                [
                    card.claim.metric,
                    card.claim.better,
                    number(card.claim.margin),
                    card.claim.baseline,
                    card.claim.scale,
                ]
            ],
        ),
        "The margin was fixed before the run; the verdict is computed from the seeds.",
        "## What came out",
        _measured(row),
        "## What differs from the paper" if card.differences else "",
        bullets(card.differences),
    )


def bibliography(rows: Sequence[PaperStatus]) -> str:
    """Every paper that a card cites, newest first, then by title."""
    ordered = sorted(rows, key=lambda row: (-row.card.year, row.card.title.lower()))
    return page("# Bibliography", bullets(_reference(row.card) for row in ordered) or "_No paper has a card yet._")


def _reference(card: Card) -> str:
    who = f"{', '.join(card.authors)}. " if card.authors else ""
    venue = f" {card.venue}." if card.venue else ""
    arxiv = f" [arXiv {card.arxiv}]({_SOURCE}{card.arxiv})." if card.arxiv else ""
    code = f" Code: [{card.code}](https://github.com/{card.code})." if card.code else ""
    return f"{who}*{card.title}*, {card.year}.{venue}{arxiv}{code} Here: [`{card.slug}`](papers/{card.slug}.md)"


def _facts(card: Card) -> str:
    facts = [f"`{card.slug}`", f"package `{card.package}`", str(card.year), card.venue]
    if card.arxiv:
        facts.append(f"[arXiv {card.arxiv}]({_SOURCE}{card.arxiv})")
    if card.code:
        facts.append(f"[official code](https://github.com/{card.code})")
    return " · ".join(fact for fact in facts if fact)


def _measured(row: PaperStatus) -> str:
    result = row.result
    if result is None:
        return f"Not run yet. `tether reproduce {row.card.slug}` takes about {number(row.card.minutes)} minutes."
    mark = f" ({row.mark})" if row.mark else ""
    summary = (
        f"**{row.verdict}**{mark}: better by {number(result['mean'])} on average over "
        f"{len(result['seeds'])} paired seeds, one-sided 95 % lower bound {number(result['lower'])}."
    )
    notes = sorted({name for run in result["seeds"] for name in run["notes"]})
    seeds = table(
        ["seed", "baseline", "ours", *notes],
        (
            [
                str(run["seed"]),
                number(run["baseline"]),
                number(run["ours"]),
                *(number(run["notes"][name]) if name in run["notes"] else "" for name in notes),
            ]
            for run in result["seeds"]
        ),
    )
    return page(summary, seeds, _circumstances(result))


def _circumstances(result: dict[str, Any]) -> str:
    machine = result["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    where = machine.get("accelerator", f"{machine['processor']}, {machine['cores']} cores")
    return (
        f"Measured {result['measured']} on {where} with {result['threads']} thread(s) in "
        f"{number(result['wall_seconds'])} s ({number(result['cpu_seconds'])} s of processor time); {libraries}; "
        f"commit `{result['commit']}`."
    )


def _sections(
    titles: Sequence[str], rows: Sequence[PaperStatus], belongs: Callable[[PaperStatus, str], bool]
) -> list[str]:
    blocks = []
    for title in titles:
        chosen = [row for row in rows if belongs(row, title)]
        blocks += [f"### {title}", table(["paper", "what you get", "checked here"], map(_line, chosen))]
    return blocks


def _line(row: PaperStatus) -> list[str]:
    return [_link(row.card), row.card.gives, outcome(row)]


def _link(card: Card) -> str:
    return f"[{card.title}](papers/{card.slug}.md)"


def _gives(row: PaperStatus) -> str:
    return row.card.gives.lower()


def _toctree(slugs: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *(f"papers/{slug}" for slug in slugs), "```"])
