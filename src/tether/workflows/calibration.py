"""Cutoffs that a run leaves its users, fitted on held-out pairs."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Literal

from tether.core.errors import InputError
from tether.core.model_digest import encoder_digest
from tether.core.protocols import DualEncoder, Source
from tether.data import open_source
from tether.data.shuffle import reason_against
from tether.evaluate.cutoff import FILE, LEAST_IMAGES, MOST_IMAGES, Cutoff, fit_cutoffs, read_cutoffs
from tether.evaluate.embeddings import embed_source
from tether.evaluate.meaning import read_meaning
from tether.workflows.learnt import learnt_from
from tether.workflows.models import Data, OnStage, progress_of

Wanted = float | Literal["auto"] | None


def cutoff_of(
    wanted: Wanted | str,
    *,
    model: DualEncoder,
    name: str,
    pairs: Data | None = None,
    option: str,
    on_stage: OnStage | None = None,
) -> Cutoff | None:
    """The cutoff that is asked for, with its rates where they are known.

    Args:
        wanted: ``auto``, a number, or None for none.
        model: whose similarities are cut.
        name: what it was loaded by; a run's folder has cutoffs.
        pairs: a source of pairs to fit on instead.
        option: what errors call ``wanted``.
        on_stage: told how many pairs are embedded, as ``cutoff``.

    Raises:
        InputError: neither ``auto`` nor a number, or ``auto`` where nothing is known to fit on.
    """
    number, source = check_cutoff(wanted, name=name, pairs=pairs, option=option)
    if wanted is None:
        return None
    digest, learnt = encoder_digest(model), 0
    if source is not None:
        told = progress_of(on_stage, "cutoff", source=source, limit=MOST_IMAGES)
        seen = embed_source(model, source, limit=MOST_IMAGES, on_progress=told)
        table = fit_cutoffs(seen, digest=digest, source=source.name)
        learnt = learnt_from(name, source, most=MOST_IMAGES)
    else:
        table = read_cutoffs(Path(name) / FILE)
        table = table if table is not None and table.digest == digest else None
    if table is not None:
        rates = table.auto() if number is None else table.at(number)
        return Cutoff(rates.threshold, rates, table.source, table.images, learnt)
    if number is None:
        raise _nothing_fitted(name, option=option)
    return Cutoff(number)


def check_cutoff(
    wanted: Wanted | str, *, name: str | None, pairs: Data | None = None, option: str
) -> tuple[float | None, Source | None]:
    """Refuse what ``cutoff_of`` could not give, before a model is loaded or an image embedded.

    Args:
        wanted: as there.
        name: what the model is loaded by; None where it is not known yet.
        pairs: as there.
        option: as there.

    Returns:
        The number that is asked for, if one is, and the source to fit on.
    """
    if wanted is None:
        if pairs is not None:
            raise InputError(f"pairs to fit a cutoff on are given, and no cutoff is asked for: {option} auto")
        return None, None
    number = None if wanted == "auto" else _number(wanted, option=option)
    if pairs is None:
        if number is None and name is not None and not (Path(name) / FILE).is_file():
            raise _nothing_fitted(name, option=option)
        return number, None
    source = open_source(pairs, where="pairs to fit a cutoff on")
    rows = islice((row for block in source.blocks() for row in source.read(block)), MOST_IMAGES)
    count = sum(1 for _ in islice((row for row in rows if not reason_against(row, need_text=True)), LEAST_IMAGES))
    if count < LEAST_IMAGES:
        raise InputError(
            f"{source.name}: {count} images with captions to fit a cutoff on (--cutoff-from): at least {LEAST_IMAGES} "
            f"are needed; give more, or a number: {option} 0.25"
        )
    return number, source


def _nothing_fitted(name: str, *, option: str) -> InputError:
    meaning = read_meaning(Path(name))
    held = f", and this one held out {meaning.pool}" if meaning is not None and meaning.pool < LEAST_IMAGES else ""
    return InputError(
        f"{option} auto: {name} has no cutoff fitted on held-out pairs, as runs of tether train with {LEAST_IMAGES} "
        f"held-out images or more have{held}; fit one with --cutoff-from PAIRS, {LEAST_IMAGES} images or more with "
        f"captions that it did not learn from, or give a number: {option} 0.25"
    )


def _number(wanted: float | str, *, option: str) -> float:
    try:
        number = float(wanted)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{option}: expected auto or a number, got {wanted!r}")
    return number
