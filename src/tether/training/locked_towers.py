"""Which locked towers of a run have their rows in the feature cache, and why the others have not."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tether.core.errors import InputError, WriteError
from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.composed.encoder import ComposedEncoder
from tether.models.encoders.tower_parts import SIDES, Side, side_parts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.training.batches import each_data
from tether.training.config import Beside, RunConfig
from tether.training.steps.module import Encoder, ViewRows

if TYPE_CHECKING:
    from tether.data.loader import Loader, SideBySide
    from tether.models.composed.cached import CachedEncoder

_log = logging.getLogger("tether.training")
_AMONG = ("first", "first_often", "random", "rewritten")
"""Ways to choose a caption that only choose among those that a row has."""


def resting_sides(model: Encoder) -> set[Side]:
    """The sides whose embedding nothing in a run changes; of a composed encoder, those whose tower rests."""
    try:
        parts = {side: side_parts(model, side) for side in SIDES}
    except InputError:  # an architecture whose sides are not declared
        return set()
    if isinstance(model, ComposedEncoder):
        parts = {"image": {"image": model.parts.image}, "text": {"text": model.parts.text}}
    return {side for side in SIDES if _rest(parts[side])}


def kept_where_resting(model: DualEncoder) -> DualEncoder:
    """The model, its towers that rest behind the feature cache where that can be written to."""
    if not isinstance(model, (Clip, WrappedEncoder)) or not (sides := resting_sides(model)):
        return model
    from tether.models.composed.cached import CachedEncoder

    kept = CachedEncoder(model, sides=sides)
    return kept if all(_cannot_keep(kept, side) is None for side in sides) else model


def kept_at_rest(model: nn.Module, *, images: bool) -> KeptTowers | None:
    """The towers of a tuning that rest in evaluation mode, where their rows can be kept; None if there are none.

    Args:
        model: its parameters at rest or not, and its parts in training mode or not, as the tuning has them.
        images: whether an image has the same pixels each time it comes.
    """
    if not isinstance(model, (Clip, WrappedEncoder)):
        return None
    from tether.models.composed.cached import CachedEncoder

    kept = CachedEncoder(model, sides=())
    for side in sorted(resting_sides(model)):
        parts = side_parts(model, side).values()
        training = any(module.training for part in parts if isinstance(part, nn.Module) for module in part.modules())
        if (images or side == "text") and not training and _cannot_keep(kept, side) is None:
            kept.kept |= {side}
    return KeptTowers(kept) if kept.kept else None


def kept_towers(
    model: Encoder, *, config: RunConfig, loader: Loader | SideBySide, sharding: str, edited: Collection[Side]
) -> KeptTowers | None:
    """The towers of a run whose rows are read from the feature cache; says which that rest are not, and why.

    Args:
        model: on its device, its parameters at rest or not as the run has them.
        config: of the stretch.
        loader: of the batches.
        sharding: of the model over processes.
        edited: sides that compute other than their weights say.
    """
    if config.features == "encode":
        return None
    if isinstance(model, Clip) and hasattr(model.visual, "codec"):
        from tether.training.kept_latents import keep_latents_

        others = (_other_images(one) for one, _ in each_data(config, where=""))
        keep_latents_(model, against=next((reason for reason in others if reason is not None), None))
    if not (resting := sorted(resting_sides(model))):
        return None
    from tether.models.composed.cached import CachedEncoder

    kept = CachedEncoder(model, sides=())
    for side in resting:
        reason = _against(side, model, config=config, loader=loader, sharding=sharding, edited=edited)
        reason = reason or _cannot_keep(kept, side)
        if reason is None:
            kept.kept |= {side}
        else:
            _log.warning("the locked %s tower encodes each batch anew: %s", side, reason)
    return KeptTowers(kept) if kept.kept else None


class KeptTowers:
    """Gives a step the features of views that a resting tower reads.

    Attributes:
        encoder: around the model.
    """

    def __init__(self, encoder: CachedEncoder) -> None:
        """Args: encoder: around the model."""
        self.encoder = encoder
        self._keys: dict[str, bytes] = {}  # of the pixels of this run's rows, which stay while it lasts

    def __call__(self, batch: ViewRows) -> Features | None:
        """The features of a view, or None for one that must be encoded."""
        if batch.side not in self.encoder.kept or not batch.fixed or batch.keep is not None or batch.want != "pooled":
            return None
        if batch.side == "text":
            return self.encoder.encode_text(batch.rows)
        if batch.names is None:
            return self.encoder.encode_image(batch.rows)
        if new := [number for number, name in enumerate(batch.names) if name not in self._keys]:
            from tether.models.composed.cached import pixel_keys

            keys = pixel_keys(batch.rows[new])
            self._keys.update(zip((batch.names[number] for number in new), keys, strict=True))
        return self.encoder.encode_image(batch.rows, keys=[self._keys[name] for name in batch.names])


def _rest(parts: Mapping[str, nn.Module | nn.Parameter]) -> bool:
    """Whether there are parts, and nothing in them learns."""
    return bool(parts) and not any(
        parameter.requires_grad
        for part in parts.values()
        for parameter in (part.parameters() if isinstance(part, nn.Module) else [part])
    )


def _against(
    side: Side,
    model: Encoder,
    *,
    config: RunConfig,
    loader: Loader | SideBySide,
    sharding: str,
    edited: Collection[Side],
) -> str | None:
    """Why the rows of a tower at rest are not kept."""
    for one, _ in each_data(config, where=""):
        changing = _other_images(one) if side == "image" else _other_texts(one)
        if changing is not None:
            return changing
    if loader.rows is None:
        return "the data are streamed, and their rows are not kept"
    if sharding == "fsdp2":
        return "its weights are shared out over the processes"
    if side in edited:
        return "an edit changes what it computes"
    parts = side_parts(model, side)
    if any(getattr(part, "gate", None) is not None for part in parts.values()):
        return "its gates are counted"
    modules = [module for part in parts.values() if isinstance(part, nn.Module) for module in part.modules()]
    if any(isinstance(module, _BatchNorm) and module.training for module in modules):
        return "its batch norms see the whole batch"
    return None


def _other_images(data: RunConfig | Beside) -> str | None:
    """What makes the images of a row others each time it comes."""
    if data.augment is not None:
        return "augment changes the images; augment=null lets its rows be kept"
    if data.contents.get("crops"):
        return "contents: crops shows other windows of the images each time"
    return None


def _other_texts(data: RunConfig | Beside) -> str | None:
    """What makes the texts of a row others each time it comes, beyond a choice among its captions."""
    for pick in (data.caption, *data.contents.get("captions", {}).values()):
        name = pick if isinstance(pick, str) else pick.get("name")
        if name not in _AMONG:
            return f"caption {name} makes other texts each time; caption=random lets its rows be kept"
    return None


def _cannot_keep(kept: CachedEncoder, side: Side) -> str | None:
    try:
        kept.cache(side).check()
    except WriteError as error:
        return f"the cache cannot be written to: {error} (TETHER_CACHE names its folder)"
    return None
