"""Gather what a datasheet shows, and write the page and its Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tether.core.atomic_io import read_text, write_text
from tether.core.ranges import checked
from tether.data.curate.engine.manifest import read_manifest
from tether.data.curate.engine.run import MANIFEST
from tether.data.curate.engine.step import IMAGE
from tether.data.curate.metaclip.metadata import read_entries
from tether.data.curate.pools.pool import LICENCES, Pool
from tether.evaluate.datasheet import thumbnails
from tether.evaluate.datasheet.cloud import HEIGHT, WIDTH, cloud
from tether.evaluate.datasheet.concepts import Concepts, concepts, languages
from tether.evaluate.datasheet.dropped import examples, flags
from tether.evaluate.datasheet.markdown import Datasheet, markdown
from tether.evaluate.datasheet.sample import MOST, captions_of, kept_pool
from tether.evaluate.datasheet.thumbnails import Display
from tether.evaluate.html.sprite import SpriteSheet, sprite
from tether.evaluate.html.templates import render

PAGE, TEXT = "datasheet.html", "datasheet.md"
_KEPT = 24
_DIGESTS = ("sha256", "digest")


@checked
def write_datasheet(out: Path, *, pool: Pool, images: Display = "blurred", most: int = MOST) -> tuple[Path, Path]:
    """Write ``datasheet.html`` and ``datasheet.md`` into the folder of a finished curation.

    Counts of steps, flags and licences are those of the manifest; languages and concepts are counted over at most
    ``most`` rows of each side. The same curation gives the same page: it holds no time. Flagged pairs are shown as
    counts and words, never as images.

    Args:
        out: a folder that ``curate`` has finished.
        pool: what was curated.
        images: ``blurred`` (in the page's own pixels, so that nobody can undo it), ``clear`` or ``none``.
        most: rows read of the pool and of what was kept.

    Returns:
        both paths.

    Raises:
        InputError: no manifest in the folder, a list or manifest that is damaged.
    """
    manifest = read_manifest(out / MANIFEST)
    kept = kept_pool(out, written_as=manifest["written_as"], of=pool)
    before = captions_of(pool, rows=manifest["rows"]["good"], total=manifest["pairs"]["good"], most=most)
    after = captions_of(kept, rows=manifest["rows"]["kept"], total=manifest["pairs"]["kept"], most=most)
    listed = read_entries(out / "entries.txt") if (out / "entries.txt").exists() else []
    sheet = Datasheet(
        name=out.absolute().name,
        manifest=manifest,
        recipe=_recipe(out, manifest),
        entries=len(listed),
        before=before,
        after=after,
        languages=languages(before, after),
        concepts=concepts(before, after, entries=listed),
        examples=examples(out, manifest),
        flagged=flags(out, manifest),
        images=images,
        most=most,
        digests=_digests(manifest),
    )
    write_text(out / TEXT, markdown(sheet))
    write_text(out / PAGE, _render(sheet, pool=pool, kept=kept))
    return out / PAGE, out / TEXT


def _recipe(out: Path, manifest: dict[str, Any]) -> str:
    path = out / "recipe.yaml"
    if path.exists():
        return read_text(path).strip()
    import yaml

    return yaml.safe_dump({"steps": manifest["steps"]}, sort_keys=False, allow_unicode=True).strip()


def _digests(manifest: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (step["name"], name, str(value))
        for step in manifest["steps"]
        for name, value in step.items()
        if value is not None and (name == "model" or name.endswith(_DIGESTS))
    ]


def _render(sheet: Datasheet, *, pool: Pool, kept: Pool | None) -> str:
    shown, places, samples = _images(sheet, pool=pool, kept=kept)
    return render(
        "datasheet.html.j2",
        package="tether.evaluate.datasheet",
        sheet=sheet,
        manifest=sheet.manifest,
        sprite=shown,
        places=places,
        samples=samples,
        clouds={each.step: cloud(each.words) for each in sheet.flagged},
        cloud_box=f"0 0 {WIDTH:g} {HEIGHT:g}",
        curves=_curves(sheet.concepts),
        licence_names=", ".join(LICENCES),
        bar=_bar,
        percent=percent,
        amount=amount,
        words_of=_text_of,
    )


def _images(
    sheet: Datasheet, *, pool: Pool, kept: Pool | None
) -> tuple[SpriteSheet | None, dict[tuple[str, str], int | None], list[int]]:
    """The sprite, the place in it of each example's image (None: cannot be opened), and places of kept ones."""
    if sheet.images == "none" or IMAGE not in pool.column_names():
        return None, {}, []
    pieces: dict[int, set[str]] = {}
    for shown in sheet.examples.values():
        for each in shown:
            if each.piece is not None and each.piece < pool.pieces():
                pieces.setdefault(each.piece, set()).add(each.key)
    encoded = {
        key: data
        for piece, keys in sorted(pieces.items())
        for key, data in thumbnails.find(pool, piece=piece, keys=keys).items()
    }
    small: list[np.ndarray] = []

    def place(data: bytes) -> int | None:
        image = thumbnails.thumbnail(data, images=sheet.images)
        if image is None:
            return None
        small.append(image)
        return len(small) - 1

    found = {key: place(data) for key, data in encoded.items()}
    places = {(name, each.key): found[each.key] for name, shown in sheet.examples.items() for each in shown
              if each.key in found}  # fmt: skip
    samples = (
        [place(data) for data in thumbnails.some(kept, count=_KEPT)] if kept and IMAGE in kept.column_names() else []
    )
    return (
        sprite(np.stack(small)) if small else None,
        places,
        [at for at in samples if at is not None],
    )


@dataclass(frozen=True, slots=True)
class Curves:
    """Both curves as SVG paths in a box of 100 by 100 with logarithmic axes, and the marks on the axes."""

    before: str
    after: str
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def _curves(found: Concepts) -> Curves | None:
    both = np.concatenate([found.before, found.after])
    if len(found.before) < 2 or not len(found.after):
        return None
    low, high = math.log10(both.min()), math.log10(both.max())
    ranks = math.log10(max(len(found.before), len(found.after)))

    def across(rank: float) -> float:
        return round(100 * math.log10(rank) / ranks, 2)

    def up(count: float) -> float:
        return round(100 - 100 * (math.log10(count) - low) / ((high - low) or 1.0), 2)

    def path(curve: np.ndarray) -> str:
        places = np.unique(np.geomspace(1, len(curve), 160).astype(int))
        return "M" + "L".join(f"{across(rank)} {up(curve[rank - 1])}" for rank in places.tolist())

    powers = range(math.ceil(low), math.floor(high) + 1)
    marks = [(up(10.0**power), f"{10.0**power:g}") for power in powers]
    steps = [(across(10.0**power), f"{10**power:,}") for power in range(math.floor(ranks) + 1)]
    return Curves(path(found.before), path(found.after), steps, marks)


def percent(value: float) -> str:
    """A share in per cent, small ones with more digits."""
    return f"{100 * value:.1f} %" if value >= 0.001 or not value else f"{100 * value:.2g} %"


def amount(value: float) -> str:
    """A number of captions, with a digit after the point where it is small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _bar(value: float, most: float) -> float:
    """Width in per cent of the track."""
    return round(100 * value / most, 2) if most else 0.0


def _text_of(text: str | None, most: int = 160) -> str:
    if text is None:
        return "(no caption)"
    return text if len(text) <= most else f"{text[: most - 1]}…"
