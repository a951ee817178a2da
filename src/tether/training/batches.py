"""The batches of one stretch of a run: its data, and the data sets beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.core.component import build, settings
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.types import Row
from tether.data import open_source
from tether.data.captions import CAPTION_PICKS
from tether.data.loader import Loader, SideBySide
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer
from tether.training.config import Beside, RunConfig, Spec

if TYPE_CHECKING:
    from tether.data.augment import Augment
    from tether.data.contents import BatchContents


def build_contents(given: dict[str, Any], *, where: str) -> BatchContents | None:
    """What batches hold besides plain pairs; None for nothing."""
    if not given:
        return None
    from tether.data.contents import BatchContents

    return build({**given, "name": "contents"}, {"contents": BatchContents}, where=f"{where}: contents")


def _augment(one: RunConfig | Beside, *, where: str) -> Augment | None:
    if not one.augment:
        return None
    from tether.data.augment import AUGMENTATIONS

    return build(one.augment, AUGMENTATIONS, where=f"{where}: augment")


def check_batches(config: RunConfig, *, where: str) -> None:
    """Refuse settings that no part takes, before a row is read."""
    for one, here in each_data(config, where=where):
        settings(one.caption, CAPTION_PICKS, where=f"{here}: caption")
        _augment(one, where=here)
        build_contents(one.contents, where=here)
    for name in config.beside:
        if not name.isidentifier():
            raise InputError(f"{where}: beside: expected a name, got {name!r}")


def words_of(configs: Sequence[RunConfig], *, where: str) -> set[str]:
    """All captions of the data of some stretches, phrases of regions and text pairs; each source is read once."""
    sources: list[tuple[Spec, list[Callable[[Row], Iterable[str]]]]] = []
    for config in configs:
        for one, here in each_data(config, where=where):
            further = next((further for spec, further in sources if spec == one.data), None)
            if further is None:
                sources.append((one.data, further := []))
            contents = build_contents(one.contents, where=here)
            if contents is not None and contents.regions is not None:
                further.append(contents.regions.phrases_of)
            if contents is not None and contents.pairs is not None:
                further.append(contents.pairs.words_of)
    found: set[str] = set()
    for spec, further in sources:
        source = open_source(spec, where=f"{where}: data")
        for row in (row for block in source.blocks() for row in source.read(block)):
            found.update(row.texts)
            for words in further:
                with contextlib.suppress(InputError):  # a bad row, which the loader names
                    found.update(words(row))
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
        pick = build(one.caption, CAPTION_PICKS, where=f"{here}: caption")
        loader = (Loader if name else make_loader)(
            open_source(one.data, where=f"{here}: data"),
            batch_size=one.batch_size or config.batch_size,
            image_spec=encoder.image_spec,
            tokenizer=encoder.tokenizer,
            seed=config.seed,
            rank=gather.rank,
            world=gather.world,
            workers=config.workers,
            caption=pick,
            augment=_augment(one, where=here),
            contents=build_contents(one.contents, where=here),
            on_bad=on_bad,
            strict=config.strict,
        )
        if getattr(pick, "cuts_meant", False) and isinstance(encoder.tokenizer, (ClipTokenizer, FunctionTokenizer)):
            encoder.tokenizer.cuts_meant = True  # its words are more tokens than the context holds, now and then
        found = loader if found is None else SideBySide(found, second=loader, prefix=name)
    assert found is not None  # there is the run's own
    return found


def go_on(loader: Loader | SideBySide, state: Mapping[str, Any], *, config: RunConfig, before: RunConfig) -> None:
    """Take over where the streams of another stretch stood; one of other data or another batch size begins anew.

    Args:
        loader: of this stretch.
        state: what the other's loader gave.
        config: settings of this stretch.
        before: settings of the other.

    Raises:
        InputError: data of the same name are no longer the same.
    """
    now, then = _streams_of(config), _streams_of(before)
    positions = dict(zip(then, _positions(state), strict=True))
    for (name, stream), one in zip(now.items(), _streams(loader), strict=True):
        if then.get(name) == stream:
            one.load_state_dict(positions[name])


def _streams_of(config: RunConfig) -> dict[str, tuple[Spec, int]]:
    """Data and batch size of each stream by name; the run's own has none."""
    each = zip(("", *config.beside), each_data(config, where=""), strict=True)
    return {name: (one.data, one.batch_size or config.batch_size) for name, (one, _) in each}


def _streams(loader: Loader | SideBySide) -> Iterator[Loader]:
    if isinstance(loader, SideBySide):
        yield from _streams(loader.first)
        yield loader.second
    else:
        yield loader


def _positions(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "second" in state:
        yield from _positions(state["first"])
        yield state["second"]
    else:
        yield state


def each_data(config: RunConfig, *, where: str) -> Iterator[tuple[RunConfig | Beside, str]]:
    """The settings of the run's own data and of those beside it, with their place in the recipe."""
    yield config, where
    for name, one in config.beside.items():
        yield one, f"{where}: beside: {name}"
