"""Models that checks of papers train for themselves, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tether.core.atomic_io import read_json, write_json
from tether.core.cache_folder import cache_dir
from tether_lab.lab import source_index
from tether_lab.lab.trace import SmokeTrace, was_trained

if TYPE_CHECKING:
    from tether.models import Clip

TRAINED = "trained.json"
"""Beside the model: what ``SmokeTrace`` saw while it was trained."""


def cached_model(name: str, *, made_by: Path, facts: object, make: Callable[[Path], object]) -> Path:
    """The folder of a trained model; made at the first call.

    Args:
        name: what the folder's name begins with, for people.
        made_by: the file whose code trains it: an edit of it, or of anything that it uses, finds no old model.
        facts: what else decides the model, as JSON values: seeds, settings, whose texts may name parts.
        make: writes the model into the folder that it is given.
    """
    import torch

    from tether import __version__

    kernels = torch.backends.cpu.get_cpu_capability()  # others end a training elsewhere
    said = json.dumps(facts, sort_keys=True)
    sources = source_index.sources()
    code = sources.fingerprint([made_by], words=re.findall(r"[a-z]\w+", said))
    sources.save()
    known = json.dumps([TRAINED, __version__, torch.__version__, kernels, code, said])
    folder = cache_dir() / "lab" / f"{name}-{hashlib.blake2b(known.encode(), digest_size=12).hexdigest()}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent) as place:
            made = Path(place) / "model"
            with SmokeTrace().open() as trace:
                make(made)
            write_json(made / TRAINED, trace.figures())
            try:
                made.rename(folder)
            except OSError:  # another process finished the same model first
                if not folder.is_dir():
                    raise
    was_trained(read_json(folder / TRAINED))
    return folder


def cached_clip(name: str, teach: Callable[[], Clip], *, made_by: Path, facts: object) -> Clip:
    """A CLIP in evaluation mode, taught at the first call; see ``cached_model``."""
    from tether.models.load import load
    from tether.models.save import save

    folder = cached_model(name, made_by=made_by, facts=facts, make=lambda folder: save(teach(), folder / "model"))
    return cast("Clip", load(folder / "model")).eval()
