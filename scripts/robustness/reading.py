"""Every public reader as one function of a path: what the drivers give bombs and mutations to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import numpy as np

Read = Callable[[Path], object]
READS: dict[str, Read] = {}
"""Readers by name; imports are inside, since other checkouts' source is read with them too."""


PLAIN = {
    "decode": "tether.data.images:decode",
    "recipe": "tether.training.config:load_config",
    "curate_recipe": "tether.data.curate.engine.recipe:read_recipe",
    "attribute_lexicon": "tether.methods.saner.lexicon:AttributeLexicon.load",
    "decomposition": "tether.core.decomposition:Decomposition.load",
    "space_state": "tether.space.whiten:Whitener.load",
    "checkpoint": "tether.training.checkpoints:load_checkpoint",
    "report": "tether.evaluate.report:write",
}
"""Readers that are one function of the package."""


def read(function: Read) -> Read:
    """Register a reader under its name."""
    READS[function.__name__] = function
    return function


@read
def lexicon(path: Path) -> object:
    """A file of synonyms, words to leave out and openings."""
    from tether.data.captions.lexicon import lexicon as words_of

    return words_of(str(path))


@read
def model(path: Path) -> object:
    """A model's folder, and its tokenizer on a text."""
    import tether

    loaded = tether.load(path)
    return loaded.tokenizer(["a small red cat"])


@read
def deep(path: Path) -> object:
    """An image of more than 8 bits."""
    from tether.methods.medical_survey.high_bit_depth import read_deep

    return read_deep(path).grey()


@read
def figure(path: Path) -> object:
    """An image of a paper, PDF too."""
    from tether.core.atomic_io import read_bytes
    from tether.methods.scientific_papers.images import resize_for_clip

    return resize_for_clip(read_bytes(path, limit=1 << 28))


def _rows(spec: object) -> int:
    """Every row of a source with its image decoded; a bad row is no error, as in a run."""
    from tether.core.errors import InputError
    from tether.data import open_source
    from tether.data.images import decode

    count, source = 0, open_source(spec)
    for block in source.blocks():
        for row in source.read(block):
            count += 1
            json.dumps([row.key, row.texts]).encode()
            try:
                if row.image is not None:
                    decode(row.image, name=row.key)
            except InputError as error:
                if isinstance(error.__cause__ or error.__context__, MemoryError):
                    raise
    return count


@read
def source(path: Path) -> object:
    """A table, an archive or a folder of images."""
    return _rows(str(path))


@read
def windowed(path: Path) -> object:
    """A source whose images are shown through a window."""
    return _rows({"name": "windowed", "source": str(path)})


@read
def figures(path: Path) -> object:
    """An archive of a paper."""
    return _rows({"name": "figures", "path": str(path)})


@read
def hf(path: Path) -> object:
    """A data set that ``datasets`` saved."""
    return _rows({"name": "hf", "path": str(path)})


@read
def pool(path: Path) -> object:
    """A pool for curation: keys, captions and images."""
    from tether.data.curate.pools.opening import open_pool

    opened = open_pool(str(path))
    return sum(len(rows.keys) for piece in range(opened.pieces()) for rows in opened.read(piece, columns="captions"))


@read
def overrides(path: Path) -> object:
    """Settings of the command line, one a line."""
    from tether.core.atomic_io import read_bytes
    from tether.training.config import load_config

    lines = read_bytes(path, limit=2**20).decode(errors="surrogateescape").split("\n")
    return load_config(overrides=["data=emoji", *filter(None, lines)])


@read
def classes(path: Path) -> object:
    """A list of classes, of templates and of entries."""
    from tether.data.curate.metaclip.metadata import read_entries
    from tether.tasks.classify.prompts import classes_of

    return classes_of(path), read_entries(path)


@read
def bad_rows(path: Path) -> object:
    """The side file of an earlier run."""
    from tether.data.bad_rows import BadRows

    return BadRows("source", path=path).count


@read
def resumed(path: Path) -> object:
    """A run that goes on."""
    from tether.training import load_config, train
    from tether.training.claim import check_recorded

    os.chdir(path)  # a run is known by what it was started with, relative names too
    config = load_config(Path("run/config.yaml"))
    check_recorded(config, given=[], folder=Path("run"))
    return train(config, folder=Path("run"), resume=True)


@read
def curated(path: Path) -> object:
    """A curation that goes on; the pool and the recipe lie beside."""
    from tether.data.curate.engine.recipe import read_recipe
    from tether.data.curate.engine.run import curate
    from tether.data.curate.pools.opening import open_pool

    os.chdir(path)
    return curate(open_pool("pool.parquet"), steps=read_recipe(Path("recipe.yaml")), out=Path("out"))


@read
def datasheet(path: Path) -> object:
    """The page of a curation that is finished."""
    from tether.data.curate.pools.opening import open_pool
    from tether.evaluate.datasheet import write_datasheet

    os.chdir(path)
    return write_datasheet(Path("out"), pool=open_pool("pool.parquet"))


@read
def embedded(path: Path) -> object:
    """An embedding that goes on."""
    from tether.data import open_source
    from tether.models import create
    from tether.tasks.retrieve.embed import embed

    os.chdir(path)
    rows = open_source("pairs.csv")
    return embed(rows, model=create("tiny").eval(), model_name="tiny", out=Path("out"), part_rows=2)


@read
def index(path: Path) -> object:
    """Embeddings that become a store."""
    from tether.tasks.retrieve.index import build_index

    shutil.rmtree(path.with_name("store"), ignore_errors=True)
    return build_index(path, out=path.with_name("store"))


@read
def store(path: Path) -> object:
    """A store: opened, searched and read."""
    from tether.tasks.retrieve.store import Store

    opened = Store.open(path)
    found = opened.search(np.ones(opened.dim, np.float32), top=3)
    return len(opened), found, opened.records(["k1"])


def _named(place: str) -> Read:
    """The function of a module, imported when it is called."""
    module, _, names = place.partition(":")
    return lambda path: attrgetter(names)(import_module(module))(path)


READS |= {name: _named(place) for name, place in PLAIN.items()}
