"""Whether pairs that a model is measured on are those that it learnt from."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.yaml_files import read_yaml
from tether.data.recorded import open_recorded
from tether.data.sources.split import digest_of, held_out_word, images_of
from tether.training.run_files import CONFIG


def remark(model: str, source: Source) -> str:
    """One sentence where a run learnt from a source, or the empty string.

    Args:
        model: what the model was loaded by; a run's folder says what it learnt from.
        source: what it is measured on.
    """
    try:
        data = _data(model)
        part = isinstance(data, dict) and data.get("name") == "split" and data.get("part") == "train"
        whole = data.get("source") if part and isinstance(data, dict) else data
        if not isinstance(whole, (str, dict)) or source.name != open_recorded(whole, where=model).name:
            return ""
    except InputError:
        return ""
    held = (
        f"; held out was: {held_out_word(whole, data)}"
        if part and isinstance(data, dict) and isinstance(whole, str)
        else ""
    )
    return f"{model} learnt from most of {source.name}, so these figures say little about new images{held}"


def learnt_from(model: str, source: Source, *, most: int) -> int:
    """How many of a source's images a run learnt from, by their bytes; 0 where there is no run, or its data are gone.

    Args:
        model: what the model was loaded by.
        source: the images.
        most: rows looked at, from the first.
    """
    try:
        data = _data(model)
        if not isinstance(data, (str, dict)):
            return 0
        known = set(images_of(open_recorded(data, where=model)).digests.values())
    except InputError:
        return 0
    rows = islice((row for block in source.blocks() for row in source.read(block)), most)
    digests = {digest_of(row.image) for row in rows if row.image is not None and not row.bad}
    return len((digests & known) - {""})


def _data(model: str) -> Any:
    """The data of a run's record, or None where there is no run."""
    path = Path(model) / CONFIG
    values = read_yaml(path) if path.is_file() else None
    return values.get("data") if isinstance(values, dict) else None
