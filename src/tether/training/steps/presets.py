"""Steps by name: settings of ``ComposedStep``, each written as a recipe would."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_type_hints

from tether.core.protocols import Objective
from tether.core.ranges import Count, NonNegative, Part, Share, checked
from tether.models.towers.clip import Want
from tether.training.steps.composed import OWN, ComposedStep
from tether.training.steps.views import TEACHER

Settings = dict[str, Any]
_TWINS = {"negative_image": "negative_image", "negative_text": "negative_text"}


class PresetStep(ComposedStep):
    """A step with a name: a subclass says in ``recipe`` what it is made of.

    Its constructor takes what every step takes, then the keywords of ``recipe``, then the settings of its image views;
    so it is checked, and a configuration is held to it, like one that is written out.

    Attributes:
        recipe: from the settings of an image view and keywords of its own to the ``views``, ``terms`` and ``heads`` of
            a ``ComposedStep``.
    """

    recipe: Callable[..., Settings]

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        keep_patches: Part = 1.0,
        patches: str | dict[str, Any] | None = None,
        full_last: Share = 0.0,
        **own: Any,
    ) -> None:
        """See ``ComposedStep`` and ``ImageView``; ``own`` are the keywords of ``recipe``."""
        image = {"keep_patches": keep_patches, "patches": patches, "full_last": full_last}
        super().__init__(objective, steps=steps, seed=seed, **self.recipe(image, **own))

    def __init_subclass__(cls) -> None:
        """Give the class a constructor with all keywords in its signature."""
        super().__init_subclass__()
        if "recipe" not in cls.__dict__:
            return

        def init(self: PresetStep, objective: Objective, **settings: Any) -> None:
            PresetStep.__init__(self, objective, **settings)

        me, objective, steps, seed, *images, _ = inspect.signature(PresetStep.__init__).parameters.values()
        _, *own = inspect.signature(cls.recipe).parameters.values()
        hints = [get_type_hints(function, include_extras=True) for function in (cls.recipe, PresetStep.__init__)]
        init.__signature__ = inspect.Signature([me, objective, steps, seed, *own, *images])  # pyrefly: ignore
        init.__annotations__ = hints[0] | hints[1]
        init.__doc__ = cls.recipe.__doc__
        cls.__init__ = checked(init)


class ContrastiveStep(PresetStep):
    """Images and texts, and the run's objective on them; optionally only some of each image's patches."""

    @staticmethod
    def recipe(image: Settings, *, want: Want = "pooled") -> Settings:
        """See ``ImageView``; ``want="tokens"`` also gives the objective patches and words in the joint space."""
        return {"views": {"image": {**image, "want": want}, "text": {"want": want}}}


class HardNegativeStep(PresetStep):
    """The contrastive step for batches whose rows have twins (NegCLIP, TripletCLIP 2411.02545, CLIP-IN 2508.02329).

    ``batch.extra["negative_text"]`` (b, l) and, if there are any, ``["negative_image"]`` (b, 3, h, w) go through the
    same towers in the same forward; the objective finds them in ``Encoded``. With twins in both modalities a step costs
    about twice as much as one of plain CLIP with the same batch. Where images show only some of their patches, a twin
    shows the same ones.
    """

    @staticmethod
    def recipe(image: Settings, *, roles: Literal["together", "in_turn"] = "together") -> Settings:
        """See ``ImageView``, and who plays the positive.

        Args:
            image: settings of every image view.
            roles: ``together`` gives the objective all there is. ``in_turn`` shows it the pairs and their negative
                captions at even steps, the twins with the pairs' captions as negatives at odd ones: half the images,
                and with the objective ``neg_clip`` TripletCLIP's two terms by turns.
        """
        if roles == "in_turn":
            views = {
                "image": {"source": ["image", "negative_image"], **image},
                "text": {"source": ["text", "negative_text"]},
                "negative_text": {"source": ["negative_text", "text"]},
            }
            return {"views": views, "terms": [{"name": OWN, "negative_text": "negative_text"}]}
        twins = {"negative_image": {**image, "optional": True}, "negative_text": {}}
        return {"views": {"image": image, "text": {}, **twins}, "terms": [{"name": OWN, **_TWINS}]}


class DistillStep(PresetStep):
    """``objective(pairs) + weight * distillation``: the student is held to a teacher's similarities, too.

    It is open_clip's ``distill`` (``--distill-model``): cross-entropy from the teacher's softmax over the batch, at its
    own logit scale, to the student's, mean of both directions. The teacher reads the same images and captions, with its
    own tokenizer, may have embeddings of any width, and is never saved with the model. To pull one tower's embeddings
    to the teacher's, use the term ``distill``.
    """

    @staticmethod
    def recipe(
        image: Settings, *, encoder: str = "start", size: Count | None = None, weight: NonNegative = 1.0
    ) -> Settings:
        """See ``ImageView``, and who teaches.

        Args:
            image: settings of the student's image view; the teacher sees whole images.
            encoder: the teacher, for ``tether.load``; ``start`` is the model before the run, which it is then held to.
            size: pixels of a side of the teacher's images; None leaves the student's.
            weight: of the distillation; open_clip's is 1.
        """
        views = {
            "image": image,
            "text": {},
            "teacher_image": {"source": "image", "encoder": TEACHER, "size": size},
            "teacher_text": {"source": "text", "encoder": TEACHER},
        }
        term = {"name": "similarity", "temperature": None, "form": "cross_entropy", "weight": weight, "as": "distill"}
        teacher = encoder if encoder == "start" else {"load": encoder}
        return {"views": views, "terms": [OWN, term], "teacher": teacher}
