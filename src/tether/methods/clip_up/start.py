"""A run of a model with experts in place of feed-forward nets: ``model: {load: NAME, upcycle: {...}}``."""

from __future__ import annotations

import inspect

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.methods.clip_up.upcycle import upcycle
from tether.models.config_check import mapping
from tether.training.steps.module import Encoder


class Upcycled:
    """A ``ModelChange``: a copy with experts, see ``upcycle``."""

    of_new = False

    def __call__(self, encoder: Encoder, settings: object, *, seed: int) -> Encoder:
        """See ``ModelChange``; experts begin as copies, so nothing is drawn."""
        values = mapping(settings, where="model: upcycle")
        known = [name for name in inspect.signature(upcycle).parameters if name != "model"]
        for key in values:
            if key not in known:
                raise InputError(f"model: upcycle: unknown key {quoted(key)}; {closest(key, known)}")
        try:
            return upcycle(encoder, **values)
        except InputError as error:
            raise InputError(f"model: upcycle: {error}") from error
