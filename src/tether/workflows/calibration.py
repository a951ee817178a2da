"""What a run leaves to warn its users: the words of its captions, and cutoffs fitted on held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.data import open_source
from tether.data.words import read_words
from tether.evaluate.cutoff import FILE, Cutoff, fit_cutoffs, read_cutoffs
from tether.evaluate.embeddings import embed_source
from tether.workflows.held_out import HeldOut

MOST_IMAGES = 1000
"""Held-out images that cutoffs are fitted on, at most."""
Wanted = float | Literal["auto"] | None
Pairs = str | Path | Mapping[str, Any] | None


def keep_cutoffs(model: DualEncoder, held_out: HeldOut, *, folder: Path, digest: str) -> None:
    """Fit cutoffs on held-out pairs and write them into a run's folder; nothing where there are too few.

    Args:
        model: what embeds the pairs.
        held_out: the pairs.
        folder: of the run.
        digest: of the model.
    """
    try:
        seen = held_out.embedded(model, most=MOST_IMAGES)
        found = fit_cutoffs(seen, digest=digest, source=held_out.source.name)
    except InputError:
        return
    found.save(folder / FILE)


def cutoff_of(
    wanted: Wanted | str, *, model: DualEncoder, name: str, pairs: Pairs = None, option: str
) -> Cutoff | None:
    """The cutoff that is asked for, with its rates where they are known.

    Args:
        wanted: ``auto``, a number, or None for none.
        model: whose similarities are cut.
        name: what it was loaded by; a run's folder has cutoffs.
        pairs: a source of pairs to fit on instead.
        option: what errors call ``wanted``.

    Raises:
        InputError: neither ``auto`` nor a number, or ``auto`` where nothing is known to fit on.
    """
    if wanted is None:
        if pairs is not None:
            raise InputError(f"pairs to fit a cutoff on are given, and no cutoff is asked for: {option} auto")
        return None
    number = None if wanted == "auto" else _number(wanted, option=option)
    digest = digest_of(model)
    if pairs is not None:
        source = open_source(str(pairs) if isinstance(pairs, Path) else pairs, where="pairs to fit a cutoff on")
        table = fit_cutoffs(embed_source(model, source, limit=MOST_IMAGES), digest=digest, source=source.name)
    else:
        table = read_cutoffs(Path(name) / FILE)
        table = table if table is not None and table.digest == digest else None
    if table is not None:
        rates = table.auto() if number is None else table.at(number)
        return Cutoff(rates.threshold, rates, table.source, table.images)
    if number is None:
        raise InputError(
            f"{option} auto: {name} has no cutoff fitted on held-out pairs, as runs of tether train with ten held-out "
            "images or more have; fit one with --cutoff-from PAIRS, images with captions that it did not learn from, "
            f"or give a number: {option} 0.25"
        )
    return Cutoff(number)


def unseen_words(texts: Sequence[str], *, model: DualEncoder, name: str) -> list[str]:
    """What to say of words that no caption of the model's run has; nothing where there is no run."""
    words = read_words(Path(name))
    return [] if words is None or words.digest != digest_of(model) else words.warnings(texts)


def _number(wanted: float | str, *, option: str) -> float:
    try:
        number = float(wanted)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{option}: expected auto or a number, got {wanted!r}")
    return number


def digest_of(model: DualEncoder) -> str:
    """The digest of a model's weights."""
    return model_digest(model)  # pyrefly: ignore - every model of tether.load is a module
