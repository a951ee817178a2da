"""Where the captions of a folder of images or a table may be, when none were found."""

from __future__ import annotations

import re
import shlex
from itertools import islice
from pathlib import Path

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.data.paths import is_image_file, is_url
from tether.data.sources.caption_table import CaptionTable
from tether.data.sources.columns import CAPTION, IMAGE, choose, listed
from tether.data.sources.csv import CsvSource
from tether.data.sources.images import METADATA

_LOOKED_AT = 10_000
"""Files of a folder, at most."""
_TABLES = 20
_PART = re.compile(r" \((training|held-out) part(, its (training|held-out) part)*\)$")
_NOT_IN_SPEC = re.compile(r"[,\[\]]|^\s|\s$")


def caption_advice(name: str) -> str:
    """What to say instead of a folder or table so that its images have captions, as the end of a sentence; or nothing.

    Args:
        name: of a source; what is no local folder, CSV or TSV gets no advice.
    """
    name = _PART.sub("", name)
    try:
        folder = local(name)
        if is_url(name) or _NOT_IN_SPEC.search(name):
            return ""
        if folder.suffix.lower() in (".csv", ".tsv") and folder.is_file():
            return _of_table(folder, name=name)
        if not folder.is_dir():
            return ""
        tables = [each for each in islice(folder.iterdir(), _LOOKED_AT) if each.suffix.lower() in (".csv", ".tsv")]
        for table in sorted(tables)[:_TABLES]:
            settings = _settings(table, is_read=table.name.lower() in METADATA)
            if settings:
                return f"; captions from {table.name}: {shlex.quote(f'csv:path={name}/{table.name},{settings}')}"
        if any(is_image_file(each.name) for each in islice(folder.glob("*/*"), _LOOKED_AT)):
            spec = f"images:path={name},template=a photo of a {{label}}"
            return f"; captions from the names of its folders: {shlex.quote(spec)}"
    except (OSError, ValueError):
        pass
    return ""


def _of_table(table: Path, *, name: str) -> str:
    """The columns of a table without a usual name of captions, and how to say which holds them."""
    columns = CaptionTable(str(table), name=table.name).columns
    if choose(None, guesses=CAPTION, known=columns, what="caption", where="") is not None:
        return ""
    found, settings = f"; its columns: {listed(columns)}", _settings(table, is_read=True)
    if not settings:
        return found
    setting = shlex.quote(f"data.caption={settings.partition('caption=')[2]}")
    return f"{found}; captions, with {setting} after tether train, or as {shlex.quote(f'csv:path={name},{settings}')}"


def _settings(table: Path, *, is_read: bool) -> str:
    """``image=NAME,caption=NAME`` of a table whose columns can be told by its first line, or nothing."""
    try:
        opened = CaptionTable(str(table), name=table.name)
        line = next((line for _, line in opened.lines() if isinstance(line, dict)), {})
        usual = choose(None, guesses=CAPTION, known=line, what="caption", where="")
        if is_read and usual:
            return ""
        cells = {name: str(cell).strip() for name, cell in line.items() if not _NOT_IN_SPEC.search(name)}
        image = next((name for name, cell in cells.items() if is_image_file(cell)), None)
        image = image or choose(None, guesses=IMAGE, known=cells, what="image", where="")
        others = [name for name in cells if name != image]
        caption = usual if usual in others else max(others, key=lambda name: len(cells[name]), default=None)
        if image and caption:
            CsvSource(str(table), image=image, caption=(caption,))
            return f"image={image},caption={caption}"
    except InputError:
        pass
    return ""
