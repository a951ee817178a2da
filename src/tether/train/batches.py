"""The batches of one stretch of a run: its data, and the data sets beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tether.core.component import build, settings
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.data import open_source
from tether.data.augment import AUGMENTATIONS
from tether.data.captions import CAPTION_PICKS
from tether.data.contents import BatchContents
from tether.data.loader import Loader, SideBySide
from tether.data.regions import RegionColumns
from tether.train.config import Beside, RunConfig, Spec


def build_contents(given: dict[str, Any], *, where: str) -> BatchContents | None:
    """What batches hold besides plain pairs; None for nothing."""
    if not given:
        return None
    return build({**given, "name": "contents"}, {"contents": BatchContents}, where=f"{where}: contents")


def check_batches(config: RunConfig, *, where: str) -> None:
    """Refuse settings that no part takes, before a row is read."""
    for one, here in each_data(config, where=where):
        settings(one.caption, CAPTION_PICKS, where=f"{here}: caption")
        if one.augment:
            settings(one.augment, AUGMENTATIONS, where=f"{here}: augment")
        build_contents(one.contents, where=here)
    for name in config.beside:
        if not name.isidentifier():
            raise InputError(f"{where}: beside: expected a name, got {name!r}")


def words_of(configs: Sequence[RunConfig], *, where: str) -> set[str]:
    """All captions of the data of some stretches, and the phrases of their regions; each source is read once."""
    sources: list[tuple[Spec, list[RegionColumns]]] = []
    for config in configs:
        for one, here in each_data(config, where=where):
            columns = next((columns for spec, columns in sources if spec == one.data), None)
            if columns is None:
                sources.append((one.data, columns := []))
            contents = build_contents(one.contents, where=here)
            if contents is not None and contents.regions is not None:
                columns.append(contents.regions)
    found: set[str] = set()
    for spec, columns in sources:
        source = open_source(spec, where=f"{where}: data")
        for row in (row for block in source.blocks() for row in source.read(block)):
            found.update(row.texts)
            for regions in columns:
                with contextlib.suppress(InputError):  # a bad row, which the loader names
                    found.update(regions.phrases_of(row))
    return found


def make_batches(
    config: RunConfig,
    *,
    encoder: DualEncoder,
    gather: Gather,
    on_bad: Path,
    make_loader: Callable[..., Loader],
    where: str,
) -> Loader | SideBySide:
    """The loader of a stretch.

    Args:
        config: its settings.
        encoder: whose images and tokens they are.
        gather: this process among all.
        on_bad: log of bad rows.
        make_loader: gives the loader of ``data``.
        where: file of the settings, for messages.
    """
    found: Loader | SideBySide | None = None
    for (one, here), name in zip(each_data(config, where=where), ("", *config.beside), strict=True):
        loader = (Loader if name else make_loader)(
            open_source(one.data, where=f"{here}: data"),
            batch_size=one.batch_size or config.batch_size,
            image_spec=encoder.image_spec,
            tokenizer=encoder.tokenizer,
            seed=config.seed,
            rank=gather.rank,
            world=gather.world,
            workers=config.workers,
            caption=build(one.caption, CAPTION_PICKS, where=f"{here}: caption"),
            augment=build(one.augment, AUGMENTATIONS, where=f"{here}: augment") if one.augment else None,
            contents=build_contents(one.contents, where=here),
            on_bad=on_bad,
            strict=config.strict,
        )
        found = loader if found is None else SideBySide(found, second=loader, prefix=name)
    assert found is not None  # there is the run's own
    return found


def each_data(config: RunConfig, *, where: str) -> Iterator[tuple[RunConfig | Beside, str]]:
    """The settings of the run's own data and of those beside it, with their place in the recipe."""
    yield config, where
    for name, one in config.beside.items():
        yield one, f"{where}: beside: {name}"
