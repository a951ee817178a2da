"""A folder that open_clip, transformers, sentence-transformers and Tether open: who can is tried before it is said."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether.models.convert import open_clip
from tether.models.export import export
from tether.models.load import load
from tether.workflows.publishing.peers import OPENERS, Apart, Library, apart, of_tether, probes

Layout = Literal["open_clip", "transformers", "tether"]
LAYOUTS: Mapping[Library, Layout] = {
    "open_clip": "open_clip",
    "transformers": "transformers",
    "sentence-transformers": "transformers",
}
"""Who opens which layout; Tether opens all."""
TEXTS, IMAGES, PREPARED = 1e-4, 1e-3, 0.02
"""How far numbers of unit embeddings may lie apart: of texts, of images at the model's size, and of others, which each
library resizes in its own way."""
_ON_THE_HUB = "hf_model_name"


@dataclass(frozen=True, slots=True)
class Opened:
    """Whether a library opens the folder.

    Attributes:
        library: its name.
        opens: whether it does, as far as is known.
        version: that it was tried with; empty if it was not.
        apart: how far its embeddings lie from ours; None where it was not tried.
        why: it does not, or was not tried.
    """

    library: str
    opens: bool
    version: str = ""
    apart: Apart | None = None
    why: str = ""


def write_layouts(model: nn.Module, folder: Path, *, repo: str | None) -> list[Opened]:
    """Write every layout that holds the model, and open each with the libraries that are installed.

    A layout that a library opens with other embeddings than ours is taken away again. Where neither open_clip nor
    transformers holds the model, it is written as ``tether.save`` does.

    Args:
        model: what ``tether.load`` gave.
        folder: empty.
        repo: the repository on the hub, which open_clip must be told where it reads a tokenizer there.

    Returns:
        One for each library, ours first.

    Raises:
        InputError: Tether itself finds other embeddings in the folder.
    """
    given = probes(model)
    ours = of_tether(model, given)
    refused: dict[Layout, str] = {}
    for layout in ("transformers", "open_clip"):
        written = folder / f".{layout}"
        try:
            export(model, written, format=layout)
            if layout == "open_clip":
                _portable(written, repo=repo)
        except InputError as error:
            refused[layout] = str(error).removeprefix("export: ").partition("; tether.save")[0]
    found: list[Opened] = []
    for library, layout in LAYOUTS.items():
        if layout in refused:
            found.append(Opened(library, False, why=refused[layout]))
            continue
        found.append(_tried(library, folder / f".{layout}", given, ours))
    for layout in ("transformers", "open_clip"):
        written = folder / f".{layout}"
        if layout not in refused and any(one.opens for one in found if LAYOUTS[cast(Library, one.library)] == layout):
            _merge(written, folder)
        else:
            _remove(written)
    if not any(one.opens for one in found):
        export(model, folder, format="tether")
    again = of_tether(cast(nn.Module, load(folder)), given)
    difference = apart(ours, again)
    if difference.worst > TEXTS:
        raise InputError(
            f"{folder}: the folder was opened again with embeddings that lie {difference.worst:.1e} from the model's; "
            "nothing is published"
        )
    from tether import __version__

    return [Opened("Tether", True, __version__, difference), *found]


def _tried(library: Library, folder: Path, given: Any, ours: Any) -> Opened:
    """Open a folder with another library, without a network."""
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        return Opened(library, True, why="not installed where this folder was made, so not tried")
    if library == "open_clip" and (named := _text_tower(folder)):
        return Opened(library, True, why=f"fetches the description of its text tower {named} from the hub; not tried")
    version, opener = OPENERS[library]
    try:
        difference = apart(ours, opener(folder, given))
    except Exception as error:  # whatever another library makes of a folder
        said = " ".join(str(error).split())
        return Opened(
            library, False, version(), why=f"it fails to open the folder: {type(error).__name__}: {said:.200}"
        )
    if difference.texts > TEXTS or difference.images > IMAGES or difference.prepared > PREPARED:
        why = f"it opens the folder with other embeddings than Tether's: {difference}"
        return Opened(library, False, version(), difference, why)
    return Opened(library, True, version(), difference)


def _text_tower(folder: Path) -> str:
    return str(read_json(folder / open_clip.CONFIG_FILE)["model_cfg"]["text_cfg"].get(_ON_THE_HUB) or "")


def _portable(folder: Path, *, repo: str | None) -> None:
    """Refuse what only this machine could open, and tell open_clip where its tokenizer lies on the hub."""
    path = folder / open_clip.CONFIG_FILE
    values = read_json(path)
    text = values["model_cfg"]["text_cfg"]
    if Path(str(text.get(_ON_THE_HUB) or "")).is_absolute():
        raise InputError("open_clip finds the description of this text tower by the full path of a folder alone")
    if text.get("hf_tokenizer_name") and repo is not None and any(folder.glob("tokenizer*.json")):
        text["hf_tokenizer_name"] = repo
        write_json(path, values)


def _merge(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            path.replace(to)
    _remove(source)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
