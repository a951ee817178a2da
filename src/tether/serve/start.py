"""A service of names: the model and the store are opened, and seen to belong together."""

from __future__ import annotations

from pathlib import Path

from tether.core.errors import InputError
from tether.evaluate.cutoff import Cutoff
from tether.serve.collection import Collection
from tether.serve.limits import ServerLimits
from tether.serve.service import Service
from tether.tasks.classify.remarks import words_of
from tether.tasks.retrieve.search import Searcher
from tether.tasks.retrieve.store import Store
from tether.workflows.calibration import cutoff_of
from tether.workflows.models import Model, opened


def service_of(
    model: Model,
    *,
    store: str | None = None,
    name: str | None = None,
    limits: ServerLimits | None = None,
    allow_urls: bool = False,
    images: Path | None = None,
    device: str = "auto",
    random_weights: bool = False,
) -> Service:
    """A service, ready to be asked.

    Args:
        model: loaded, or a name that ``tether.load`` takes.
        store: what ``tether index`` made of its vectors; None for none.
        name: what clients call the model; None takes its own, of a folder the last part.
        limits: what is taken; None takes the usual ones.
        allow_urls: fetch images that requests name by URL.
        images: the embedded folder, for images without a thumbnail.
        device: where to load the model.
        random_weights: accept a model without trained weights.

    Raises:
        InputError: no such model or store, or a store of another model.
    """
    opened_store = None if store is None else Store.open(store)  # before the model: mistakes first
    encoder, called = opened(model, device=device, random_weights=random_weights)
    collection = None
    if opened_store is not None:
        cutoff = _automatic(encoder, called)
        words = words_of(encoder, name=called)
        collection = Collection(Searcher(opened_store, model=encoder), cutoff=cutoff, images=images, words=words)
    shown = name or (Path(called).resolve().name if Path(called).is_dir() else called)
    return Service(encoder, shown, limits=limits or ServerLimits(), allow_urls=allow_urls, collection=collection)


def _automatic(model: object, name: str) -> Cutoff | None:
    """What ``cutoff: auto`` means of a run that fitted one."""
    try:
        return cutoff_of("auto", model=model, name=name, option="--cutoff")  # pyrefly: ignore - of tether.load
    except InputError:
        return None
