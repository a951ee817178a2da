"""Everything that a datasheet says, and its Markdown: the same figures, without images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tether.evaluate.datasheet.concepts import Concepts, Spoken
from tether.evaluate.datasheet.dropped import Example, Flagged
from tether.evaluate.datasheet.sample import Captions
from tether.evaluate.datasheet.thumbnails import Display
from tether.evaluate.html.text import escaped, table


@dataclass(frozen=True, slots=True)
class Datasheet:
    """Everything that a datasheet says.

    Attributes:
        name: of the folder.
        manifest: what the curation says of itself.
        recipe: the steps as they were given, or as the manifest lists them.
        entries: number of metadata entries that concepts are counted by; 0 for words.
        before: captions of the pool.
        after: captions of what was kept.
        languages: None where the detector is missing.
        concepts: frequent and gained ones, and both curves.
        examples: dropped pairs by step.
        flagged: what was flagged, by step.
        images: how thumbnails are shown.
        most: rows of each side whose captions were looked at, at most.
        digests: (step, setting, value) of every model and list that a step was built on.
    """

    name: str
    manifest: dict[str, Any]
    recipe: str
    entries: int
    before: Captions
    after: Captions
    languages: list[Spoken] | None
    concepts: Concepts
    examples: dict[str, list[Example]]
    flagged: list[Flagged]
    images: Display
    most: int
    digests: list[tuple[str, str, str]]

    @property
    def sampled(self) -> str:
        """How the shares of captions were found, as a sentence."""
        if self.before.complete and self.after.complete:
            return "Counted over all captions."
        return f"Estimated on the captions of {self.most:,} rows of each side, spread over the files."


_SHOWN = 120
_WORDS = 30


def markdown(sheet: Datasheet) -> str:
    """The whole text; captions are quoted so that nothing in them is taken for Markdown or HTML."""
    manifest = sheet.manifest
    rows, pairs = manifest["rows"], manifest["pairs"]
    lines = [
        f"# Datasheet of {escaped(sheet.name)}",
        "",
        f"Made from {escaped(manifest['pool']['name'])} by `tether curate`, version {escaped(manifest['tether'])}.",
        "",
        *table(("", "rows", "pairs"), [
            ("pool", f"{rows['good']:,}", f"{pairs['good']:,}"),
            ("kept", f"{rows['kept']:,}", f"{pairs['kept']:,}"),
            ("bad rows, skipped", f"{rows['bad']:,}", ""),
        ]),
        "## What each step did",
        "",
        *table(("step", "pairs in", "dropped", "thinned out", "changed or flagged", "pairs left", "reason"), [
            (
                step["name"],
                f"{step['in']:,}",
                f"{step.get('refused', 0):,}",
                f"{step.get('thinned_out', 0):,}",
                f"{step.get('rewritten', step.get('flagged', 0)):,}",
                f"{step['kept']:,}",
                step.get("refusal", ""),
            )
            for step in manifest["by_step"]
        ]),
        *_languages(sheet),
        *_concepts(sheet),
        *_dropped(sheet),
        *_flagged(sheet),
        *_licences(sheet),
        "## Making it again",
        "",
        "The same pool, recipe and seed give the same rows, on any engine and in any order.",
        "",
        *table(("what", "value"), [
            ("pool", manifest["pool"]["name"]),
            ("version of the pool", manifest["pool"]["version"]),
            ("seed", str(manifest["seed"])),
            ("SHA-256 of the recipe", manifest["recipe_sha256"]),
            ("SHA-256 of the run's settings", manifest["digest"]),
            ("SHA-256 of the kept rows", manifest["rows_sha256"]),
            *((f"{step}: {name}", value) for step, name, value in sheet.digests),
        ]),
        "```yaml",
        sheet.recipe.replace("```", "` ` `"),
        "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _languages(sheet: Datasheet) -> list[str]:
    if sheet.languages is None:
        return [
            "## Languages",
            "",
            "Not counted: the detector is not installed (`pip install 'tether-clip[curate]'`; in a checkout "
            "`pip install -e '.[curate]'`).",
            "",
        ]
    rows = [(each.code, f"{100 * each.before:.1f} %", f"{100 * each.after:.1f} %") for each in sheet.languages]
    return ["## Languages", "", sheet.sampled, "", *table(("language", "pool", "kept"), rows)]


def _concepts(sheet: Datasheet) -> list[str]:
    found = sheet.concepts
    return [
        "## Concepts",
        "",
        f"Captions in 10,000 that hold each. {sheet.sampled} As varied as {found.even_before:,.0f} equally frequent "
        f"concepts before, and {found.even_after:,.0f} after.",
        "",
        *table(("concept", "pool", "kept"), [(each.name, f"{each.before:,.1f}", f"{each.after:,.1f}")
                                              for each in found.frequent]),
        "Those whose share grew most:",
        "",
        *table(("concept", "pool", "kept"), [(each.name, f"{each.before:,.1f}", f"{each.after:,.1f}")
                                              for each in found.gained]),
    ]  # fmt: skip


def _dropped(sheet: Datasheet) -> list[str]:
    lines = ["## What was dropped", ""]
    for step in sheet.manifest["by_step"]:
        shown = sheet.examples.get(step["name"], [])
        if step["kind"] == "curator" and shown:
            lines += [f"**{escaped(step['name'])}**: {escaped(step['refusal'])}", ""]
            lines += [f"- {escaped(_short(each.text))}" for each in shown]
            lines += [""]
    return lines


def _flagged(sheet: Datasheet) -> list[str]:
    if not sheet.flagged:
        return []
    lines = ["## Flagged, and kept", ""]
    for each in sheet.flagged:
        lines += [f"**{escaped(each.step)}**: {each.pairs:,} pairs", ""]
        lines += table(("label", "pairs"), [(label, f"{count:,}") for label, count in each.labels.items()])
        if each.words:
            lines += ["Words of their captions: " + ", ".join(escaped(word) for word, _ in each.words[:_WORDS]), ""]
    return lines


def _licences(sheet: Datasheet) -> list[str]:
    found = sheet.manifest["licences"]
    if found is None:
        return ["## Licences", "", "The pool has no column that names a licence; terms of use are unknown.", ""]
    rows = [(name or "none given", f"{both['pool']:,}", f"{both['kept']:,}") for name, both in found["values"].items()]
    if found["others"]["values"]:
        others = found["others"]
        rows.append((f"{others['values']:,} others", f"{others['pool']:,}", f"{others['kept']:,}"))
    return [
        "## Licences",
        "",
        f"Rows by their column {escaped(found['column'])}.",
        "",
        *table(("licence", "pool", "kept"), rows),
    ]


def _short(text: str | None) -> str:
    if text is None:
        return "(no caption)"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
