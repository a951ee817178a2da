"""What the probes found, as Markdown for people and JSON for programs, with counts and with what it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_json, write_text
from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.evaluate.groups import Share
from tether.evaluate.html.text import table
from tether.methods.evaluating_clip.harm import HarmRates
from tether.methods.evaluating_clip.labels import LEAST_EXPECTED, LabelAssociation, LabelAssociations

CAUTION = (
    "Rates belong to these images, this list of classes and these prompts; another list or wording moves them, so "
    "look at two templates at least. Intervals are Wilson's at 95 %. Groups whose intervals overlap are not told "
    "apart. Groups were given from outside; labels of people are a problem in themselves. That no difference was found "
    "does not show that there is none."
)


@checked
def report(
    harm: Mapping[str, HarmRates], *, associations: Mapping[str, LabelAssociations] | None = None, most: Count = 10
) -> str:
    """The findings as Markdown.

    Args:
        harm: rates by the prompt template they were measured with; two templates are the least that shows how much
            the wording matters.
        associations: of labels, by a name for each table such as its threshold.
        most: labels listed in each table.
    """
    tables = associations or {}
    if not harm and not tables:
        raise InputError("expected rates or label associations to report, got none")
    lines = ["# Bias probes", "", CAUTION, ""]
    if len(harm) == 1:
        lines += ["Only one template was tried, so how much its wording matters is not known.", ""]
    for template, rates in harm.items():
        said = f"{rates.classes} classes offered, cosines times {rates.scale:g}."
        lines += [f"## Classes chosen, template {template!r}", "", said, ""]
        lines += table(
            ("group", "category", "n", "rate", "95 % interval"),
            [(str(row.group), str(row.category), *_cells(row.share)) for row in rates.rows],
        )
    for name, found in tables.items():
        first, second = map(str, found.groups)
        lines += [
            f"## Labels, {name}",
            "",
            f"A label counts from probability {found.threshold:g} among {found.classes} labels, cosines times "
            f"{found.scale:g}. {found.n[0]} images of {first}, {found.n[1]} of {second}; an image gets "
            f"{found.passed:.2f} labels on average.",
            "",
            *table(
                ("label", first, second, "difference", "chi-square", "p", "p, all labels"),
                [_label_cells(row) for row in found.strongest(most)],
            ),
        ]
    return "\n".join(lines)


def write_report(
    path: Path | str,
    *,
    harm: Mapping[str, HarmRates],
    associations: Mapping[str, LabelAssociations] | None = None,
) -> None:
    """Write the findings to a file, atomically: ``.md`` for people, ``.json`` with every row for programs."""
    path = Path(path)
    if path.suffix == ".md":
        write_text(path, report(harm, associations=associations))
    elif path.suffix == ".json":
        report(harm, associations=associations)  # refuses what cannot be reported
        write_json(path, _plain({"caution": CAUTION, "harm": dict(harm), "labels": dict(associations or {})}))
    else:
        raise InputError(f"{path}: expected a name that ends in .md or .json")


def _label_cells(row: LabelAssociation) -> tuple[str, ...]:
    few = "" if row.least_expected >= LEAST_EXPECTED else " (few)"
    rates = f"{row.frequency_a:.3f}", f"{row.frequency_b:.3f}", f"{row.difference:+.3f}"
    return f"{row.label}{few}", *rates, f"{row.chi2:.2f}", f"{row.p:.2g}", f"{row.p_adjusted:.2g}"


def _cells(share: Share) -> tuple[str, str, str]:
    if not share.n:
        return "0", "no images", ""
    return str(share.n), f"{share.rate:.3f}", f"{share.low:.3f} to {share.high:.3f}"


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists, and null for a rate of no images, which JSON has no number for."""
    if isinstance(value, (HarmRates, LabelAssociations)):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value
