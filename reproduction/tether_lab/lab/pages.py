"""The pages about papers, written from the cards and the stored results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from tether.core.markdown import bullets, escaped, number, page, sentence, table
from tether_lab.lab import figures, source_index
from tether_lab.lab.card import Card, Claim
from tether_lab.lab.part_reference import described
from tether_lab.lab.results import MOVED, PaperStatus
from tether_lab.lab.smoke_record import ELSEWHERE, RELATIVE
from tether_lab.lab.stored_result import fixed_before

VERDICTS = {
    "reproduced": "the 95 % lower bound of the mean improvement is above 0, the mean is at least the margin, and every "
    "condition holds; of a claim to be no worse, the bound is within the allowance",
    "in part": "the same, but a condition fails",
    "property holds": "an identity or a bound, which holds on every seed: the method's definition gives it",
    "direction only": "the bound is above 0, but the mean is smaller than the margin",
    "not shown": "the seeds do not tell the two apart",
    "contrary": "the 95 % upper bound is below 0: here the method made it worse",
    "not run": "there is no stored result",
}
_MOVED = (
    "A result holds the figures of a short trial of seed 0, and the trials of all are run again when code moves: "
    "a page names the last commit whose trial agrees. Where it does not, the verdict is marked: "
    f"{MOVED}."
)
_AGREES = f"within {100 * RELATIVE:.0f} %, on another kind of machine within {100 * ELSEWHERE:.0f} %"
_SOURCE = "https://arxiv.org/abs/"


def verdicts(rows: Sequence[PaperStatus]) -> str:
    """For the README: how many papers there are, how their checks stand, and how those on photographs do."""
    said = _counted(row.verdict for row in rows)
    photos = [row.photos["verdict"] for row in rows if row.photos]
    more = f" {len(photos)} are checked on real photographs too: {_counted(photos)}." if photos else ""
    return f"{len(rows)} papers: {said or 'none is measured yet'}.{more}"


def _counted(verdicts: Iterable[str]) -> str:
    counts = Counter(verdicts)
    return ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])


def outcome(row: PaperStatus) -> str:
    """The verdict with the improvement, and whether its figures have moved since."""
    if row.result is None:
        return row.verdict
    return f"**{row.verdict}**: {_came_out(row)}"


def _came_out(row: PaperStatus) -> str:
    if row.result is None:
        return ""
    return "; ".join(part for part in (figures.improvement(row.result), figures.held(row.result), row.mark) if part)


def index(rows: Sequence[PaperStatus]) -> str:
    """All papers, by package, by what a user has, and by what a user gets."""
    packages = sorted({row.card.package for row in rows})
    needs = sorted({need for row in rows for need in row.card.needs}, key=str.lower)
    return page(
        "# Papers",
        f"Papers here: {len(rows)}. Each is a part of Tether, with one measured check of what the paper claims. "
        "`tether-lab where SLUG` shows the files of one, `tether-lab reproduce SLUG` measures it again.",
        "## What the verdicts mean",
        bullets(f"**{name}**: {meaning}." for name, meaning in VERDICTS.items()),
        _MOVED,
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
        f"# {escaped(card.title)}",
        _facts(card),
        _verdict(row),
        f"**What you get.** {sentence(card.gives)}",
        f"**What you need.** {sentence('; '.join(card.needs))}" if card.needs else "",
        f"**When to use it.** [The guide](../../guides/{card.guide})." if source_index.guide_path(card) else "",
        f"## `{card.parts[0].rpartition('.')[2]}`",
        described(card.parts[0]),
        "## Parts",
        bullets(f"`{part}` in `{source_index.shown(source_index.part_place(part).path)}`" for part in card.parts),
        "## What is checked here",
        escaped(card.claim.says),
        table(["", ""], _asked(card.claim)),
        "" if row.result else bullets(escaped(one.says) for one in card.claim.conditions),
        _before(row),
        "## What came out",
        _measured(row),
        _on_photographs(row.photos),
        "## What was tried besides" if card.tried else "",
        bullets(escaped(f"{sentence(bed)} {sentence(outcome)}") for bed, outcome in card.tried.items()),
        "## What differs from the paper" if card.differences else "",
        bullets(map(escaped, card.differences)),
    )


def claims(rows: Sequence[PaperStatus]) -> str:
    """Every claim with what it is held against, by verdict: kind, baseline, what is equal, seeds, conditions."""
    head = ["paper", "kind", "compared with", "equal", "came out", "seeds", "fresh seeds", "on real photographs"]
    found = sorted({row.verdict for row in rows}, key=list(VERDICTS).index)
    tables = ((f"## {name.capitalize()}", [row for row in rows if row.verdict == name]) for name in found)
    return page(
        "# Claims",
        "What each check compares, and what came out. An improvement is in units of the metric, which the paper's page "
        f"names, with {figures.BOUNDS} of its mean. Fresh seeds are 5 to 7, which do not enter the verdict: what three "
        "seeds allow to say, and their mean improvement, to be compared with that of the five. *On real photographs* "
        "is a second check of the claim on Flickr8k or CIFAR-10 with frozen encoders, five seeds; the paper's page has "
        "its claim.",
        *(part for title, some in tables for part in (title, table(head, map(_claim_line, some)))),
    )


def _claim_line(row: PaperStatus) -> list[str]:
    claim, result = row.card.claim, row.result
    return [
        f"[{row.card.slug}](papers/{row.card.slug}.md)",
        claim.kind.replace("_", " "),
        claim.baseline,
        claim.equal,
        _came_out(row),
        str(len(result["seeds"])) if result else "",
        f"{fresh['verdict']}: {number(fresh['mean'])}" if (fresh := result and result["fresh"]) else "",
        f"**{row.photos['verdict']}**: {figures.improvement(row.photos)}" if row.photos else "",
    ]


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


def _verdict(row: PaperStatus) -> str:
    """The line below the title."""
    if row.result is None:
        return f"*{row.verdict}*"
    return sentence(f"{outcome(row)} ([what came out](#what-came-out))")


def _before(row: PaperStatus) -> str:
    """What the history says of when the claim was made."""
    if row.result is None:
        return ""
    if fixed_before(row.result):
        return (
            "Claim, margin and metric stood in the repository before the stored run. This does not tell whether the "
            "same seeds were run earlier under another claim."
        )
    return "The repository's history does not prove that claim, margin and metric stood before the stored run."


def _measured(row: PaperStatus) -> str:
    result = row.result
    if result is None:
        return f"Not run yet. `tether-lab reproduce {row.card.slug}` takes about {number(row.card.minutes)} minutes."
    return page(
        f"The verdict above is of {len(result['seeds'])} paired seeds, with {figures.BOUNDS} of their mean.",
        figures.conditions(result),
        figures.seeds(result["seeds"]),
        _fresh(result),
        figures.seeds(result["fresh"]["seeds"]) if result["fresh"] else "",
        _circumstances(result, same_at=row.same_at),
    )


def _on_photographs(found: dict[str, Any] | None) -> str:
    """The second check of a claim, which ``benchmarks/real_photos`` measures."""
    if found is None:
        return ""
    return page(
        "## On real photographs",
        escaped(found["says"]),
        table(["", ""], _asked(Claim(**{one.name: found[one.name] for one in fields(Claim)}))),
        f"What differs from the check above: {escaped(found['differs'])}.",
        f"**{found['verdict']}**: {figures.improvement(found)}. {len(found['seeds'])} paired seeds, {figures.BOUNDS}.",
        figures.conditions(found),
        figures.seeds(found["seeds"]),
        f"Measured {found['measured']} by `benchmarks/real_photos` in {number(found['cpu_seconds'])} s of processor "
        f"time; commit `{found['commit']}`. {_digests(found.get('data'))}",
    )


def _digests(data: dict[str, str] | None) -> str:
    if data is None:
        return "Which files of data these were was not kept."
    return f"Data, by SHA-256: {', '.join(f'`{escaped(name)}` `{digest}`' for name, digest in data.items())}."


def _asked(claim: Claim) -> list[list[str]]:
    kinds = {"better": "better by the margin", "no_worse": "no worse than the margin allows", "property": "a property"}
    return [
        ["kind", kinds[claim.kind]],
        ["metric", f"{claim.metric}; {claim.better} is better"],
        ["margin", number(claim.margin)],
        ["compared with", claim.baseline],
        *([["equal on both sides", claim.equal]] if claim.equal else []),
        ["at which scale", claim.scale],
    ]


def _fresh(result: dict[str, Any]) -> str:
    fresh = result["fresh"]
    if not fresh:
        return ""
    named = ", ".join(str(run["seed"]) for run in fresh["seeds"])
    failed = [one["says"] for one in fresh["conditions"] if not one["holds"]]
    more = f"; a condition fails: {escaped('; '.join(failed))}" if failed else ""
    said = f"*{fresh['verdict']}*: {figures.improvement(result | fresh)}{more}"
    return sentence(f"Seeds {named}, which do not enter the verdict, say {said}")


def _circumstances(result: dict[str, Any], *, same_at: str) -> str:
    machine = result["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    where = machine.get("accelerator", f"{machine['processor']}, {machine['cores']} cores")
    return escaped(
        f"Measured {result['measured']} on {where} with {result['threads']} thread(s) in "
        f"{number(result['wall_seconds'])} s ({number(result['cpu_seconds'])} s of processor time); {libraries}; "
        f"commit `{result['commit']}`."
        + (f" The short trial agrees at commit `{same_at}` ({_AGREES})." if same_at else "")
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
