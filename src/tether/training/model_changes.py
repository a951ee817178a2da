"""What a recipe may ask of a model that it loads: another model made of it."""

from __future__ import annotations

from typing import ClassVar, Protocol

from tether.core.registry import Registry
from tether.training.steps.module import Encoder


class ModelChange(Protocol):
    """Makes another model of a loaded one; its name is a key of the recipe's ``model`` beside ``load``.

    Attributes:
        of_new: whether a new model has a setting of this name, too.
    """

    of_new: ClassVar[bool]

    def __call__(self, encoder: Encoder, settings: object, *, seed: int) -> Encoder:
        """The model that is trained.

        Args:
            encoder: what was loaded, at the sizes of ``resized``.
            settings: what stands under the key.
            seed: seed of the run.

        Raises:
            InputError: settings that do not fit, or a model that cannot be changed so.
        """
        ...


MODEL_CHANGES: Registry[ModelChange] = Registry("model_changes", {})
"""Every change by the key that a recipe has for it."""
